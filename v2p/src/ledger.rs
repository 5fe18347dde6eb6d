//! The ledger: what lies behind every page, as far as events and comparisons tell. Pure: an event or
//! a reading of the tables goes in, moves come out.

use std::collections::{BTreeMap, HashSet};

use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn, VirtAddr,
    event::{self, Event},
    pagemap::PagemapWord,
    pte::{Entry, EntryState, Level, Paging},
};

use crate::{
    process::maps::Range,
    record::{By, Cause, Hex, Move, PageState, Proof},
    translate::page::Decoder,
};

/// What lies behind the pages of one address space. Pages that are not in it are absent.
pub struct Ledger {
    pages: BTreeMap<u64, PageState>,
    /// Old frames of pages that have a migration entry now, by page number.
    in_transit: BTreeMap<u64, Pfn>,
    seedings: Vec<Seeding>,
    /// What is asked about; empty: everything. Nothing else enters.
    asked: Vec<Range>,
    decoder: Decoder,
    paging: Paging,
}

/// Pages that were read when the watch began, and when.
struct Seeding {
    first: u64,
    end: u64,
    began_ns: u64,
}

/// What the moves of one change have in common.
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
}

/// Who an event was emitted by.
pub fn by(header: &event::Header) -> By {
    let name = header.comm.split(|b| *b == 0).next().unwrap_or_default();
    By {
        tid: header.tid,
        comm: String::from_utf8_lossy(name).into_owned(),
    }
}

impl Ledger {
    /// An empty ledger. `zero_pfn` is the frame of the shared zero page, where it is known.
    pub const fn new(zero_pfn: Option<Pfn>, paging: Paging) -> Self {
        Self {
            pages: BTreeMap::new(),
            in_transit: BTreeMap::new(),
            seedings: Vec::new(),
            asked: Vec::new(),
            decoder: Decoder {
                paging: Some(paging),
                zero_pfn,
            },
            paging,
        }
    }

    /// The same, for the addresses in `asked` alone; none: everything.
    #[must_use]
    pub fn limited_to(mut self, asked: &[Range]) -> Self {
        self.asked = asked.to_vec();
        self
    }

    fn is_asked(&self, page: u64) -> bool {
        let va = page.wrapping_mul(PAGE_SIZE);
        self.asked.is_empty() || self.asked.iter().any(|r| (r.start..r.end).contains(&va))
    }

    /// Enters what pagemap says of a page, without making a move of it.
    pub fn seed(&mut self, va: VirtAddr, word: PagemapWord) {
        self.put(va.page_number(), self.decoder.word(word));
    }

    /// Enters that the pages `first..end`, by number, were seeded by a reading that began at `began_ns`:
    /// events on them that are older are in that reading already.
    pub fn seeded(&mut self, first: u64, end: u64, began_ns: u64) {
        self.seedings.push(Seeding {
            first,
            end,
            began_ns,
        });
    }

    /// Whether an event is told by the seeding already.
    fn is_seeded(&self, page: u64, t_ns: u64) -> bool {
        self.seedings
            .iter()
            .any(|s| (s.first..s.end).contains(&page) && t_ns < s.began_ns)
    }

    /// Forgets the seedings once events as young as `t_ns` have come: the ring's order is nearly that of
    /// time, and a second covers the difference.
    fn forget_seedings(&mut self, t_ns: u64) {
        const SLACK_NS: u64 = 1_000_000_000;
        self.seedings
            .retain(|s| t_ns < s.began_ns.saturating_add(SLACK_NS));
    }

    /// What is known of the page that holds `va`.
    #[cfg(test)]
    fn state(&self, va: VirtAddr) -> PageState {
        self.get(va.page_number())
    }

    fn get(&self, page: u64) -> PageState {
        self.pages.get(&page).copied().unwrap_or(PageState::Absent)
    }

    fn put(&mut self, page: u64, state: PageState) {
        if state == PageState::Absent {
            self.pages.remove(&page);
        } else {
            self.pages.insert(page, state);
        }
    }

