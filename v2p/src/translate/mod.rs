//! From virtual addresses to frames, by pagemap, by a walk of the page tables, or by both side by side.
//!
//! Mappings -> populated parts ([`parts`]) -> blocks read in bulk ([`reader`]) -> the caller's [`Sink`], plain pages many at
//! a time and undecoded ([`plain`]), others with a state and a verdict each ([`page`]); where flags are asked for, page by page, once a
//! second thread has read them (`ahead`) -> runs ([`run`]). Nothing is
//! kept: memory is constant.

mod ahead;
mod block;
mod both;
pub mod finder;
mod frames;
mod kernel_half;
#[cfg(test)]
mod made_up;
pub mod page;
pub mod parts;
pub mod plain;
pub mod reader;
mod route;
pub mod run;
mod settle;
pub mod sink;
mod walker;

pub use both::Both;
pub use finder::{Finder, Wanted};
pub(crate) use frames::leaf_is_bad;
pub use page::Page;
pub use plain::Plain;
pub use reader::Translator;
pub use route::Route;
pub use run::Run;
pub use sink::Sink;

pub use crate::state::{Totals, Verdict};
