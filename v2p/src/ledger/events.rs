//! What each event does to the ledger.

use std::ops::Range as Span;

use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, PageSize, VirtAddr,
    event::{self, fault, how, remap, zap},
    pte::{Entry, EntryState, Level},
};

use super::{
    AT_A_TIME, Ledger,
    cause::{Deed, Memory, filled},
    moves::{Change, Moves, Tell},
};
use crate::{record::Cause, state::PageState};

/// The pages under the leaf that holds `va` at `level`.
pub(super) fn under_leaf(va: u64, level: Level) -> Span<u64> {
    let pages = level.page_size().map_or(1, PageSize::pages);
    let first = va >> PAGE_SHIFT & !(pages - 1);
    first..first + pages
}

/// What no fault brings: it ends well where the page is there.
const fn is_away(state: PageState) -> bool {
    matches!(state, PageState::Absent | PageState::Swapped { .. })
}

impl Ledger {
    /// The states that an entry gives to the pages under it; `None`: it leads to a lower table. An empty entry speaks for
    /// the page at `va` alone.
    pub(super) fn states_of_entry(
        &self,
        va: u64,
        level: Level,
        entry: Entry,
    ) -> Option<(Span<u64>, PageState)> {
        let state = entry.state(level, self.paging.physical_mask);
        let pages = match state {
            EntryState::Table(_) => return None,
            EntryState::Empty => va >> PAGE_SHIFT..(va >> PAGE_SHIFT) + 1,
            _ => under_leaf(va, level),
        };
        // Address 0 stands for the first page of any leaf.
        let state = self.decoder.entry(level, entry, VirtAddr(0)).0;
        Some((pages, self.settled(state)))
    }

    pub(super) fn fault(&mut self, fault: &event::Fault, moves: &mut Moves) {
        let Some(level) = Level::from_u32(fault.level) else {
            // The walk could not read a table: what came is not known.
            self.doubts.touch(fault.va >> PAGE_SHIFT);
            return;
        };
        let leaf = self.states_of_entry(fault.va, level, Entry(fault.entry));
        let Some((pages, state)) = leaf else {
            return;
        };
        if self.is_seeded(pages.start, fault.header.t_ns)
            || matches!(state, PageState::Migrating { .. })
        {
            // Told already; or under way: the event that ends it tells the frame.
            return;
        }
        let change = Change::of(&fault.header);
        let there = fault.flags & fault::PROTECTION != 0;
        let contested = self.is_contested(fault);
        let was_huge = self.is_huge(&pages);
        // A page may have come back in the frame that it had. With more threads, another may have brought it before this fault ended, and
        // before its removal was told. Where removals come as events it is known to be away.
        let was_empty = fault.flags & fault::EMPTY != 0;
        let came_back = was_empty
            && (level == Level::Pte || was_huge)
            && !self.sees_removals
            && !self.contests.has_rivals();
        // One after the other, so that each run stays whole.
        let (mut gone, mut come) = (Moves::default(), Moves::default());
        let mut collapsed = false;
        for page in pages.clone() {
            self.in_transit.remove(&page);
            self.told(page);
            let to = state.advanced(page - pages.start);
            let mut from = self.pages.get(page);
            if !self.is_asked(page) {
                continue;
            }
            let merged = self.merged.contains(&page);
            if !there && from != to {
                from = self.went_to_swap(page, from, &mut gone);
            }
            // Not there when the fault came, but the ledger has it: it was taken away before, and we may know by what.
            let was_away = !there && (from != to || came_back);
            let taken = was_away.then(|| self.doubts.take(page, from, merged));
            let taken = taken.flatten();
            let is_as_before = from == to && taken.is_none();
            if let Some((cause, taken)) = taken {
                gone.push(page, from, PageState::Absent, cause, &taken);
                from = PageState::Absent;
            }
            if is_as_before {
                self.weigh(page, &fault.header, contested);
                continue;
            }
            if self.weighs && from != to && is_away(to) {
                // It was there and went, or went to swap, while the fault was served: what took it tells, or the reading.
                self.pages.put(page, from);
                self.doubts.touch(page);
                continue;
            }
            let cause = match filled(from, to, merged) {
                // Nothing puts a huge page in the place of base pages within a fault: they were collapsed, and this is
                // the fault that finds it.
                Some(Cause::Cow) if level == Level::Pmd && !was_huge => {
                    collapsed = true;
                    continue;
                }
                filled => self.cause_of_fault(fault, page, from, filled, contested),
            };
            self.change(page, from, to, cause, &change, &mut come);
            self.weigh(page, &fault.header, contested);
        }
        moves.0.extend(gone.0);
        moves.0.extend(come.0);
        if level == Level::Pte {
            self.doubts.touch(pages.start);
        }
        if collapsed {
            self.found_collapsed(pages.start, state, &change, moves);
        }
    }

