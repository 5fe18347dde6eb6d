//! The ledger: what lies behind every page, as far as events and comparisons tell. Pure: an event or
//! a reading of the tables goes in, moves come out.

mod cause;
mod child;
mod collapse;
mod contest;
mod doubt;
mod events;
mod mapped;
mod migration;
mod moves;
mod page_set;
mod pages;
mod readings;
mod seedings;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range as Span,
};

use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, Pfn,
    event::{self, Event},
    pagemap::PagemapWord,
    pte::Paging,
};

use self::{
    cause::Deed,
    child::Young,
    collapse::Collapsed,
    contest::Contests,
    doubt::Doubts,
    moves::{Change, Moves, Tell},
    pages::Pages,
    seedings::Seedings,
};
use crate::{
    page::ZeroFrames,
    process::{
        asked,
        maps::{Range, USER_END},
    },
    record::{Cause, Move},
    state::PageState,
    translate::page::Decoder,
};

/// In swap, nobody knows where.
const IN_SWAP: PageState = PageState::Swapped { swap: None };

/// Whether both are one frame: pagemap shows a device's page in a VM_MIXEDMAP mapping as any other (pte_to_pagemap_entry,
/// fs/proc/task_mmu.c, 6.1 to 7.3).
fn is_same_frame(known: PageState, found: PageState) -> bool {
    use PageState::{Device, Present};
    match (known, found) {
        (Device { pfn }, Present { pfn: other }) | (Present { pfn }, Device { pfn: other }) => {
            pfn == other
        }
        _ => false,
    }
}

/// No page, and no entry of one elsewhere: a guard's mark comes and goes without a word.
const fn is_nothing(state: PageState) -> bool {
    matches!(state, PageState::Absent | PageState::Guard)
}

/// Pages that are looked at together where much changes at once: the memory that this takes is not to follow how much.
const AT_A_TIME: usize = 1 << 12;

/// What lies behind the pages of one address space.
pub struct Ledger {
    pages: Pages,
    /// Old frames of pages that have a migration entry now, by page number.
    in_transit: BTreeMap<u64, Pfn>,
    /// Pages that KSM has merged.
    merged: HashSet<u64>,
    doubts: Doubts,
    contests: Contests,
    /// A collapse that a fault found, and who made it has not told yet.
    collapsed: Option<Collapsed>,
    /// Whether there are readings to come, that decide them.
    weighs: bool,
    seedings: Seedings,
    /// A child that has only just been forked.
    young: Option<Young>,
    /// What is asked about; empty: everything. Nothing else enters.
    asked: Vec<Range>,
    /// Whether every removal of a page comes as an event.
    sees_removals: bool,
    missed: Missed,
    decoder: Decoder,
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

impl Ledger {
    /// An empty ledger. `zero` are the frames of zeros.
    pub fn new(zero: ZeroFrames, paging: Paging) -> Self {
        Self {
            pages: Pages::default(),
            in_transit: BTreeMap::new(),
            merged: HashSet::new(),
            doubts: Doubts::default(),
            contests: Contests::default(),
            collapsed: None,
            weighs: false,
            seedings: Seedings::default(),
            young: None,
            asked: Vec::new(),
            sees_removals: false,
            missed: Missed::Nothing,
            decoder: Decoder {
                paging: Some(paging),
                zero,
            },
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

    /// What pagemap's word says.
    fn state_of_word(&self, word: PagemapWord) -> PageState {
        self.settled(self.decoder.word(word))
    }

    fn settled(&self, state: PageState) -> PageState {
        match state {
            PageState::Migrating { pfn } if (self.is_bad)(pfn) => PageState::Poisoned,
            other => other,
        }
    }

    /// The same, for the addresses in `asked` alone, in order and apart ([`asked::merged`]); none: everything.
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
        asked::is_asked(&self.asked, page.wrapping_mul(PAGE_SIZE))
    }

    /// How many pages are known not to be absent.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether no page is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes one event; gives the moves that it shows.
    pub fn apply(&mut self, event: &Event) -> Vec<Move> {
        let mut moves = Vec::new();
        self.tell(event, &mut |one| moves.push(one));
        moves
    }

    /// Takes one event; tells the moves that it shows, some at a time: it may be the end of a large address space.
    pub fn tell(&mut self, event: &Event, tell: &mut dyn FnMut(Move)) {
        self.seedings.forget(event.header().t_ns);
        let mut moves = Moves::default();
        let ends_collapse = self.ends_collapse(event);
        if !ends_collapse {
            self.tell_collapsed(&mut moves);
        }
        match event {
            Event::Fault(fault) => self.fault(fault, &mut moves),
            Event::Look(look) => self.look(look, &mut moves, tell),
            Event::Around(around) => self.around(around, &mut moves),
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
                self.clear(cause, &change, &mut moves, tell);
            }
            Event::Exec(exec) => {
                let change = Change::of(&exec.header);
                // Another process may still have the old address space: then it was not taken down.
                self.clear(Cause::Exec, &change, &mut moves, tell);
                self.read_again(0..USER_END >> PAGE_SHIFT);
            }
            Event::Fork(_)
            | Event::Ended(_)
            | Event::Migrated(_)
            | Event::Crowded(_)
            | Event::Marker(_) => {}
        }
        if ends_collapse {
            self.tell_collapsed(&mut moves);
        }
        moves.0.into_iter().for_each(tell);
    }

