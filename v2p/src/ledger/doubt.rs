//! Doubts: ranges of which it is known that something was done to them, but not what came of it. They are read
//! again, and what differs from the ledger waits a moment for an event that tells more before it is believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use v2p_common::control::BLOCK_PAGES;

use super::{cause::Deed, moves::Change, page_set::PageSet};
use crate::{record::Cause, state::PageState};

const BLOCK: u64 = BLOCK_PAGES as u64;

/// Of more doubts than this only the ranges are kept: they are read, and explain nothing.
const MANY: usize = 1024;

/// A huge page came, not known where.
const SOMEWHERE: Deed = Deed::Collapse { there: false };

/// Something was done to some pages.
struct Doubt {
    deed: Deed,
    pages: Range<u64>,
    change: Change,
    /// Pages that it says nothing of any more: it has explained their removal, or they came after it.
    used: PageSet,
    /// Whether they were read since.
    read: bool,
}

impl Doubt {
    fn is_about(&self, page: u64) -> bool {
        self.pages.contains(&page) && !self.used.contains(page)
    }
}

/// All doubts.
#[derive(Default)]
pub(super) struct Doubts {
    doubts: Vec<Doubt>,
    /// Blocks with a fault in them: the kernel may have mapped neighbours of the page too (fault-around, large folios).
    touched: BTreeSet<u64>,
    /// Ranges to be read without a reason.
    plain: Vec<Range<u64>>,
    /// Pages that were found otherwise than the ledger has them.
    candidates: BTreeMap<u64, PageState>,
}

impl Doubts {
    pub(super) fn add(&mut self, deed: Deed, pages: Range<u64>, change: Change) {
        // Where there are many, what lies beside it is one with it, and has its time.
        let may_grow = self.doubts.len() >= MANY / 2;
        if let Some(last) = self.doubts.last_mut()
            && !last.read
            && last.deed == deed
            && last.change.by == change.by
            && (last.pages == pages
                || may_grow && pages.start <= last.pages.end && last.pages.start <= pages.end)
        {
            last.pages = last.pages.start.min(pages.start)..last.pages.end.max(pages.end);
            if last.used.remove(&pages) {
                last.change = change;
            }
            return;
        }
        if self.doubts.len() < MANY {
            self.doubts.push(Doubt {
                deed,
                pages,
                change,
                used: PageSet::default(),
                read: false,
            });
        } else {
            self.plain.push(pages);
        }
    }

    /// `page` was there at the event of number `seq`: what was done before that did not take it away later.
    pub(super) fn came(&mut self, page: u64, seq: u64) {
        for doubt in &mut self.doubts {
            if doubt.pages.contains(&page) && doubt.change.seq.is_some_and(|done| done < seq) {
                doubt.used.insert(page);
            }
        }
    }

    /// A fault was served in the block of `page`.
    pub(super) fn touch(&mut self, page: u64) {
        self.touched.insert(page / BLOCK);
    }

    /// Everything in `pages` is to be read.
    pub(super) fn read_again(&mut self, pages: Range<u64>) {
        self.plain.push(pages);
    }

    /// An event has told of these pages.
    pub(super) fn settle(&mut self, pages: Range<u64>) {
        if self.candidates.is_empty() {
            return;
        }
        let told: Vec<u64> = self
            .candidates
            .range(pages)
            .map(|(page, _)| *page)
            .collect();
        for page in told {
            self.candidates.remove(&page);
        }
    }

    /// What was done to `page` that explains this change: the latest; but what took it away is the first that was done since it came, if
    /// that was done to all of its pages. `merged`: it was a page of KSM; `huge`: it may lie in a huge page now.
    pub(super) fn explain(
        &self,
        page: u64,
        from: PageState,
        to: PageState,
        (merged, huge): (bool, bool),
    ) -> Option<(Cause, &Change)> {
        if to == PageState::Absent {
            let (doubt, cause) = self.removal(page, from, merged, false)?;
            return Some((cause, &doubt.1.change));
        }
        let about = self.about(page).map(|(_, doubt)| doubt);
        about
            .filter(|doubt| huge || doubt.deed != SOMEWHERE)
            .filter_map(|doubt| Some((doubt.deed.cause(page, from, to, merged)?, &doubt.change)))
            .last()
    }