    /// Why page `page` changed from `from` in this fault, which by itself looks `filled`.
    fn cause_of_fault(
        &self,
        fault: &event::Fault,
        page: u64,
        from: PageState,
        filled: Option<Cause>,
        contested: bool,
    ) -> Cause {
        let there = fault.flags & fault::PROTECTION != 0;
        let was_empty = fault.flags & fault::EMPTY != 0;
        match filled {
            // It also looks like this where the page was taken away without a word.
            Some(Cause::Cow | Cause::KsmBreak)
                if !there && (contested || !self.was_there_until_now(page)) =>
            {
                Cause::Unknown
            }
            // Of merged pages, where they came from.
            Some(Cause::Cow) if self.doubts.may_be_merged(page) => Cause::Unknown,
            // What was there is not what the ledger has.
            Some(_) if there && from == PageState::Absent => Cause::Unknown,
            Some(_) if self.missed != super::Missed::Nothing && !was_empty => Cause::Unknown,
            Some(cause) => cause,
            None => Cause::Unknown,
        }
    }

    /// Whether entries may have been taken out while the fault was served, by an event that is to come: the programs say so, and where
    /// they do not see removals, any other thread of which an event came may be at one.
    fn is_contested(&mut self, fault: &event::Fault) -> bool {
        self.contests.heard(fault.header.tid);
        let told = fault.flags & fault::CONTESTED != 0;
        let may_be = told || !self.sees_removals && self.contests.has_rivals();
        self.weighs && may_be
    }

    /// Whether `page` was there until now, where nothing told since that it was taken away.
    fn was_there_until_now(&self, page: u64) -> bool {
        let knows_removals = self.sees_removals && self.missed == super::Missed::Nothing;
        knows_removals && !self.contests.may_have_gone(page)
    }

    /// A fault on `page` ended, and the page was there.
    fn weigh(&mut self, page: u64, fault: &event::Header, contested: bool) {
        match contested {
            true => self.contests.add(page, fault),
            false => self.contests.decided(page),
        }
    }

    pub(super) fn look(&mut self, look: &event::Look, moves: &mut Moves, tell: Tell<'_>) {
        if look.how == how::MAPPED {
            return self.mapped(look, moves);
        }
        let Some(deed) = Deed::of(look) else { return };
        self.contests.heard(look.header.tid);
        if look.how == how::ZAP && look.detail & zap::DYING != 0 && !deed.is_by_exec() {
            // The whole address space goes, and who took it down may have been but the last to look at it: whether an exec or
            // the end of the process was the reason, other events tell.
            return;
        }
        let change = Change::of(&look.header);
        let first = look.va >> PAGE_SHIFT;
        let pages = first..look.va.saturating_add(look.len).div_ceil(PAGE_SIZE);
        let in_huge = |level| deed == (Deed::Collapse { there: true }) && level == Level::Pmd;
        let exact = Level::from_u32(look.level)
            .filter(|level| pages.end - pages.start == 1 || in_huge(*level))
            .and_then(|level| self.states_of_entry(look.va, level, Entry(look.entry)));
        match (look.how, exact) {
            (how::ZAP, _) if look.detail & zap::WHOLE != 0 => {
                self.zap(deed, pages, &change, moves, tell);
            }
            (how::REMAP, _) => {
                let to = look.other >> PAGE_SHIFT;
                let there = to..to + (pages.end - pages.start);
                if look.detail & remap::LATE == 0 {
                    self.remap(pages, to, &change, moves);
                } else {
                    // Others may have come to the old place since.
                    self.doubts.add(deed, pages, change);
                }
                // Pages of which nothing is known here have moved too: those that nobody asked about, and those that a fault
                // brought beside its own.
                self.doubts.add(Deed::Arrive, there, change);
            }
            (_, Some((leaf, state))) => {
                for page in leaf.clone() {
                    let to = state.advanced(page - leaf.start);
                    self.explained(deed, page, to, &change, moves);
                }
            }
            _ => self.doubts.add(deed, pages, change),
        }
    }

