//! Where a process lies in physical memory, as a picture.
//!
//! Pages of a translation -> [`survey`] (what there is, cell by cell; constant memory) -> [`draw`] (the picture: [`layout`],
//! title, legend) -> [`svg`] or [`png`], by its [`form`]. With an [`earlier`] translation, [`changes`] says what became of each page since.

pub mod changes;
pub mod draw;
pub mod earlier;
pub mod form;
mod hilbert;
pub mod layout;
pub mod picture;
pub mod png;
#[cfg(test)]
mod sample;
pub mod survey;
pub mod svg;

pub use changes::Changes;
pub use earlier::Earlier;
pub use form::Form;
pub use layout::Layout;
pub use picture::Picture;
pub use survey::Survey;

#[cfg(test)]
mod tests;
