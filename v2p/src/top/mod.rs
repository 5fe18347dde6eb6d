//! A live view of a watch: its records -> [`app`] (what there is to show, and what keys do) -> [`view`] (lines), with how much each
//! mapping has, read now and then by [`sample`]. [`screen`] has the terminal, `keys` what is pressed.

pub mod app;
mod keys;
mod mappings;
pub mod sample;
pub mod screen;
pub mod series;
pub mod view;

pub use app::App;
pub use screen::Top;
