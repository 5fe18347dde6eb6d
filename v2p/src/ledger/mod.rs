//! The ledger: what lies behind every page, as far as events and comparisons tell. Pure: an event or
//! a reading of the tables goes in, moves come out.

mod cause;
mod child;
mod contest;
mod doubt;
mod events;
mod moves;
mod pages;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range as Span,
};

use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn, VirtAddr,
    event::{self, Event},
    pagemap::PagemapWord,
    pte::Paging,
};

use self::{
    cause::{Deed, deduced},
    child::Young,
    contest::Contests,
    doubt::Doubts,
    moves::{Change, Moves},
    pages::Pages,
};
use crate::{
    process::maps::{Range, USER_END},
    record::{Cause, Move},
    state::PageState,
    translate::page::Decoder,
};

/// What lies behind the pages of one address space.
pub struct Ledger {
    pages: Pages,
    /// Old frames of pages that have a migration entry now, by page number.
    in_transit: BTreeMap<u64, Pfn>,
    /// Pages that KSM has merged.
    merged: HashSet<u64>,
    doubts: Doubts,
    contests: Contests,
    /// Whether there are readings to come, that decide them.
    weighs: bool,
    seedings: Vec<Seeding>,
    /// A child that has only just been forked.
    young: Option<Young>,
    /// What is asked about; empty: everything. Nothing else enters.
    asked: Vec<Range>,
    /// Whether every removal of a page comes as an event.
    sees_removals: bool,
    missed: Missed,
    decoder: Decoder,
    /// The first frame of the huge page of zeros.
    huge_zero: Option<Pfn>,
    /// Whether a frame is known to be bad: its entries look like those of a migration (swap types differ from kernel
    /// to kernel), but stay.
    is_bad: fn(Pfn) -> bool,
    paging: Paging,
}

/// Whether events were lost of which the ledger does not have the consequences.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Missed {
    /// None.
    Nothing,
    /// Some, and not everything was read since.
    Unread,
    /// Some; what was read waits to be believed.
    Read,
}

/// Pages that were read when the watch began, and when.
struct Seeding {
    pages: Span<u64>,
    began_ns: u64,
}

impl Ledger {
    /// An empty ledger. `zero_pfn` is the frame of the shared zero page, where it is known.
    pub fn new(zero_pfn: Option<Pfn>, paging: Paging) -> Self {
        Self {
            pages: Pages::default(),
            in_transit: BTreeMap::new(),
            merged: HashSet::new(),
            doubts: Doubts::default(),
            contests: Contests::default(),
            weighs: false,
            seedings: Vec::new(),
            young: None,
            asked: Vec::new(),
            sees_removals: false,
            missed: Missed::Nothing,
            decoder: Decoder {
                paging: Some(paging),
                zero_pfn,
            },
            huge_zero: None,
            is_bad: |_| false,
            paging,
        }
    }

    /// The same, with a way to ask whether a frame is bad.
    #[must_use]
    pub const fn knowing_bad_frames(mut self, is_bad: fn(Pfn) -> bool) -> Self {
        self.is_bad = is_bad;
        self
    }

    /// The same, with the first frame of the huge page of zeros, where it is known.
    #[must_use]
    pub const fn knowing_huge_zero(mut self, first: Option<Pfn>) -> Self {
        self.huge_zero = first;
        self
    }

    /// What pagemap's word says.
    fn state_of_word(&self, word: PagemapWord) -> PageState {
        self.settled(self.decoder.word(word))
    }

    fn settled(&self, state: PageState) -> PageState {
        match state {
            PageState::Migrating { pfn } if (self.is_bad)(pfn) => PageState::Poisoned,
            PageState::Present { pfn } if self.is_huge_zero(pfn) => PageState::Zero,
            other => other,
        }
    }

    fn is_huge_zero(&self, pfn: Pfn) -> bool {
        let Some(Pfn(first)) = self.huge_zero else {
            return false;
        };
        (first..first + PageSize::Pmd.pages()).contains(&pfn.0)
    }

    /// The same, for the addresses in `asked` alone; none: everything.
    #[must_use]
    pub fn limited_to(mut self, asked: &[Range]) -> Self {
        self.asked = asked.to_vec();
        self
    }

