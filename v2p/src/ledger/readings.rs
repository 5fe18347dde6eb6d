//! What is read of the page tables: how the ledger begins, and what it makes of what no event told.

use std::{collections::BTreeMap, ops::Range as Span};

use v2p_common::{PAGE_SHIFT, PageSize, VirtAddr, pagemap::PagemapWord};

use super::{
    AT_A_TIME, IN_SWAP, Ledger, Missed,
    cause::deduced,
    is_nothing, is_same_frame,
    moves::{Change, Moves},
};
use crate::{
    process::maps::USER_END,
    record::{Cause, Move},
    state::PageState,
};

/// How a change was found that no event told.
pub(super) struct Found {
    /// When.
    pub(super) t_ns: u64,
    /// Whether there is a mapping at the page.
    pub(super) mapped: bool,
    /// Whether it may lie in a huge page.
    pub(super) is_huge: bool,
}

impl Ledger {
    /// Enters what pagemap says of a page, without making a move of it. `merged`: it is a page of KSM.
    pub fn seed(&mut self, va: VirtAddr, word: PagemapWord, merged: bool) {
        let page = va.page_number();
        if !self.is_asked(page) {
            return;
        }
        self.pages.put(page, self.state_of_word(word));
        if merged {
            self.merged.insert(page);
        }
    }

    /// Enters that the pages with these numbers, which follow those of the last call, were seeded by a reading that began at `began_ns`:
    /// events on them that are older are in that reading already.
    pub fn seeded(&mut self, pages: Span<u64>, began_ns: u64) {
        self.seedings.add(pages, began_ns);
    }

    /// Whether an event is told by the seeding already.
    pub(super) fn is_seeded(&self, page: u64, t_ns: u64) -> bool {
        self.seedings.has(page, t_ns)
    }

    /// Some events did not come: until everything was read again, a page that is found replaced may have been taken away
    /// before.
    pub fn missed(&mut self) {
        self.missed = Missed::Unread;
        self.read_again(0..USER_END >> PAGE_SHIFT);
    }

    /// Everything between these page numbers is to be read again.
    pub fn read_again(&mut self, pages: Span<u64>) {
        self.doubts.read_again(pages);
    }

    /// The ranges that must be read and [compared](Self::compare) now, by page number, in order and apart.
    pub fn take_unread(&mut self) -> Vec<Span<u64>> {
        if self.missed == Missed::Unread {
            self.missed = Missed::Read;
        }
        self.doubts.take_unread()
    }

    /// Compares what was just read of the pages in `range` with what is known: `words` has those that are not absent, in
    /// order. What differs waits for [`Self::tell_found`].
    pub fn compare(&mut self, range: Span<u64>, words: &[(u64, PagemapWord)]) {
        self.was_read(true);
        let mut at = range.start;
        for (page, word) in words {
            self.compare_absent(at..*page);
            at = page + 1;
            let (state, known) = (self.state_of_word(*word), self.pages.get(*page));
            // In transit from the frame that is known: nothing has moved yet.
            let under_way = matches!(state, PageState::Migrating { .. });
            let is_known = state == known || is_same_frame(known, state);
            if is_known {
                self.contests.stayed(*page);
            }
            if !is_known && !under_way && self.is_asked(*page) {
                self.doubts.found(*page, state);
            }
        }
        self.compare_absent(at..range.end);
    }

    fn compare_absent(&mut self, range: Span<u64>) {
        for (page, _) in self.pages.range(range) {
            self.doubts.found(page, PageState::Absent);
        }
    }

    /// The last comparison was with what may not have been the whole: nothing of it is believed.
    pub fn distrust(&mut self) {
        self.doubts.take_found();
        self.was_read(false);
    }

    /// As [`Self::tell_found`], all moves at once.
    #[cfg(test)]
    pub fn confirm(&mut self, t_ns: u64, mapped: impl Fn(u64) -> bool) -> Vec<Move> {
        let mut moves = Vec::new();
        self.tell_found(t_ns, mapped, &mut |one| moves.push(one));
        moves
    }

