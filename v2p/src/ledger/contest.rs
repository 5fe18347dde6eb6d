//! Faults that came while another thread was taking entries out. The event of that comes when it is over, and is about all its
//! range: which of the two was first on a page, the order of the events does not tell. So a removal is not believed of such a page,
//! but the page read again; and what the fault found replaced may have been taken away before.

use std::collections::{BTreeMap, HashMap};

use v2p_common::event::Header;

use super::moves::Change;

/// More are not held: what comes of them is believed as it comes.
const MANY: usize = 1 << 16;

/// Readings after which no removal is expected any more that was under way at the fault.
const OVER_AFTER: u8 = 10;

/// A fault that may have come before or after the removal that is to be told yet.
struct Contest {
    tid: u32,
    seq: u64,
    /// Whether what the fault brought was read since.
    stayed: bool,
    readings: u8,
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

    /// A fault on `page` came meanwhile.
    pub(super) fn add(&mut self, page: u64, fault: &Header) {
        if self.pages.len() < MANY {
            let contest = Contest {
                tid: fault.tid,
                seq: fault.seq,
                stayed: false,
                readings: 0,
            };
            self.pages.insert(page, contest);
        }
    }

    /// `page` was there after its fault, with nobody at taking it away as that ended.
    pub(super) fn decided(&mut self, page: u64) {
        self.pages.remove(&page);
    }

    /// `page` was read since its fault, and was there: only a removal that is to be told yet can have taken it.
    pub(super) fn stayed(&mut self, page: u64) {
        if let Some(contest) = self.pages.get_mut(&page) {
            contest.stayed = true;
        }
    }

    /// Whether what was told before the fault on `page` may have taken away what that fault brought: it saw it, and got its number later.
    pub(super) fn may_have_gone(&self, page: u64) -> bool {
        self.pages.get(&page).is_some_and(|contest| !contest.stayed)
    }

    /// Whether a fault of another thread on `page` came before the end of the `removal`, and not before its beginning, as far as
    /// that is known.
    pub(super) fn meets(&self, page: u64, removal: &Change) -> bool {
        let (Some(contest), Some(by)) = (self.pages.get(&page), removal.by) else {
            return false;
        };
        let since = self.removals.get(&by.tid);
        contest.tid != by.tid && since.is_none_or(|since| contest.seq > *since)
    }

    /// A removal was told.
    pub(super) fn removed(&mut self, removal: &Change) {
        if let (Some(by), Some(seq), false) = (removal.by, removal.seq, self.pages.is_empty()) {
            self.removals.insert(by.tid, seq);
        }
    }

    /// A reading is over.
    pub(super) fn was_read(&mut self) {
        self.pages.retain(|_, contest| {
            contest.readings += 1;
            contest.readings < OVER_AFTER
        });
        if self.pages.is_empty() {
            self.removals.clear();
        }
    }
}
