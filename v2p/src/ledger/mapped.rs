//! Pages of a file that the kernel maps for a fault: its own, and the neighbours that it finds in the page cache (fault-around).

use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE,
    event::{Around, Look, mapped},
    pte::{Entry, Level},
};

use super::{
    Ledger, Missed, is_nothing,
    moves::{Change, Moves},
};
use crate::{record::Cause, state::PageState};

impl Ledger {
    /// The kernel found nothing at all of these addresses, and has put pages there.
    pub(super) fn mapped(&mut self, look: &Look, moves: &mut Moves) {
        self.contests.heard(look.header.tid);
        let first = look.va >> PAGE_SHIFT;
        let pages = first..look.va.saturating_add(look.len).div_ceil(PAGE_SIZE);
        let leaf = Level::from_u32(look.level)
            .filter(|level| *level == Level::Pte)
            .and_then(|level| self.states_of_entry(look.va, level, Entry(look.entry)));
        let Some((_, state @ PageState::Present { .. })) = leaf else {
            // What came is not known.
            self.doubts.touch(first);
            return;
        };
        let change = Change::of(&look.header);
        let contested = self.weighs && look.detail & mapped::CONTESTED != 0;
        // One after the other, so that each run stays whole.
        let (mut gone, mut come) = (Moves::default(), Moves::default());
        for page in pages {
            if !self.is_asked(page) || self.is_seeded(page, change.t_ns) {
                continue;
            }
            let to = state.advanced(page - first);
            let mut from = self.pages.get(page);
            if !is_nothing(from) {
                let merged = self.merged.contains(&page);
                let taken = self.doubts.take(page, from, merged);
                if taken.is_none() && (contested || from == to) {
                    // What took it away is to be told yet.
                    self.doubts.touch(page);
                    continue;
                }
                // By whom, and why, nothing told: not by who needed it.
                let untold = (Cause::Unknown, Change { by: None, ..change });
                let (cause, taken) = taken.unwrap_or(untold);
                gone.push(page, from, PageState::Absent, cause, &taken);
                from = PageState::Absent;
            }
            self.change(page, from, to, Cause::FirstTouch, &change, &mut come);
            if contested {
                self.contests.add(page, &look.header);
            }
        }
        moves.0.extend(gone.0);
        moves.0.extend(come.0);
    }

    /// Pages of a file may have come here, for a fault: those of which nothing was known, and those that are sure to have been taken away, also
    /// where they came back in the frames that they had. What is dirty was written to, by a fault that tells of it; and what something else may
    /// have brought, the reading tells.
    pub(super) fn around(&mut self, around: &Around, moves: &mut Moves) {
        self.contests.heard(around.header.tid);
        // What is not known may have been there before.
        if self.young.is_some() || self.missed != Missed::Nothing {
            return;
        }
        let change = Change::of(&around.header);
        let first = around.va >> PAGE_SHIFT;
        // One after the other, so that each run stays whole.
        let (mut gone, mut come) = (Moves::default(), Moves::default());
        for (page, entry) in (first..).zip(around.entries.map(Entry)) {
            let (_, to) = match self.states_of_entry(page << PAGE_SHIFT, Level::Pte, entry) {
                Some(leaf @ (_, PageState::Present { .. })) if !entry.is_dirty() => leaf,
                _ => continue,
            };
            let from = self.pages.get(page);
            if !self.is_asked(page) || self.is_seeded(page, change.t_ns) {
                continue;
            }
            if !is_nothing(from) {
                if let Some((cause, taken)) = self.taken_away(page, from) {
                    gone.push(page, from, PageState::Absent, cause, &taken);
                    let from = PageState::Absent;
                    self.change(page, from, to, Cause::FirstTouch, &change, &mut come);
                }
                continue;
            }
            let is_explained = self.doubts.is_found(page)
                || self
                    .doubts
                    .explain(page, from, to, (false, false))
                    .is_some();
            if !is_explained {
                self.change(page, from, to, Cause::FirstTouch, &change, &mut come);
            }
        }
        moves.0.extend(gone.0);
        moves.0.extend(come.0);
    }

    /// What is sure to have taken `page` away since it came, and not elsewhere; it explains that once.
    fn taken_away(&mut self, page: u64, from: PageState) -> Option<(Cause, Change)> {
        let merged = self.merged.contains(&page);
        let (cause, _) = self.doubts.took(page, from, merged)?;
        if cause == Cause::Remap {
            return None;
        }
        self.doubts.take(page, from, merged)
    }
}
