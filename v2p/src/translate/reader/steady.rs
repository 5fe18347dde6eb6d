//! Pages that one route alone can tell, as long as they do not change: many are asked about at once.

use std::ops::Range;

use anyhow::Result;
use v2p_common::{
    PAGE_SIZE, VirtAddr,
    pte::{Entry, Level},
};

use super::Translator;
use crate::{
    process::Pagemap,
    translate::{block::Block, settle::ATTEMPTS, walker::pages},
};

/// Which pages of some that follow each other are the same in each reading.
#[derive(Default)]
pub(super) struct Steady {
    first: u64,
    same: Vec<bool>,
    last: Vec<Said>,
}

/// What the routes said of a page; `None`: a route said nothing.
type Said = Option<(u64, Level, Entry)>;

impl Steady {
    /// Of `pages` pages from number `first` on; none was read yet.
    fn new(first: u64, pages: usize) -> Self {
        Self {
            first,
            same: vec![true; pages],
            last: Vec::new(),
        }
    }

    /// Takes a reading of all.
    fn read(&mut self, said: Vec<Said>) {
        for (i, same) in self.same.iter_mut().enumerate() {
            let now = said.get(i).copied().flatten();
            let is_first = self.last.is_empty();
            *same &= now.is_some() && (is_first || self.last.get(i) == Some(&now));
        }
        self.last = said;
    }

    /// Whether none was asked about.
    pub(super) const fn is_none(&self) -> bool {
        self.same.is_empty()
    }

    /// Whether the page at `va` is one.
    pub(super) fn has(&self, va: VirtAddr) -> bool {
        let index = va.page_number().checked_sub(self.first);
        let index = index.and_then(|index| usize::try_from(index).ok());
        index.is_some_and(|index| self.same.get(index) == Some(&true))
    }
}

impl Translator {
    /// Reads all pages of `span` again, as often as one alone would be asked about, and finds those that stay the same. What is read last stays for
    /// [`Self::read_last`]. `None`: the address space is gone.
    pub(super) fn ask_all_again(
        &mut self,
        pagemap: &Pagemap,
        span: Range<u64>,
    ) -> Result<Option<Steady>> {
        let pages = pages(span.start, span.end)?;
        let mut steady = Steady::new(span.start / PAGE_SIZE, pages);
        for _ in 0..ATTEMPTS {
            if !self.words(pagemap, span.start, span.end)? {
                return Ok(None);
            }
            let said = |block: Block<'_>| (0..block.pages).map(|i| block.said(i)).collect();
            let said = self.read_last(span.clone())?.map(said);
            steady.read(said.collect::<Vec<Vec<Said>>>().concat());
        }
        Ok(Some(steady))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_changes_or_is_not_told_in_any_reading_is_not_steady() {
        let said = |entry| Some((0, Level::Pte, Entry(entry)));
        let all = || vec![said(1), said(2), said(3), said(4)];
        let changed = |at: usize, to: Said| {
            let mut said = all();
            said[at] = to;
            said
        };
        let mut steady = Steady::new(0x1000, 4);
        steady.read(changed(0, said(9)));
        steady.read(all());
        steady.read(changed(1, None));
        steady.read(changed(3, said(9)));
        let has = |page: u64| steady.has(VirtAddr(page * PAGE_SIZE));
        let found = [0xfff, 0x1000, 0x1001, 0x1002, 0x1003, 0x1004].map(has);
        assert_eq!(found, [false, false, false, true, false, false]);
        assert!(!steady.is_none() && Steady::default().is_none());
    }
}
