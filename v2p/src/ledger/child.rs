//! The ledger of a child, from its fork on.
//!
//! A fork copies the parent's entries, but not all: those of files and shared memory come with the first touch
//! (vma_needs_copy, mm/memory.c, 6.1 to 7.3). So the child's ledger begins with what its parent's has of the rest, and what the
//! first reading of its pagemap finds otherwise was so from the beginning: no page moved. Unless an event told of it since.

use std::{collections::BTreeSet, ops::Range as Span};

use v2p_common::event::FAULT_AROUND;

use super::Ledger;
use crate::state::PageState;

/// A child whose pagemap was not read yet, or not compared.
#[derive(Default)]
pub(super) struct Young {
    /// Pages that events told of since the fork, by number.
    told: BTreeSet<u64>,
    /// Whether its pagemap was read since.
    read: bool,
}

impl Young {
    pub(super) fn tell(&mut self, page: u64) {
        self.told.insert(page);
    }

    /// Whether `page` was what it is from the beginning, where the first reading found it so and the ledger has `known`.
    pub(super) fn was_so(&self, page: u64, known: PageState) -> bool {
        let around = page / FAULT_AROUND * FAULT_AROUND;
        let came_along = known == PageState::Absent
            && self
                .told
                .range(around..around + FAULT_AROUND)
                .next()
                .is_some();
        !came_along && !self.told.contains(&page)
    }
}

impl Ledger {
    /// That of a child that is forked now; `copied`: pages whose entries a fork copies, by number, in order and apart.
    /// Entries without a page behind them (VM_PFNMAP) are copied wherever they are.
    #[must_use]
    pub fn forked(&self, copied: &[Span<u64>]) -> Self {
        let is_copied = |page: u64| {
            let next = copied.partition_point(|span| span.end <= page);
            copied.get(next).is_some_and(|span| span.start <= page)
        };
        let mut child = self.blank();
        for (page, state) in self.pages.range(0..u64::MAX) {
            let merged = self.merged.contains(&page);
            // What was taken away before is still in the ledger; where it was not, the first reading finds it as it was from the beginning.
            let is_gone = self.doubts.took(page, state, merged).is_some();
            let is_there = matches!(state, PageState::Device { .. }) || is_copied(page);
            if is_there && !is_gone {
                child.pages.put(page, state);
            }
        }
        let pages = self.in_transit.iter().filter(|(page, _)| is_copied(**page));
        child.in_transit = pages.map(|(page, pfn)| (*page, *pfn)).collect();
        let pages = self.merged.iter().filter(|page| is_copied(**page));
        child.merged = pages.copied().collect();
        child.young = Some(Young::default());
        child
    }

    /// An empty one, that knows how to read what this one reads.
    #[must_use]
    pub fn blank(&self) -> Self {
        let Self {
            decoder,
            paging,
            is_bad,
            sees_removals,
            weighs,
            ..
        } = self;
        Self::new(decoder.zero, *paging)
            .knowing_bad_frames(*is_bad)
            .limited_to(&self.asked)
            .seeing_removals(*sees_removals)
            .weighing_contests(*weighs)
    }

    /// An event has told of `page`.
    pub(super) fn told(&mut self, page: u64) {
        if let Some(young) = &mut self.young {
            young.tell(page);
        }
    }

    /// The pagemap was read, or was not as a whole.
    pub(super) const fn was_read(&mut self, whole: bool) {
        if let Some(young) = &mut self.young {
            young.read = whole;
        }
    }

    /// A child, whose first reading is being believed: from then on it is as any other.
    pub(super) fn grow_up(&mut self) -> Option<Young> {
        self.young.take_if(|young| young.read)
    }
}

#[cfg(test)]
mod tests {
    use v2p_common::{
        Pfn, VirtAddr,
        event::{self, Event, fault, kind},
        pagemap::PagemapWord,
        pte::Paging,
    };

    use super::*;
    use crate::{
        page::ZeroFrames,
        record::{Cause, Proof},
    };

    /// Page numbers.
    const FIRST: u64 = 0x7_f000_0000;
    const ALL: Span<u64> = FIRST..FIRST + 64;

    fn word(pfn: u64) -> PagemapWord {
        PagemapWord(1 << 63 | pfn)
    }