    /// The same, where every removal of a page comes as an event: then a page that a fault finds replaced was
    /// there until that fault.
    #[must_use]
    pub const fn seeing_removals(mut self, sees: bool) -> Self {
        self.sees_removals = sees;
        self
    }

    /// The same, where what is in doubt is read again: then a removal is not believed of a page that another thread touched
    /// meanwhile.
    #[must_use]
    pub const fn weighing_contests(mut self, weighs: bool) -> Self {
        self.weighs = weighs;
        self
    }

    /// No reading is to come: removals are believed from now on.
    pub fn read_for_the_last_time(&mut self) {
        self.weighs = false;
        self.contests = Contests::default();
    }

    fn is_asked(&self, page: u64) -> bool {
        let va = page.wrapping_mul(PAGE_SIZE);
        self.asked.is_empty() || self.asked.iter().any(|r| (r.start..r.end).contains(&va))
    }

    /// How many pages are known not to be absent.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether no page is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

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

    /// Enters that the pages with these numbers were seeded by a reading that began at `began_ns`:
    /// events on them that are older are in that reading already.
    pub fn seeded(&mut self, pages: Span<u64>, began_ns: u64) {
        self.seedings.push(Seeding { pages, began_ns });
    }

    /// Whether an event is told by the seeding already.
    fn is_seeded(&self, page: u64, t_ns: u64) -> bool {
        self.seedings
            .iter()
            .any(|s| s.pages.contains(&page) && t_ns < s.began_ns)
    }

    /// Forgets the seedings once events as young as `t_ns` have come: the ring's order is nearly that of
    /// time, and a second covers the difference.
    fn forget_seedings(&mut self, t_ns: u64) {
        const SLACK_NS: u64 = 1_000_000_000;
        self.seedings
            .retain(|s| t_ns < s.began_ns.saturating_add(SLACK_NS));
    }

    /// Takes one event; gives the moves that it shows.
    pub fn apply(&mut self, event: &Event) -> Vec<Move> {
        if !self.seedings.is_empty() {
            self.forget_seedings(event.header().t_ns);
        }
        let mut moves = Moves::default();
        match event {
            Event::Fault(fault) => self.fault(fault, &mut moves),
            Event::Look(look) => self.look(look, &mut moves),
            Event::MigrationSet(m) => self.migration_set(m, &mut moves),
            Event::MigrationRemove(m) => self.migration_remove(m, &mut moves),
            Event::MmGone(gone) => {
                let cause = match gone.number {
                    event::gone::EXEC => Cause::Exec,
                    _ => Cause::Exit,
                };
                let mut change = Change::of(&gone.header);
                // Who happened to look last did not do it.
                change.by = change.by.filter(|_| gone.number != event::gone::BEFORE);
                self.clear(cause, &change, &mut moves);
            }
            Event::Exec(exec) => {
                let change = Change::of(&exec.header);
                // Another process may still have the old address space: then it was not taken down.
                self.clear(Cause::Exec, &change, &mut moves);
                self.read_again(0..USER_END >> PAGE_SHIFT);
            }
            Event::Fork(_)
            | Event::Ended(_)
            | Event::Migrated(_)
            | Event::Crowded(_)
            | Event::Marker(_) => {}
        }
        moves.0
    }

    /// The pages of `stack` that are there now were set up by this exec.
    pub fn image(&mut self, exec: &event::Exec, stack: Span<u64>) {
        self.doubts.add(Deed::Exec, stack, Change::of(&exec.header));
    }

    /// A change that no event told in its time, found at `t_ns`, where there is a mapping or is not: something done to the range may explain
    /// it. A page that went and came again is two moves, of which the first goes to `gone`.
    fn unseen(
        &mut self,
        page: u64,
        from: PageState,
        to: PageState,
        (t_ns, mapped): (u64, bool),
        [gone, moves]: [&mut Moves; 2],
    ) {
        let merged = self.merged.contains(&page);
        let explained = self.doubts.explain(page, from, to, merged);
        let (cause, change) = explained.map_or_else(
            || (deduced(from, to, mapped), Change::reconciled(t_ns)),
            |(cause, change)| (cause, *change),
        );
        // Somebody filled in what the ledger has another page of: that was taken away before, if something is known to have done it.
        if let (PageState::Present { .. } | PageState::Zero, Cause::Cow | Cause::ZeroFill) =
            (from, cause)
            && let Some((why, taken)) = self.doubts.take(page, from, merged)
        {
            gone.push(page, from, PageState::Absent, why, &taken);
            let from = PageState::Absent;
            self.change(page, from, to, Cause::FirstTouch, &change, moves);
            return;
        }
        // A guard region that comes or goes is no page that moves.
        let is_nothing = |state| matches!(state, PageState::Guard | PageState::Absent);
        if is_nothing(from) && is_nothing(to) {
            self.pages.put(page, to);
            return;
        }
        self.change(page, from, to, cause, &change, moves);
    }

