//! What was read when the watch began, and when: one or two spans a mapping, of which there may be tens of thousands, while events come fast.

use std::ops::Range as Span;

/// The ring's order is nearly that of time, and a second covers the difference.
const SLACK_NS: u64 = 1_000_000_000;

/// Spans of pages, in order and apart, each with the time at which its reading began.
#[derive(Default)]
pub(super) struct Seedings {
    spans: Vec<(Span<u64>, u64)>,
    /// When the last reading began.
    last_ns: u64,
}

impl Seedings {
    /// These pages follow all others.
    pub(super) fn add(&mut self, pages: Span<u64>, began_ns: u64) {
        self.spans.push((pages, began_ns));
        self.last_ns = self.last_ns.max(began_ns);
    }

    /// Whether an event on `page` is older than the reading of it.
    pub(super) fn has(&self, page: u64, t_ns: u64) -> bool {
        let next = self.spans.partition_point(|(pages, _)| pages.end <= page);
        let next = self.spans.get(next);
        next.is_some_and(|(pages, began_ns)| pages.contains(&page) && t_ns < *began_ns)
    }

    /// Forgets them all once events as young as `t_ns` have come, and none is to come that is older than the last reading.
    pub(super) fn forget(&mut self, t_ns: u64) {
        if !self.spans.is_empty() && t_ns >= self.last_ns.saturating_add(SLACK_NS) {
            *self = Self::default();
        }
    }
}