    /// The state that an entry gives to each page under it, from the first; `None`: a lower table.
    fn states_of_entry(&self, level: Level, entry: Entry) -> Option<(u64, PageState)> {
        let state = entry.state(level, self.paging.physical_mask);
        if matches!(state, EntryState::Table(_)) {
            return None;
        }
        let pages = match state {
            EntryState::Empty => 1,
            _ => level.page_size().map_or(1, PageSize::pages),
        };
        // Address 0 stands for the first page of any leaf.
        Some((pages, self.decoder.entry(level, entry, VirtAddr(0)).0))
    }

    /// Takes one event; gives the moves that it shows.
    pub fn apply(&mut self, event: &Event) -> Vec<Move> {
        self.forget_seedings(event.header().t_ns);
        match event {
            Event::Fault(fault) if !self.is_seeded(fault.va >> PAGE_SHIFT, fault.header.t_ns) => {
                self.fault(fault)
            }
            Event::MigrationSet(m) => {
                self.migration_set(m);
                Vec::new()
            }
            Event::MigrationRemove(m) => self.migration_remove(m),
            Event::Fault(_) | Event::MmGone(_) | Event::Marker(_) => Vec::new(),
        }
    }

    fn fault(&mut self, fault: &event::Fault) -> Vec<Move> {
        let Some(level) = Level::from_u32(fault.level) else {
            return Vec::new();
        };
        let Some((pages, state)) = self.states_of_entry(level, Entry(fault.entry)) else {
            return Vec::new();
        };
        let first = fault.va >> PAGE_SHIFT & !(pages - 1);
        if matches!(state, PageState::Migrating { .. }) {
            // Under way: the event that ends it tells the frame.
            return Vec::new();
        }
        (0..pages).for_each(|i| _ = self.in_transit.remove(&(first + i)));
        self.change_run(
            first,
            pages,
            state,
            &Change::of(&fault.header),
            |from, to| match (from, to) {
                (PageState::Absent, PageState::Present { .. } | PageState::Zero) => {
                    Cause::FirstTouch
                }
                (PageState::Zero, PageState::Present { .. }) => Cause::ZeroFill,
                (PageState::Swapped { .. }, PageState::Present { .. }) => Cause::SwapIn,
                // Copy-on-write looks like this, but so does a discard that no hook saw.
                _ => Cause::Unknown,
            },
        )
    }

    fn migration_set(&mut self, m: &event::Migration) {
        let Some(level) = Level::from_u32(m.level) else {
            return;
        };
        let pages = level.page_size().map_or(1, PageSize::pages);
        let first = m.va >> PAGE_SHIFT & !(pages - 1);
        let Pfn(old) = Entry(m.entry).migration_pfn(self.paging);
        for i in 0..pages {
            // Where the seeding is younger and found the page at rest, the migration was over by then.
            let at_rest = matches!(self.get(first + i), PageState::Present { .. });
            if at_rest && self.is_seeded(first + i, m.header.t_ns) {
                continue;
            }
            // The last one counts: an entry may have gone without an event (munmap, MADV_DONTNEED).
            self.in_transit.insert(first + i, Pfn(old + i));
        }
    }

    fn migration_remove(&mut self, m: &event::Migration) -> Vec<Move> {
        let Some(level) = Level::from_u32(m.level) else {
            return Vec::new();
        };
        let Some((pages, state)) = self.states_of_entry(level, Entry(m.entry)) else {
            return Vec::new();
        };
        let first = m.va >> PAGE_SHIFT & !(pages - 1);
        if self.is_seeded(first, m.header.t_ns) {
            (0..pages).for_each(|i| _ = self.in_transit.remove(&(first + i)));
            return Vec::new();
        }
        for i in 0..pages {
            // The event knows the old frame better than we do.
            if let Some(old) = self.in_transit.remove(&(first + i)) {
                self.put(first + i, PageState::Present { pfn: old });
            }
        }
        self.change_run(first, pages, state, &Change::of(&m.header), |_, _| {
            Cause::Migration
        })
    }