    /// Believes what was found by the last comparison and no event has told of since; tells the moves that it makes, some at a time: a large
    /// part of the address space may have changed. `mapped` says whether there is a mapping at a page, by number.
    pub fn tell_found(
        &mut self,
        t_ns: u64,
        mapped: impl Fn(u64) -> bool,
        tell: &mut dyn FnMut(Move),
    ) {
        // One after the other, so that each run stays whole.
        let (mut gone, mut moves) = (Moves::default(), Moves::default());
        self.tell_collapsed(&mut gone);
        self.contests.was_read();
        let young = self.grow_up();
        let found = self.doubts.take_found();
        let mut huge = None;
        for (number, (page, to)) in found.iter().enumerate() {
            let (page, to) = (*page, *to);
            if number % AT_A_TIME == 0 {
                gone.0
                    .drain(..)
                    .chain(moves.0.drain(..))
                    .for_each(&mut *tell);
            }
            let from = self.pages.get(page);
            let merged = self.merged.contains(&page);
            let mapped = mapped(page);
            if to == PageState::Absent && mapped && self.is_not_shown(page, from, merged) {
                continue;
            }
            let how = Found {
                t_ns,
                mapped,
                is_huge: self.doubts.tell_of_collapse() && self.is_in_huge(page, &found, &mut huge),
            };
            let was_so = young.as_ref().is_some_and(|young| young.was_so(page, from));
            let explained = self.doubts.explain(page, from, to, (merged, how.is_huge));
            if was_so && explained.is_none() {
                self.pages.put(page, to);
            } else if from != to {
                self.unseen(page, from, to, how, [&mut gone, &mut moves]);
            }
        }
        self.doubts.retire();
        if self.missed == Missed::Read {
            self.missed = Missed::Nothing;
        }
        gone.0.into_iter().chain(moves.0).for_each(tell);
    }

    /// Whether page `page` may be there in its mapping, though pagemap shows nothing: it takes a VM_PFNMAP mapping for a hole
    /// (walk_page_test, mm/pagewalk.c, 6.1 to 7.3), and a page of hugetlb in migration for none (pagemap_hugetlb_range, fs/proc/task_mmu.c,
    /// 6.1 to 7.3). The latter is read again, and then believed: what ended the migration may have been lost.
    fn is_not_shown(&mut self, page: u64, from: PageState, merged: bool) -> bool {
        if matches!(from, PageState::Device { .. }) {
            return self.doubts.took(page, from, merged).is_none();
        }
        let removal = self
            .doubts
            .explain(page, from, PageState::Absent, (merged, false));
        if removal.is_some() || self.in_transit.remove(&page).is_none() {
            return false;
        }
        self.doubts.touch(page);
        true
    }

    /// Whether the 2 MiB that hold `page` are a huge page, as far as they are asked about, by what was just `found`; `last` is the last
    /// answer.
    fn is_in_huge(
        &self,
        page: u64,
        found: &BTreeMap<u64, PageState>,
        last: &mut Option<(u64, bool)>,
    ) -> bool {
        let first = page & !(PageSize::Pmd.pages() - 1);
        if let Some((_, answer)) = last.filter(|(known, _)| *known == first) {
            return answer;
        }
        let now = |page| {
            found
                .get(&page)
                .copied()
                .unwrap_or_else(|| self.pages.get(page))
        };
        let answer = self.are_one(&(first..first + PageSize::Pmd.pages()), now);
        *last = Some((first, answer));
        answer
    }

    /// A change that no event told in its time: something done to the range may explain it. A page that went and came again is two moves,
    /// of which the first goes to `gone`.
    pub(super) fn unseen(
        &mut self,
        page: u64,
        from: PageState,
        to: PageState,
        how: Found,
        [gone, moves]: [&mut Moves; 2],
    ) {
        let from = match to {
            PageState::Swapped { .. } => from,
            _ => self.went_to_swap(page, from, gone),
        };
        let merged = self.merged.contains(&page);
        let explained = self.doubts.explain(page, from, to, (merged, how.is_huge));
        let (cause, change) = explained.map_or_else(
            || (deduced(from, to, how.mapped), Change::reconciled(how.t_ns)),
            |(cause, change)| (cause, *change),
        );
        // Somebody filled in what the ledger has another page of: that was taken away before, if something is known to have done it; and if it
        // is sure to have, somebody did.
        let may_be_filled = match cause {
            Cause::Cow | Cause::ZeroFill => true,
            Cause::Unknown => {
                matches!(to, PageState::Present { .. } | PageState::Zero)
                    && self.doubts.took(page, from, merged).is_some()
            }
            _ => false,
        };
        if let (PageState::Present { .. } | PageState::Zero, true) = (from, may_be_filled)
            && let Some((why, taken)) = self.doubts.take(page, from, merged)
        {
            gone.push(page, from, PageState::Absent, why, &taken);
            let from = PageState::Absent;
            self.change(page, from, to, Cause::FirstTouch, &change, moves);
            return;
        }
        // A guard region that comes or goes is no page that moves, nor is the slot of what was said to be in swap.
        let is_its_slot = from == IN_SWAP && matches!(to, PageState::Swapped { .. });
        if is_nothing(from) && is_nothing(to) || is_its_slot {
            self.pages.put(page, to);
            return;
        }
        self.change(page, from, to, cause, &change, moves);
    }
}
