//! Who takes the pages of a translation.

use anyhow::Result;

use super::{page::Page, plain::Plain};

/// Takes pages in the order of their addresses, each once.
pub trait Sink {
    /// Takes `pages` pages that are alike and lie one after the other, the first being `page`.
    ///
    /// # Errors
    /// The sink's own; the translation ends with it.
    fn page(&mut self, page: Page, pages: u64) -> Result<()>;

    /// Takes pages that are what pages mostly are, undecoded. One by one, unless the sink knows better.
    ///
    /// # Errors
    /// As [`Self::page`].
    fn plain(&mut self, pages: &Plain<'_>) -> Result<()> {
        pages.pages().try_for_each(|page| self.page(page, 1))
    }
}

impl<F: FnMut(Page, u64) -> Result<()>> Sink for F {
    fn page(&mut self, page: Page, pages: u64) -> Result<()> {
        self(page, pages)
    }
}