    /// Compares a reading of the tables, made at `t_ns`, with what is known; gives the differences as moves.
    /// Pages in `busy` had events since the reading began: of them it tells nothing.
    pub fn reconcile(
        &mut self,
        t_ns: u64,
        reading: &BTreeMap<u64, PagemapWord>,
        busy: &HashSet<u64>,
    ) -> Vec<Move> {
        let change = Change {
            seq: None,
            t_ns,
            by: None,
            proof: Proof::Reconciled,
        };
        let gone: Vec<u64> = self
            .pages
            .keys()
            .filter(|page| !reading.contains_key(page))
            .copied()
            .collect();
        let mut moves = Vec::new();
        let now = reading
            .iter()
            .map(|(page, word)| (*page, self.decoder.word(*word)));
        let now: Vec<_> = now
            .chain(gone.into_iter().map(|page| (page, PageState::Absent)))
            .collect();
        for (page, state) in now.into_iter().filter(|(page, _)| !busy.contains(page)) {
            // In transit from the frame that is known: nothing has moved yet.
            if let (PageState::Migrating { pfn }, PageState::Present { pfn: known }) =
                (state, self.get(page))
                && pfn == known
            {
                continue;
            }
            let found = self.change_run(page, 1, state, &change, |_, _| Cause::Unknown);
            found.into_iter().for_each(|m| join(&mut moves, m));
        }
        self.in_transit.clear();
        moves
    }

    /// Gives `pages` pages from number `first` on new states, of which `state` is the first; gives the
    /// moves that this makes, neighbours with the same story as one.
    fn change_run(
        &mut self,
        first: u64,
        pages: u64,
        state: PageState,
        change: &Change,
        cause: impl Fn(PageState, PageState) -> Cause,
    ) -> Vec<Move> {
        let mut moves = Vec::new();
        for i in 0..pages {
            let (page, to) = (first + i, state.advanced(i));
            let from = self.get(page);
            if from == to || !self.is_asked(page) {
                continue;
            }
            self.put(page, to);
            let one = Move {
                seq: change.seq,
                t_ns: change.t_ns,
                va: Hex(page.wrapping_mul(PAGE_SIZE)),
                pages: 1,
                from,
                to,
                cause: cause(from, to),
                reason: None,
                by: change.by.clone(),
                proof: change.proof,
            };
            join(&mut moves, one);
        }
        moves
    }
}