    /// Page `page` was found to be `to` right after `deed`; where that does not explain it, another event will.
    fn explained(
        &mut self,
        deed: Deed,
        page: u64,
        to: PageState,
        change: &Change,
        moves: &mut Moves,
    ) {
        let mut from = self.pages.get(page);
        if !self.is_asked(page) || self.is_seeded(page, change.t_ns) {
            return;
        }
        if !matches!(to, PageState::Swapped { .. }) && from != to {
            from = self.went_to_swap(page, from, moves);
        }
        let merged = self.merged.contains(&page);
        if deed == Deed::Merge && from == to && matches!(to, PageState::Present { .. }) {
            // The first of its kind keeps its frame, which the others get.
            self.merged.insert(page);
        }
        let Some(cause) = deed.cause(page, from, to, merged) else {
            return;
        };
        let (cause, change) = match (deed, cause) {
            // A forced unmapping takes a page of a frame that has gone bad where it is clean.
            (Deed::Unmap(Memory::Forced), Cause::Unknown) if self.is_of_bad_frame(from) => {
                (Cause::Poison, *change)
            }
            // Somebody who needed it found it there, replaced: by a collapse that was not read yet, or without a word.
            (Deed::Fill, Cause::Cow | Cause::KsmBreak) => {
                match self.known_collapse(page, from, to, merged) {
                    Some(change) => (Cause::Collapse, change),
                    None if !self.was_there_until_now(page) => (Cause::Unknown, *change),
                    None => (cause, *change),
                }
            }
            (Deed::Fill, _) if self.missed != super::Missed::Nothing => (Cause::Unknown, *change),
            _ => (cause, *change),
        };
        self.change(page, from, to, cause, &change, moves);
    }

    fn is_of_bad_frame(&self, state: PageState) -> bool {
        matches!(state, PageState::Present { pfn } if (self.is_bad)(pfn))
    }

    /// Everything in `pages` went.
    fn zap(
        &mut self,
        deed: Deed,
        pages: Span<u64>,
        change: &Change,
        moves: &mut Moves,
        tell: Tell<'_>,
    ) {
        let mut rest = pages;
        loop {
            let there: Vec<_> = self.pages.range(rest.clone()).take(AT_A_TIME).collect();
            let Some((last, _)) = there.last().copied() else {
                break;
            };
            for (page, from) in there {
                // MADV_DONTNEED leaves markers of guard regions; what removes the mapping itself is no move of a page.
                if from == PageState::Guard || self.is_seeded(page, change.t_ns) {
                    continue;
                }
                if self.contests.meets(page, change) {
                    // Either was first: what is there now says which.
                    self.doubts.add(deed, page..page + 1, *change);
                } else {
                    self.explained(deed, page, PageState::Absent, change, moves);
                }
            }
            moves.spill(tell);
            rest.start = last + 1;
        }
        self.contests.removed(change);
    }

    /// The entries of `pages` went to page `to` and those that follow it.
    fn remap(&mut self, pages: Span<u64>, to: u64, change: &Change, moves: &mut Moves) {
        let there: Vec<_> = self.pages.range(pages.clone()).collect();
        let (mut gone, mut come) = (Moves::default(), Moves::default());
        for (page, mut state) in there {
            if self.is_seeded(page, change.t_ns) {
                continue;
            }
            state = self.went_to_swap(page, state, &mut gone);
            let there = to + (page - pages.start);
            let merged = self.merged.contains(&page);
            self.change(
                page,
                state,
                PageState::Absent,
                Cause::Remap,
                change,
                &mut gone,
            );
            let before = self.pages.get(there);
            if self.is_asked(there) {
                self.change(there, before, state, Cause::Remap, change, &mut come);
                if merged {
                    self.merged.insert(there);
                }
            }
        }
        // One after the other, so that each run stays whole.
        moves.0.extend(gone.0);
        moves.0.extend(come.0);
    }
}
