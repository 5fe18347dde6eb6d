//! Faults that came while another thread was taking entries out. The event of that comes when it is over, and is about all its
//! range: which of the two was first on a page, the order of the events does not tell.

use std::collections::{BTreeMap, HashMap};

use v2p_common::event::Header;

use super::moves::Change;
use crate::{record::Move, state::PageState};

/// More are not held: what comes of them is believed as it comes.
const MANY: usize = 1 << 16;

/// Readings after which what was held is told as it seemed, and after which no removal is expected any more that was under
/// way at the fault.
const TOLD_AFTER: u8 = 2;
const OVER_AFTER: u8 = 10;

/// A fault that may have come before or after the removal that is to be told yet.
struct Contest {
    tid: u32,
    seq: u64,
    readings: u8,
    held: Option<Held>,
}

/// A page that a fault found in the place of another.
pub(super) struct Held {
    pub(super) from: PageState,
    pub(super) to: PageState,
    pub(super) change: Change,
    /// What that is where nobody had taken the other away before.
    pub(super) moves: Vec<Move>,
}

/// All of them, by page number.
#[derive(Default)]
pub(super) struct Contests {
    pages: BTreeMap<u64, Contest>,
    /// The last removal of each thread: the next began after it.
    removals: HashMap<u32, u64>,
    /// The first thread of which an event came.
    first: Option<u32>,
    /// Whether there was another.
    many: bool,
}

impl Contests {
    /// An event of this thread came.
    pub(super) fn heard(&mut self, tid: u32) {
        self.many |= *self.first.get_or_insert(tid) != tid;
    }

    /// Whether events came of more than one thread.
    pub(super) const fn has_rivals(&self) -> bool {
        self.many
    }

    pub(super) fn add(&mut self, page: u64, fault: &Header, held: Option<Held>) {
        let contest = Contest {
            tid: fault.tid,
            seq: fault.seq,
            readings: 0,
            held,
        };
        self.pages.insert(page, contest);
    }

    /// Whether there is room for more.
    pub(super) fn has_room(&self) -> bool {
        self.pages.len() < MANY
    }

    /// Something else is told of `page`: what was held is told as it seemed.
    pub(super) fn release(&mut self, page: u64) -> Vec<Move> {
        if self.pages.is_empty() {
            return Vec::new();
        }
        let held = self.pages.get_mut(&page).and_then(|c| c.held.take());
        held.map_or_else(Vec::new, |held| held.moves)
    }

    /// Whether a fault of another thread on `page` came before the end of the `removal`, and not before its beginning, as far as
    /// that is known; with what was held.
    pub(super) fn meets(&mut self, page: u64, removal: &Change) -> Option<Option<Held>> {
        let contest = self.pages.get_mut(&page)?;
        let by = removal.by?.tid;
        let since = self.removals.get(&by).copied();
        let meets = contest.tid != by && since.is_none_or(|since| contest.seq > since);
        meets.then(|| contest.held.take())
    }

    /// A removal was told.
    pub(super) fn removed(&mut self, removal: &Change) {
        if let (Some(by), Some(seq)) = (removal.by, removal.seq) {
            self.removals.insert(by.tid, seq);
        }
    }

    /// A reading is over: what is held for long is told as it seemed.
    pub(super) fn was_read(&mut self) -> Vec<Move> {
        let mut told = Vec::new();
        self.pages.retain(|_, contest| {
            contest.readings += 1;
            if contest.readings >= TOLD_AFTER
                && let Some(held) = contest.held.take()
            {
                told.extend(held.moves);
            }
            contest.readings < OVER_AFTER
        });
        told
    }

    /// Everything ends: what was held is told as it seemed.
    pub(super) fn end(&mut self) -> Vec<Move> {
        let pages = std::mem::take(self).pages.into_values();
        pages
            .filter_map(|contest| contest.held)
            .flat_map(|held| held.moves)
            .collect()
    }
}
