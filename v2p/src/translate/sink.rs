//! Who takes the pages of a translation.

use anyhow::Result;
use v2p_common::{PAGE_SIZE, VirtAddr};

use super::{page::Page, plain::Plain};

/// Takes pages in the order of their addresses, each once.
pub trait Sink {
    /// Takes `pages` pages that are alike and lie one after the other, the first being `page`.
    ///
    /// # Errors
    /// The sink's own; the translation ends with it.
    fn page(&mut self, page: Page, pages: u64) -> Result<()>;

    /// Takes `pages` pages that were looked at and hold nothing, the first being `page`. One by one, unless the
    /// sink knows better.
    ///
    /// # Errors
    /// As [`Self::page`].
    fn nothing(&mut self, page: Page, pages: u64) -> Result<()> {
        (0..pages).try_for_each(|i| {
            let va = VirtAddr(page.va.0 + i * PAGE_SIZE);
            self.page(Page { va, ..page }, 1)
        })
    }

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