    /// The pages of `stack` that are there now were set up by this exec.
    pub fn image(&mut self, exec: &event::Exec, stack: Span<u64>) {
        self.doubts.add(Deed::Exec, stack, Change::of(&exec.header));
    }

    /// The address space has ended, and no event told it; tells the moves that this makes.
    pub fn end(&mut self, t_ns: u64, tell: &mut dyn FnMut(Move)) {
        self.cease(Cause::Exit, t_ns, tell);
    }

    /// The process has executed another program, and who gave up its old address space last was somebody else; tells the
    /// moves that this makes.
    pub fn left_by_exec(&mut self, t_ns: u64, tell: &mut dyn FnMut(Move)) {
        self.cease(Cause::Exec, t_ns, tell);
    }

    fn cease(&mut self, cause: Cause, t_ns: u64, tell: Tell<'_>) {
        let mut moves = Moves::default();
        self.tell_collapsed(&mut moves);
        self.clear(cause, &Change::reconciled(t_ns), &mut moves, tell);
        moves.0.into_iter().for_each(tell);
    }

    fn clear(&mut self, cause: Cause, change: &Change, moves: &mut Moves, tell: Tell<'_>) {
        let pages = std::mem::take(&mut self.pages);
        let mut elsewhere = Vec::new();
        for (page, from) in pages.range(0..u64::MAX) {
            elsewhere.extend(self.leave(page, from, (cause, change), moves));
            moves.spill(tell);
        }
        while !elsewhere.is_empty() {
            // Where something is known already, which of the two came first is not.
            elsewhere.retain(|(page, ..)| pages.get(*page) == PageState::Absent);
            for (page, state, by) in &elsewhere {
                moves.push(*page, PageState::Absent, *state, Cause::Remap, by);
            }
            let there = std::mem::take(&mut elsewhere).into_iter();
            elsewhere = there
                .filter_map(|(page, from, _)| self.leave(page, from, (cause, change), moves))
                .collect();
        }
        self.in_transit.clear();
        self.merged.clear();
        self.doubts = Doubts::default();
        self.seedings = Seedings::default();
        self.young = None;
        self.contests = Contests::default();
    }

    /// Page `page` goes: by what was done just before, and could not be read any more, or by `last`. Gives the page to which it went, where it
    /// went elsewhere, what came there, and by what.
    fn leave(
        &mut self,
        page: u64,
        mut from: PageState,
        last: (Cause, &Change),
        moves: &mut Moves,
    ) -> Option<(u64, PageState, Change)> {
        let merged = self.merged.contains(&page);
        if let Some(out) = self.doubts.swapped(page, from, merged) {
            moves.push(page, from, IN_SWAP, Cause::SwapOut, out);
            from = IN_SWAP;
        }
        let taken = self.doubts.took(page, from, merged);
        let (cause, change) = taken.unwrap_or(last);
        moves.push(page, from, PageState::Absent, cause, change);
        let (there, by) = self.doubts.left(page, from, merged)?;
        self.is_asked(there).then_some((there, from, by))
    }

    /// Page `page` may have gone to swap, and no event told where: then it has. Gives what it is.
    fn went_to_swap(&mut self, page: u64, from: PageState, moves: &mut Moves) -> PageState {
        let merged = self.merged.contains(&page);
        if self.doubts.swapped(page, from, merged).is_none() {
            return from;
        }
        match self.doubts.take(page, from, merged) {
            Some((cause, out)) => {
                self.change(page, from, IN_SWAP, cause, &out, moves);
                IN_SWAP
            }
            None => from,
        }
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
        // It was in migration as the watch began: nothing had moved yet.
        let from = match from {
            PageState::Migrating { pfn } => PageState::Present { pfn },
            other => other,
        };
        if from == to || is_same_frame(from, to) {
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
}