/// Appends `next`, or makes the last move longer where `next` continues it in every respect.
fn join(moves: &mut Vec<Move>, next: Move) {
    if let Some(last) = moves.last_mut() {
        let follows = next.va.0 == last.va.0 + last.pages * PAGE_SIZE
            && next.from == last.from.advanced(last.pages)
            && next.to == last.to.advanced(last.pages)
            && next.cause == last.cause
            && next.seq == last.seq;
        if follows {
            last.pages += next.pages;
            return;
        }
    }
    moves.push(next);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGING: Paging = Paging {
        levels: 4,
        physical_mask: (1 << 52) - 1,
    };
    const VA: VirtAddr = VirtAddr(0x7f00_0000_0000);

    fn header(kind: u32) -> event::Header {
        event::Header {
            kind,
            comm: *b"kcompactd0\0\0\0\0\0\0",
            tid: 42,
            ..Default::default()
        }
    }

    fn pte(pfn: u64) -> u64 {
        pfn << 12 | 0x67
    }

    fn migration_entry(pfn: u64) -> u64 {
        28 << 59 | (!pfn << 14) >> 5
    }

    fn set(va: VirtAddr, pfn: u64) -> Event {
        Event::MigrationSet(event::Migration {
            header: header(event::kind::MIGRATION_SET),
            va: va.0,
            entry: migration_entry(pfn),
            ..Default::default()
        })
    }

    fn remove(va: VirtAddr, pfn: u64) -> Event {
        Event::MigrationRemove(event::Migration {
            header: header(event::kind::MIGRATION_REMOVE),
            va: va.0,
            entry: pte(pfn),
            ..Default::default()
        })
    }

    fn fault(va: VirtAddr, entry: u64, level: u32) -> Event {
        Event::Fault(event::Fault {
            header: header(event::kind::FAULT),
            va: va.0,
            entry,
            level,
            ..Default::default()
        })
    }

    fn present(pfn: u64) -> PageState {
        PageState::Present { pfn: Pfn(pfn) }
    }

    #[test]
    fn a_migration_is_one_move_with_old_and_new_frame_and_the_mover() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 100));
        assert!(ledger.apply(&set(VA, 100)).is_empty());
        let moves = ledger.apply(&remove(VA, 200));
        assert_eq!(moves.len(), 1);
        assert_eq!((moves[0].from, moves[0].to), (present(100), present(200)));
        assert_eq!(moves[0].cause, Cause::Migration);
        assert_eq!(moves[0].by.as_ref().unwrap().comm, "kcompactd0");
        assert_eq!(ledger.state(VA), present(200));
    }

    #[test]
    fn an_aborted_migration_is_no_move() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 100));
        ledger.apply(&set(VA, 100));
        assert!(ledger.apply(&remove(VA, 100)).is_empty());
    }

    #[test]
    fn the_old_frame_is_the_events_even_where_the_ledger_was_behind() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7));
        ledger.apply(&set(VA, 100));
        let moves = ledger.apply(&remove(VA, 200));
        assert_eq!(moves[0].from, present(100));
    }

    #[test]
    fn a_fault_on_nothing_is_a_first_touch_and_a_second_one_is_silent() {
        let mut ledger = Ledger::new(Some(Pfn(5)), PAGING);
        let moves = ledger.apply(&fault(VA, pte(5), 0));
        assert_eq!(
            (moves[0].cause, moves[0].to),
            (Cause::FirstTouch, PageState::Zero)
        );
        let moves = ledger.apply(&fault(VA, pte(9), 0));
        assert_eq!(
            (moves[0].cause, moves[0].from),
            (Cause::ZeroFill, PageState::Zero)
        );
        assert!(ledger.apply(&fault(VA, pte(9), 0)).is_empty());
    }

    #[test]
    fn a_frame_that_changed_without_a_word_is_not_called_copy_on_write() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7));
        assert_eq!(ledger.apply(&fault(VA, pte(9), 0))[0].cause, Cause::Unknown);
    }

    #[test]
    fn a_huge_fault_is_one_move_of_512_pages() {
        let mut ledger = Ledger::new(None, PAGING);
        let inside = VirtAddr(VA.0 + 0x3123);
        let moves = ledger.apply(&fault(inside, 0x4000_0000 | 0xe7, 1));
        assert_eq!(moves.len(), 1);
        assert_eq!((moves[0].va, moves[0].pages), (Hex(VA.0), 512));
        assert_eq!(ledger.state(inside), present(0x40003));
    }

    #[test]
    fn what_happened_before_the_seeding_is_not_told_again() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 9));
        ledger.seeded(VA.page_number(), VA.page_number() + 1, 1000);
        let at = |mut event: Event, t_ns| {
            match &mut event {
                Event::Fault(f) => f.header.t_ns = t_ns,
                Event::MigrationSet(m) | Event::MigrationRemove(m) => m.header.t_ns = t_ns,
                _ => {}
            }
            event
        };
        assert!(ledger.apply(&at(fault(VA, pte(7), 0), 900)).is_empty());
        assert!(ledger.apply(&at(set(VA, 7), 910)).is_empty());
        assert!(ledger.apply(&at(remove(VA, 9), 920)).is_empty());
        assert_eq!(ledger.state(VA), present(9));
        ledger.apply(&at(set(VA, 9), 1010));
        assert_eq!(ledger.apply(&at(remove(VA, 11), 1020))[0].from, present(9));
    }

    #[test]
    fn a_migration_under_way_at_the_seeding_is_one_move() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 62 | 7 << 5 | 28));
        ledger.seeded(VA.page_number(), VA.page_number() + 1, 1000);
        let Event::MigrationSet(mut begin) = set(VA, 7) else {
            unreachable!()
        };
        begin.header.t_ns = 900;
        ledger.apply(&Event::MigrationSet(begin));
        let Event::MigrationRemove(mut done) = remove(VA, 8) else {
            unreachable!()
        };
        done.header.t_ns = 1100;
        let moves = ledger.apply(&Event::MigrationRemove(done));
        assert_eq!((moves[0].from, moves[0].to), (present(7), present(8)));
    }

    #[test]
    fn reconciling_finds_what_changed_and_what_went() {
        let mut ledger = Ledger::new(None, PAGING);
        let next = VirtAddr(VA.0 + PAGE_SIZE);
        ledger.seed(VA, PagemapWord(1 << 63 | 7));
        ledger.seed(next, PagemapWord(1 << 63 | 8));
        let reading = BTreeMap::from([(VA.page_number(), PagemapWord(1 << 63 | 9))]);
        let moves = ledger.reconcile(1, &reading, &HashSet::new());
        assert_eq!(moves.len(), 2);
        assert_eq!((moves[0].from, moves[0].to), (present(7), present(9)));
        assert_eq!(
            (moves[1].from, moves[1].to),
            (present(8), PageState::Absent)
        );
        assert!(
            moves
                .iter()
                .all(|m| m.proof == Proof::Reconciled && m.seq.is_none())
        );
        assert!(ledger.reconcile(2, &reading, &HashSet::new()).is_empty());
    }

    #[test]
    fn a_page_in_transit_from_its_own_frame_has_not_moved() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7));
        let reading = BTreeMap::from([(VA.page_number(), PagemapWord(1 << 62 | 7 << 5 | 28))]);
        assert!(ledger.reconcile(1, &reading, &HashSet::new()).is_empty());
        assert!(ledger.apply(&fault(VA, migration_entry(7), 0)).is_empty());
    }

    #[test]
    fn an_entry_that_went_without_an_event_does_not_name_the_old_frame() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7));
        ledger.apply(&set(VA, 7));
        ledger.apply(&fault(VA, pte(50), 0));
        ledger.apply(&set(VA, 50));
        let moves = ledger.apply(&remove(VA, 60));
        assert_eq!((moves[0].from, moves[0].to), (present(50), present(60)));
    }

    #[test]
    fn what_is_not_asked_about_does_not_enter() {
        let range = Range {
            start: VA.0 + PAGE_SIZE,
            end: VA.0 + 3 * PAGE_SIZE,
        };
        let mut ledger = Ledger::new(None, PAGING).limited_to(&[range]);
        assert!(ledger.apply(&fault(VA, pte(7), 0)).is_empty());
        let moves = ledger.apply(&fault(VA, 0x4000_0000 | 0xe7, 1));
        assert_eq!(
            (moves.len(), moves[0].va, moves[0].pages),
            (1, Hex(range.start), 2)
        );
        assert!(ledger.reconcile(1, &BTreeMap::new(), &HashSet::new()).len() == 1);
    }

    #[test]
    fn a_page_with_newer_events_than_the_reading_is_left_alone() {
        let mut ledger = Ledger::new(None, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7));
        let busy = HashSet::from([VA.page_number()]);
        assert!(ledger.reconcile(1, &BTreeMap::new(), &busy).is_empty());
    }

    #[test]
    fn neighbours_with_the_same_story_are_one_move() {
        let mut ledger = Ledger::new(None, PAGING);
        let reading: BTreeMap<_, _> = (0..4)
            .map(|i| (VA.page_number() + i, PagemapWord(1 << 63 | (50 + i))))
            .collect();
        let moves = ledger.reconcile(1, &reading, &HashSet::new());
        assert_eq!((moves.len(), moves[0].pages), (1, 4));
    }
}
