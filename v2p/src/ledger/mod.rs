//! The ledger: what lies behind every page, as far as events and comparisons tell. Pure: an event or
//! a reading of the tables goes in, moves come out.

mod cause;
mod doubt;
mod pages;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range as Span,
};

use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn, VirtAddr,
    event::{self, Event, fault, how, zap},
    pagemap::PagemapWord,
    pte::{Entry, EntryState, Level, Paging},
};

use self::{
    cause::{Deed, deduced, filled},
    doubt::Doubts,
    pages::Pages,
};
use crate::{
    process::maps::{Range, USER_END},
    record::{By, Cause, Comm, Hex, Move, Proof},
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
    seedings: Vec<Seeding>,
    /// What is asked about; empty: everything. Nothing else enters.
    asked: Vec<Range>,
    /// Whether every removal of a page comes as an event.
    sees_removals: bool,
    decoder: Decoder,
    /// Whether a frame is known to be bad: its entries look like those of a migration (swap types differ from kernel
    /// to kernel), but stay.
    is_bad: fn(Pfn) -> bool,
    paging: Paging,
}

/// Pages that were read when the watch began, and when.
struct Seeding {
    pages: Span<u64>,
    began_ns: u64,
}

/// What the moves of one change have in common.
#[derive(Clone, Copy)]
struct Change {
    seq: Option<u64>,
    t_ns: u64,
    by: Option<By>,
    proof: Proof,
}

impl Change {
    fn of(header: &event::Header) -> Self {
        Self {
            seq: Some(header.seq),
            t_ns: header.t_ns,
            by: Some(by(header)),
            proof: Proof::Event,
        }
    }

    const fn reconciled(t_ns: u64) -> Self {
        Self {
            seq: None,
            t_ns,
            by: None,
            proof: Proof::Reconciled,
        }
    }
}

/// Who an event was emitted by.
pub fn by(header: &event::Header) -> By {
    By {
        tid: header.tid,
        comm: Comm(header.comm),
    }
}

/// The pages under the leaf that holds `va` at `level`.
fn under_leaf(va: u64, level: Level) -> Span<u64> {
    let pages = level.page_size().map_or(1, PageSize::pages);
    let first = va >> PAGE_SHIFT & !(pages - 1);
    first..first + pages
}

