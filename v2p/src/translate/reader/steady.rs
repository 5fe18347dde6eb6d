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
    translate::{settle::ATTEMPTS, walker::pages},
};

/// Which pages of some that follow each other did not change.
#[derive(Default)]
pub(super) struct Steady {
    first: u64,
    same: Vec<bool>,
}

impl Steady {
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

/// What the routes said of a page; `None`: a route said nothing.
type Said = Option<(u64, Level, Entry)>;

impl Translator {
    /// Reads all pages of `span` again, as often as one alone would be asked about, and finds those that stay the same. What is read last stays for
    /// [`Self::read_last`]. `None`: the address space is gone.
    pub(super) fn ask_all_again(
        &mut self,
        pagemap: &Pagemap,
        span: Range<u64>,
    ) -> Result<Option<Steady>> {
        let mut same = vec![true; pages(span.start, span.end)?];
        let mut before: Vec<Said> = Vec::new();
        for _ in 0..ATTEMPTS {
            if !self.words(pagemap, span.start, span.end)? {
                return Ok(None);
            }
            let said: Vec<Said> = self.said(span.clone())?;
            for ((same, said), before) in same.iter_mut().zip(&said).zip(&before) {
                *same &= said == before;
            }
            for (same, said) in same.iter_mut().zip(&said) {
                *same &= said.is_some();
            }
            before = said;
        }
        let first = span.start / PAGE_SIZE;
        Ok(Some(Steady { first, same }))
    }

    fn said(&self, span: Range<u64>) -> Result<Vec<Said>> {
        let blocks = self.read_last(span)?;
        Ok(blocks
            .flat_map(|block| (0..block.pages).map(move |i| block.said(i)))
            .collect())
    }
}