    /// The address space has ended, and no event told it; gives the moves that this makes.
    pub fn end(&mut self, t_ns: u64) -> Vec<Move> {
        let mut moves = Moves::default();
        self.clear(Cause::Exit, &Change::reconciled(t_ns), &mut moves);
        moves.0
    }

    /// The process has executed another program, and who gave up its old address space last was somebody else; gives the
    /// moves that this makes.
    pub fn left_by_exec(&mut self, t_ns: u64) -> Vec<Move> {
        let mut moves = Moves::default();
        self.clear(Cause::Exec, &Change::reconciled(t_ns), &mut moves);
        moves.0
    }

    fn clear(&mut self, cause: Cause, change: &Change, moves: &mut Moves) {
        let pages = std::mem::take(&mut self.pages);
        for (page, from) in pages.range(0..u64::MAX) {
            let merged = self.merged.contains(&page);
            let taken = self.doubts.took(page, from, merged);
            // What was done just before, and could not be read any more, took it first.
            let (cause, change) = taken.unwrap_or((cause, change));
            moves.push(page, from, PageState::Absent, cause, change);
        }
        self.in_transit.clear();
        self.merged.clear();
        self.doubts = Doubts::default();
        self.seedings.clear();
        self.young = None;
        self.contests = Contests::default();
    }

    /// Page `page` becomes `to`.
    fn change(
        &mut self,
        page: u64,
        from: PageState,
        to: PageState,
        cause: Cause,
        change: &Change,
        moves: &mut Moves,
    ) {
        self.doubts.settle(page..page + 1);
        if let (Some(seq), false) = (change.seq, to == PageState::Absent) {
            self.doubts.came(page, seq);
        }
        self.told(page);
        self.in_transit.remove(&page);
        self.pages.put(page, to);
        if from == to {
            return;
        }
        let was_merged = self.merged.remove(&page);
        let is_merged = match cause {
            Cause::KsmMerge => matches!(to, PageState::Present { .. }),
            Cause::Migration => was_merged,
            _ => false,
        };
        if is_merged {
            self.merged.insert(page);
        }
        moves.push(page, from, to, cause, change);
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
    /// order. What differs waits for [`Self::confirm`].
    pub fn compare(&mut self, range: Span<u64>, words: &[(u64, PagemapWord)]) {
        self.was_read(true);
        let mut at = range.start;
        for (page, word) in words {
            self.compare_absent(at..*page);
            at = page + 1;
            let (state, known) = (self.state_of_word(*word), self.pages.get(*page));
            // In transit from the frame that is known: nothing has moved yet.
            let under_way = matches!(state, PageState::Migrating { .. });
            if state != known && !under_way && self.is_asked(*page) {
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

    /// Believes what was found by the last comparison and no event has told of since; gives the moves that it makes.
    /// `mapped` says whether there is a mapping at a page, by number.
    pub fn confirm(&mut self, t_ns: u64, mapped: impl Fn(u64) -> bool) -> Vec<Move> {
        // One after the other, so that each run stays whole.
        let (mut gone, mut moves) = (Moves::default(), Moves::default());
        self.contests.was_read();
        let young = self.grow_up();
        for (page, to) in self.doubts.take_found() {
            let from = self.pages.get(page);
            if young.as_ref().is_some_and(|young| young.was_so(page, from)) {
                self.pages.put(page, to);
            } else if from != to {
                let when = (t_ns, mapped(page));
                self.unseen(page, from, to, when, [&mut gone, &mut moves]);
            }
        }
        self.doubts.retire();
        if self.missed == Missed::Read {
            self.missed = Missed::Nothing;
        }
        gone.0.extend(moves.0);
        gone.0
    }
}
