//! A picture as the bytes of a file that is not too large. Pure.

use anyhow::Result;

use super::{
    Changes, Layout, Survey,
    draw::{self, Subject},
    png, svg,
};

/// A file that is larger is drawn with larger cells.
pub const LARGEST: usize = 2_000_000;

/// The form of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Lines and letters, which say what they are to who points at them.
    Svg,
    /// Pixels.
    Png,
}

impl Form {
    /// The file's bytes; with larger cells where they would be too many.
    ///
    /// # Errors
    /// Where the picture is too large to be drawn.
    pub fn write(
        self,
        layout: &Layout,
        survey: &Survey,
        changes: Option<&Changes>,
        subject: &Subject,
    ) -> Result<Vec<u8>> {
        let mut coarser = 0;
        loop {
            let picture = draw::draw(layout, survey, changes, subject, coarser);
            let bytes = match self {
                Self::Svg => svg::write(&picture).into_bytes(),
                Self::Png => png::write(&picture)?,
            };
            if bytes.len() <= LARGEST || coarser >= layout.depth() {
                return Ok(bytes);
            }
            coarser += 1;
        }
    }
}
