//! From virtual addresses to frames, by pagemap, by a walk of the page tables, or by both side by side.
//!
//! Mappings -> populated parts ([`parts`]) -> pages read in bulk ([`reader`]) -> a state and a verdict each
//! ([`page`]) -> runs ([`run`]) -> the caller's sink. Nothing is kept: memory is constant.

mod both;
mod kernel_half;
pub mod page;
pub mod parts;
pub mod reader;
pub mod run;
mod settle;

pub use both::{Agreement, Both};
pub use page::{Page, Verdict};
pub use reader::{Route, Translator};
pub use run::{Run, Totals};