    /// A parent with frames 100, 101 and so on in its first pages, and a child that got the first eight of them.
    fn child() -> Ledger {
        let paging = Paging {
            levels: 4,
            physical_mask: (1 << 52) - 1,
        };
        let mut parent = Ledger::new(ZeroFrames::UNKNOWN, paging);
        for i in 0..16 {
            parent.seed(VirtAddr((FIRST + i) << 12), word(100 + i), false);
        }
        parent.forked(&[FIRST..FIRST + 8])
    }

    fn fault(page: u64, pfn: u64) -> Event {
        Event::Fault(event::Fault {
            header: event::Header {
                kind: kind::FAULT,
                ..Default::default()
            },
            va: page << 12,
            entry: pfn << 12 | 0x67,
            level: 0,
            flags: fault::PROTECTION,
        })
    }

    fn first_eight() -> Vec<(u64, PagemapWord)> {
        (0..8).map(|i| (FIRST + i, word(100 + i))).collect()
    }

    #[test]
    fn a_child_has_what_was_copied_and_no_page_moved_by_that() {
        let mut child = child();
        assert_eq!(child.len(), 8);
        child.compare(ALL, &first_eight());
        assert!(child.confirm(1, |_| true).is_empty());
        assert_eq!(child.len(), 8);
    }

    #[test]
    fn what_the_first_reading_finds_otherwise_was_so_and_what_a_later_one_does_is_a_move() {
        let mut child = child();
        let mut words = first_eight();
        words.truncate(7);
        words.push((FIRST + 40, word(9)));
        child.compare(ALL, &words);
        assert!(child.confirm(1, |_| true).is_empty());
        words.truncate(6);
        child.compare(ALL, &words);
        let moves = child.confirm(2, |_| true);
        let pages: u64 = moves.iter().map(|m| m.pages).sum();
        assert_eq!(pages, 2);
        assert!(moves.iter().all(|m| m.proof == Proof::Reconciled));
    }

    #[test]
    fn a_write_is_a_copy_of_the_parents_page_whether_the_reading_has_it_already_or_not() {
        for read_before in [false, true] {
            let mut child = child();
            let mut words = first_eight();
            words[3].1 = word(500);
            if read_before {
                child.compare(ALL, &words);
            }
            let moves = child.apply(&fault(FIRST + 3, 500));
            let [one] = moves.as_slice() else {
                panic!("{moves:?}")
            };
            let (from, to) = (Pfn(103), Pfn(500));
            assert_eq!(one.cause, Cause::Cow);
            assert_eq!(one.from, PageState::Present { pfn: from });
            assert_eq!(one.to, PageState::Present { pfn: to });
            if !read_before {
                child.compare(ALL, &words);
            }
            assert!(child.confirm(1, |_| true).is_empty());
        }
    }

    #[test]
    fn neighbours_that_came_with_a_fault_are_told() {
        let mut child = child();
        child.apply(&fault(FIRST + 33, 700));
        let mut words = first_eight();
        words.extend([
            (FIRST + 33, word(700)),
            (FIRST + 34, word(701)),
            (FIRST + 60, word(9)),
        ]);
        child.compare(ALL, &words);
        let moves = child.confirm(1, |_| true);
        let [one] = moves.as_slice() else {
            panic!("{moves:?}")
        };
        assert_eq!(
            (one.va.0, one.cause),
            ((FIRST + 34) << 12, Cause::FirstTouch)
        );
    }

    #[test]
    fn what_a_child_was_seen_to_do_to_a_range_is_told() {
        let mut child = child();
        let unmapped = event::Look {
            header: event::Header {
                kind: kind::LOOK,
                ..Default::default()
            },
            va: (FIRST + 4) << 12,
            len: 4 << 12,
            level: u32::MAX,
            how: event::how::ZAP,
            detail: 11,
            ..Default::default()
        };
        child.apply(&Event::Look(unmapped));
        child.compare(ALL, &first_eight()[..4]);
        let moves = child.confirm(1, |_| false);
        let pages: u64 = moves.iter().map(|m| m.pages).sum();
        assert_eq!((pages, moves[0].cause), (4, Cause::Unmap));
        assert!(moves.iter().all(|m| m.proof == Proof::Event));
    }
}