    /// What is sure to have taken `page` away, the first since it came.
    pub(super) fn took(
        &self,
        page: u64,
        from: PageState,
        merged: bool,
    ) -> Option<(Cause, &Change)> {
        let (doubt, cause) = self.removal(page, from, merged, true)?;
        Some((cause, &doubt.1.change))
    }

    /// What took `page` away, which is known to have gone; it explains that once.
    pub(super) fn take(
        &mut self,
        page: u64,
        from: PageState,
        merged: bool,
    ) -> Option<(Cause, Change)> {
        let ((at, _), cause) = self.removal(page, from, merged, false)?;
        let doubt = self.doubts.get_mut(at)?;
        doubt.used.insert(page);
        Some((cause, doubt.change))
    }

    /// Where `page` went, if what is sure to have taken it away took it elsewhere; it explains that once, and what was done before took
    /// nothing away there.
    pub(super) fn left(
        &mut self,
        page: u64,
        from: PageState,
        merged: bool,
    ) -> Option<(u64, Change)> {
        let ((at, _), _) = self.removal(page, from, merged, true)?;
        let doubt = self.doubts.get_mut(at)?;
        let Deed::Leave { on } = doubt.deed else {
            return None;
        };
        doubt.used.insert(page);
        let (there, change) = (page.wrapping_add(on), doubt.change);
        if let Some(seq) = change.seq {
            self.came(there, seq);
        }
        Some((there, change))
    }

    /// Whether `page` went to swap first, of all that was done since it came.
    pub(super) fn swapped(&self, page: u64, from: PageState, merged: bool) -> Option<&Change> {
        let (cause, change) = self.took(page, from, merged)?;
        (cause == Cause::SwapOut).then_some(change)
    }

    /// Whether KSM may have merged `page`.
    pub(super) fn may_be_merged(&self, page: u64) -> bool {
        let mut about = self.doubts.iter().filter(|doubt| doubt.is_about(page));
        about.any(|doubt| doubt.deed == Deed::Merge)
    }

    /// Whether a huge page came, not known where.
    pub(super) fn tell_of_collapse(&self) -> bool {
        self.doubts.iter().any(|doubt| doubt.deed == SOMEWHERE)
    }

    /// The first since `page` came that may have taken it away, those first that are sure to have.
    fn removal(
        &self,
        page: u64,
        from: PageState,
        merged: bool,
        only_sure: bool,
    ) -> Option<((usize, &Doubt), Cause)> {
        let removals = || {
            let about = self.about(page);
            about.filter_map(|one| Some((one, one.1.deed.removes(page, from, merged)?)))
        };
        let sure = removals().find(|((_, doubt), _)| doubt.deed.is_sure());
        sure.or_else(|| removals().next().filter(|_| !only_sure))
    }

    /// What was done to `page`, in order, with its place.
    fn about(&self, page: u64) -> impl Iterator<Item = (usize, &Doubt)> {
        let all = self.doubts.iter().enumerate();
        all.filter(move |(_, doubt)| doubt.is_about(page))
    }

    /// The ranges that must be read now, in order and apart; they count as read.
    pub(super) fn take_unread(&mut self) -> Vec<Range<u64>> {
        for doubt in &mut self.doubts {
            if !doubt.read {
                doubt.read = true;
                self.plain.push(doubt.pages.clone());
            }
        }
        let blocks = std::mem::take(&mut self.touched).into_iter();
        let mut all = std::mem::take(&mut self.plain);
        all.extend(blocks.map(|block| block * BLOCK..(block + 1) * BLOCK));
        all.sort_by_key(|range| range.start);
        let mut apart: Vec<Range<u64>> = Vec::new();
        for range in all {
            match apart.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => apart.push(range),
            }
        }
        apart
    }

    /// `page` was found to be `state`, which the ledger does not have.
    pub(super) fn found(&mut self, page: u64, state: PageState) {
        self.candidates.insert(page, state);
    }

    /// Whether `page` was found otherwise, which is not believed yet.
    pub(super) fn is_found(&self, page: u64) -> bool {
        self.candidates.contains_key(&page)
    }

    /// The pages that were found otherwise, and that no event has told of since.
    pub(super) fn take_found(&mut self) -> BTreeMap<u64, PageState> {
        std::mem::take(&mut self.candidates)
    }

    /// Forgets what was read and compared.
    pub(super) fn retire(&mut self) {
        self.doubts.retain(|doubt| !doubt.read);
    }
}
