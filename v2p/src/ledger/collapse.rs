//! Base pages that were collapsed into a huge one: what a fault finds of it before who did it tells, and what lies in a huge page.

use std::ops::Range as Span;

use v2p_common::{
    PAGE_SHIFT,
    control::BLOCK_PAGES,
    event::{Event, how},
};

use super::{
    Ledger,
    cause::filled,
    moves::{Change, Moves},
};
use crate::{record::Cause, state::PageState};

/// Base pages in a huge page of 2 MiB.
const HUGE: u64 = BLOCK_PAGES as u64;

/// A huge page that a fault found in the place of base pages, and that is not told yet.
pub(super) struct Collapsed {
    /// Its first page, and what that is.
    first: u64,
    state: PageState,
    change: Change,
}

impl Ledger {
    /// A fault found the huge page of `state` at `first` in the place of base pages.
    pub(super) fn found_collapsed(
        &mut self,
        first: u64,
        state: PageState,
        fault: &Change,
        moves: &mut Moves,
    ) {
        self.collapsed = Some(Collapsed {
            first,
            state,
            // It was hardly the one who came too late for it.
            change: Change { by: None, ..*fault },
        });
        // Where functions have hooks, who did it tells so as it ends, which is after the page is there.
        if !self.weighs || !self.sees_removals {
            self.tell_collapsed(moves);
        }
    }

    /// Tells of the collapse that a fault found, as far as its own event did not.
    pub(super) fn tell_collapsed(&mut self, moves: &mut Moves) {
        let Some(Collapsed {
            first,
            state,
            change,
        }) = self.collapsed.take()
        else {
            return;
        };
        for page in first..first + HUGE {
            let (from, to) = (self.pages.get(page), state.advanced(page - first));
            let merged = self.merged.contains(&page);
            let is_replaced = filled(from, to, merged) == Some(Cause::Cow);
            if from != to && is_replaced && self.is_asked(page) {
                let by = self.known_collapse(page, from, to, merged);
                let by = by.unwrap_or(change);
                self.change(page, from, to, Cause::Collapse, &by, moves);
            }
        }
    }

    /// Whether this event is the end of the collapse that a fault found.
    pub(super) fn ends_collapse(&self, event: &Event) -> bool {
        match (event, &self.collapsed) {
            (Event::Look(look), Some(found)) if look.how == how::COLLAPSE => {
                let pages = look.va >> PAGE_SHIFT..(look.va.saturating_add(look.len)) >> PAGE_SHIFT;
                pages.contains(&found.first)
            }
            _ => false,
        }
    }

    /// Who put a huge page in the place of the base pages around `page`, and when, where that is known.
    pub(super) fn known_collapse(
        &self,
        page: u64,
        from: PageState,
        to: PageState,
        merged: bool,
    ) -> Option<Change> {
        let known = self.doubts.explain(page, from, to, (merged, true));
        known
            .filter(|(cause, _)| *cause == Cause::Collapse)
            .map(|(_, change)| *change)
    }

    /// Whether these pages lay in one huge page, as far as those of them say that are asked about.
    pub(super) fn is_huge(&self, pages: &Span<u64>) -> bool {
        self.are_one(pages, |page| self.pages.get(page))
    }

    /// The same, by what `state` says.
    pub(super) fn are_one(&self, pages: &Span<u64>, state: impl Fn(u64) -> PageState) -> bool {
        let mut first = None;
        for page in pages.clone().filter(|page| self.is_asked(*page)) {
            let PageState::Present { pfn } = state(page) else {
                return false;
            };
            let base = pfn.0.wrapping_sub(page - pages.start);
            if pfn.0 % HUGE != page % HUGE || first.is_some_and(|first| first != base) {
                return false;
            }
            first = Some(base);
        }
        first.is_some()
    }
}