impl Ledger {
    /// An empty ledger. `zero_pfn` is the frame of the shared zero page, where it is known.
    pub fn new(zero_pfn: Option<Pfn>, paging: Paging) -> Self {
        Self {
            pages: Pages::default(),
            in_transit: BTreeMap::new(),
            merged: HashSet::new(),
            doubts: Doubts::default(),
            seedings: Vec::new(),
            asked: Vec::new(),
            sees_removals: false,
            decoder: Decoder {
                paging: Some(paging),
                zero_pfn,
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

    /// Bytes that the pages take, about.
    pub fn bytes(&self) -> usize {
        self.pages.bytes()
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

    /// The states that an entry gives to the pages under it; `None`: it leads to a lower table. An empty entry speaks for
    /// the page at `va` alone.
    fn states_of_entry(
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
                    0 => Cause::Exit,
                    _ => Cause::Exec,
                };
                self.clear(cause, &Change::of(&gone.header), &mut moves);
            }
            Event::Exec(exec) => {
                let change = Change::of(&exec.header);
                // Another process may still have the old address space: then it was not taken down.
                self.clear(Cause::Exec, &change, &mut moves);
                self.doubts
                    .add(Deed::Exec, 0..USER_END >> PAGE_SHIFT, change);
            }
            Event::Migrated(_) | Event::Marker(_) => {}
        }
        moves.0
    }

    fn fault(&mut self, fault: &event::Fault, moves: &mut Moves) {
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
        let was_huge = self.is_huge(&pages);
        for page in pages.clone() {
            self.in_transit.remove(&page);
            let to = state.advanced(page - pages.start);
            let mut from = self.pages.get(page);
            if from == to || !self.is_asked(page) {
                continue;
            }
            let merged = self.merged.contains(&page);
            // Not there when the fault came, but the ledger has it: it was taken away before, and we may know by what.
            if !there
                && let Some((cause, taken)) =
                    self.doubts.explain(page, from, PageState::Absent, merged)
            {
                moves.push(page, from, PageState::Absent, cause, taken);
                from = PageState::Absent;
            }
            let cause = match filled(from, to, merged) {
                // Nothing puts a huge page in the place of base pages within a fault: they were collapsed, and this is
                // the fault that finds it. Who did it may be known.
                Some(Cause::Cow) if level == Level::Pmd && !was_huge => {
                    let known = self.doubts.explain(page, from, to, merged);
                    let known = known.filter(|(cause, _)| *cause == Cause::Collapse);
                    let by = known.map_or(change, |(_, change)| *change);
                    self.change(page, from, to, Cause::Collapse, &by, moves);
                    continue;
                }
                // It also looks like this where the page was taken away without a word.
                Some(Cause::Cow | Cause::KsmBreak) if !there && !self.sees_removals => {
                    Cause::Unknown
                }
                Some(cause) => cause,
                None => Cause::Unknown,
            };
            self.change(page, from, to, cause, &change, moves);
        }
        if level == Level::Pte {
            self.doubts.touch(pages.start);
        }
    }

    /// Whether these pages lie in one huge page, as far as is known.
    fn is_huge(&self, pages: &Span<u64>) -> bool {
        let first = self.pages.get(pages.start);
        let last = pages.end.saturating_sub(1);
        matches!(first, PageState::Present { pfn } if pfn.0 % 512 == 0)
            && self.pages.get(last) == first.advanced(last - pages.start)
    }

    fn look(&mut self, look: &event::Look, moves: &mut Moves) {
        let Some(deed) = Deed::of(look) else { return };
        let change = Change::of(&look.header);
        let first = look.va >> PAGE_SHIFT;
        let pages = first..look.va.saturating_add(look.len).div_ceil(PAGE_SIZE);
        let exact = Level::from_u32(look.level)
            .filter(|_| look.len <= PAGE_SIZE)
            .and_then(|level| self.states_of_entry(look.va, level, Entry(look.entry)));
        match (look.how, exact) {
            (how::ZAP, _) if look.detail & zap::WHOLE != 0 => {
                self.zap(deed, pages, &change, moves);
            }
            (how::REMAP, _) => self.remap(pages, look.other >> PAGE_SHIFT, &change, moves),
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
        let from = self.pages.get(page);
        let merged = self.merged.contains(&page);
        if !self.is_asked(page) || self.is_seeded(page, change.t_ns) {
            return;
        }
        if let Some(cause) = deed.cause(page, from, to, merged) {
            self.change(page, from, to, cause, change, moves);
        }
    }

    /// Everything in `pages` went.
    fn zap(&mut self, deed: Deed, pages: Span<u64>, change: &Change, moves: &mut Moves) {
        let there: Vec<_> = self.pages.range(pages).collect();
        for (page, from) in there {
            // MADV_DONTNEED leaves markers of guard regions; what removes the mapping itself is no move of a page.
            if from == PageState::Guard || self.is_seeded(page, change.t_ns) {
                continue;
            }
            self.explained(deed, page, PageState::Absent, change, moves);
        }
    }

    /// The entries of `pages` went to page `to` and those that follow it.
    fn remap(&mut self, pages: Span<u64>, to: u64, change: &Change, moves: &mut Moves) {
        let there: Vec<_> = self.pages.range(pages.clone()).collect();
        let (mut gone, mut come) = (Moves::default(), Moves::default());
        for (page, state) in there {
            if self.is_seeded(page, change.t_ns) {
                continue;
            }
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

    fn migration_set(&mut self, m: &event::Migration, moves: &mut Moves) {
        let Some(level) = Level::from_u32(m.level) else {
            return;
        };
        let pages = under_leaf(m.va, level);
        let Pfn(old) = Entry(m.entry).migration_pfn(self.paging);
        for page in pages.clone() {
            let from = self.pages.get(page);
            let seeded = self.is_seeded(page, m.header.t_ns);
            // Where the seeding is younger and found the page at rest, the migration was over by then.
            if seeded && matches!(from, PageState::Present { .. }) {
                continue;
            }
            let pfn = Pfn(old + page - pages.start);
            // The last one counts: an entry may have gone without an event.
            self.in_transit.insert(page, pfn);
            let before = PageState::Present { pfn };
            let known = matches!(from, PageState::Migrating { .. }) || from == before;
            if !seeded && !known && self.is_asked(page) {
                self.unseen(page, from, before, m.header.t_ns, true, moves);
            }
        }
    }

    fn migration_remove(&mut self, m: &event::Migration, moves: &mut Moves) {
        let Some(level) = Level::from_u32(m.level) else {
            return;
        };
        let leaf = self.states_of_entry(m.va, level, Entry(m.entry));
        let Some((pages, state)) = leaf else { return };
        let change = Change::of(&m.header);
        for page in pages.clone() {
            let old = self.in_transit.remove(&page);
            if self.is_seeded(page, m.header.t_ns) || !self.is_asked(page) {
                continue;
            }
            // The event knows the old frame better than we do.
            let from = old.map_or_else(|| self.pages.get(page), |pfn| PageState::Present { pfn });
            let to = state.advanced(page - pages.start);
            self.change(page, from, to, Cause::Migration, &change, moves);
        }
    }

    /// A change that no event told in its time: something done to the range may explain it.
    fn unseen(
        &mut self,
        page: u64,
        from: PageState,
        to: PageState,
        t_ns: u64,
        mapped: bool,
        moves: &mut Moves,
    ) {
        let merged = self.merged.contains(&page);
        let explained = self.doubts.explain(page, from, to, merged);
        let (cause, change) = explained.map_or_else(
            || (deduced(from, to, mapped), Change::reconciled(t_ns)),
            |(cause, change)| (cause, *change),
        );
        // A guard region that comes or goes is no page that moves.
        if from == PageState::Guard || to == PageState::Guard && from == PageState::Absent {
            self.pages.put(page, to);
            return;
        }
        self.change(page, from, to, cause, &change, moves);
    }

    fn clear(&mut self, cause: Cause, change: &Change, moves: &mut Moves) {
        let pages = std::mem::take(&mut self.pages);
        for (page, from) in pages.range(0..u64::MAX) {
            let merged = self.merged.contains(&page);
            let taken = self.doubts.explain(page, from, PageState::Absent, merged);
            // What was done just before, and could not be read any more, took it first.
            let (cause, change) = taken.unwrap_or((cause, change));
            moves.push(page, from, PageState::Absent, cause, change);
        }
        self.in_transit.clear();
        self.merged.clear();
        self.doubts = Doubts::default();
        self.seedings.clear();
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

    /// Everything between these page numbers is to be read again.
    pub fn read_again(&mut self, pages: Span<u64>) {
        self.doubts.read_again(pages);
    }

    /// The ranges that must be read and [compared](Self::compare) now, by page number, in order and apart.
    pub fn take_unread(&mut self) -> Vec<Span<u64>> {
        self.doubts.take_unread()
    }

    /// Compares what was just read of the pages in `range` with what is known: `words` has those that are not absent, in
    /// order. What differs waits for [`Self::confirm`].
    pub fn compare(&mut self, range: Span<u64>, words: &[(u64, PagemapWord)]) {
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
    }

    /// Believes what was found by the last comparison and no event has told of since; gives the moves that it makes.
    /// `mapped` says whether there is a mapping at a page, by number.
    pub fn confirm(&mut self, t_ns: u64, mapped: impl Fn(u64) -> bool) -> Vec<Move> {
        let mut moves = Moves::default();
        for (page, to) in self.doubts.take_found() {
            let from = self.pages.get(page);
            if from != to {
                self.unseen(page, from, to, t_ns, mapped(page), &mut moves);
            }
        }
        self.doubts.retire();
        moves.0
    }
}

/// Moves, neighbours with the same story as one.
#[derive(Default)]
struct Moves(Vec<Move>);

impl Moves {
    fn push(&mut self, page: u64, from: PageState, to: PageState, cause: Cause, change: &Change) {
        let va = page.wrapping_mul(PAGE_SIZE);
        if let Some(last) = self.0.last_mut()
            && va == last.va.0 + last.pages * PAGE_SIZE
            && from == last.from.advanced(last.pages)
            && to == last.to.advanced(last.pages)
            && cause == last.cause
            && change.seq == last.seq
        {
            last.pages += 1;
            return;
        }
        self.0.push(Move {
            seq: change.seq,
            t_ns: change.t_ns,
            va: Hex(va),
            pages: 1,
            from,
            to,
            cause,
            reason: None,
            by: change.by,
            proof: change.proof,
        });
    }
}
