//! What became of each page since an earlier translation. Pure.

use std::ops::Range as Span;

use serde::Serialize;

use super::{earlier::Earlier, layout::Layout, survey::Cells};
use crate::{state::PageState, translate::run::Run};

/// Arrows on a picture, at most: more are a tangle.
pub const ARROWS: usize = 24;

/// What lies in a cell, as its kind in [`Changes::cells`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Change {
    /// Pages in the frames that they had.
    Stayed,
    /// Frames that pages had left for others.
    MovedAway,
    /// Frames that pages have come to from others.
    MovedHere,
    /// Frames of pages that had none.
    Came,
    /// Frames of pages that have none now.
    Left,
}

/// Pages of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// In the same frame.
    pub stayed: u64,
    /// In another frame.
    pub moved: u64,
    /// In a frame, and were in none.
    pub came: u64,
    /// In no frame any more, and not on a swap device.
    pub left: u64,
    /// Were in a frame, and are on a swap device.
    pub swapped: u64,
    /// Of `came`: addresses of which the earlier translation says nothing.
    pub unlisted: u64,
}

/// Pages that moved together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shift {
    /// How many.
    pub pages: u64,
    /// The first frame before.
    pub from: u64,
    /// The first frame now.
    pub to: u64,
}

/// What became of the pages.
pub struct Changes {
    earlier: Earlier,
    /// Cell by cell; the kind is a [`Change`].
    pub cells: Cells,
    /// How many pages of each kind.
    pub counts: Counts,
    /// The largest moves, the largest first.
    pub shifts: Vec<Shift>,
    last: Option<Shift>,
}

impl Changes {
    /// Since `earlier`.
    pub fn since(earlier: Earlier) -> Self {
        Self {
            earlier,
            cells: Cells::default(),
            counts: Counts::default(),
            shifts: Vec::new(),
            last: None,
        }
    }

    /// Takes a run of pages as they are now.
    pub fn run(&mut self, layout: &Layout, run: &Run) {
        let first = run.first.va.page_number();
        let span = first..first + run.pages;
        let pfn = match run.first.state {
            PageState::Present { pfn } => Some(pfn.0),
            _ => None,
        };
        let is_swapped = matches!(run.first.state, PageState::Swapped { .. });
        let now = |page: u64| pfn.map(|pfn| pfn + (page - first));
        for (part, before) in parts(&self.earlier, span) {
            let pages = part.end - part.start;
            match (before, now(part.start)) {
                (Before::At(old), Some(new)) if old == new => {
                    self.counts.stayed += pages;
                    self.put(layout, new, pages, Change::Stayed);
                }
                (Before::At(old), Some(new)) => {
                    self.counts.moved += pages;
                    self.put(layout, old, pages, Change::MovedAway);
                    self.put(layout, new, pages, Change::MovedHere);
                    self.shift(pages, old, new);
                }
                (Before::At(old), None) => {
                    let count = match is_swapped {
                        true => &mut self.counts.swapped,
                        false => &mut self.counts.left,
                    };
                    *count += pages;
                    self.put(layout, old, pages, Change::Left);
                }
                (Before::Nowhere, Some(new)) => {
                    self.counts.came += pages;
                    self.put(layout, new, pages, Change::Came);
                }
                (Before::Unlisted, Some(new)) => {
                    self.counts.came += pages;
                    self.counts.unlisted += pages;
                    self.put(layout, new, pages, Change::Came);
                }
                (Before::Nowhere | Before::Unlisted, None) => {}
            }
        }
    }

    /// Takes pages whose addresses have no mapping any more: all that was in none of `spans`, which are page numbers, in
    /// order and apart.
    pub fn unmapped(&mut self, layout: &Layout, spans: &[Span<u64>]) {
        let mut at = 0;
        for span in spans.iter().cloned().chain([u64::MAX..u64::MAX]) {
            for (part, before) in parts(&self.earlier, at..span.start) {
                if let Before::At(old) = before {
                    let pages = part.end - part.start;
                    self.counts.left += pages;
                    self.put(layout, old, pages, Change::Left);
                }
            }
            at = span.end;
        }
        self.finish_shift();
    }

    fn put(&mut self, layout: &Layout, pfn: u64, pages: u64, change: Change) {
        self.cells.add(layout, pfn, pages, change as u16);
    }

    /// Moves whose frames follow each other are one.
    fn shift(&mut self, pages: u64, from: u64, to: u64) {
        match &mut self.last {
            Some(last) if last.from + last.pages == from && last.to + last.pages == to => {
                last.pages += pages;
            }
            _ => {
                self.finish_shift();
                self.last = Some(Shift { pages, from, to });
            }
        }
    }

    /// Puts the last move among the largest.
    pub fn finish_shift(&mut self) {
        if let Some(last) = self.last.take() {
            let at = self.shifts.partition_point(|s| s.pages >= last.pages);
            if at < ARROWS {
                self.shifts.insert(at, last);
                self.shifts.truncate(ARROWS);
            }
        }
    }
}

/// What was behind an address.
enum Before {
    At(u64),
    Nowhere,
    Unlisted,
}

/// The pages of `span`, in stretches that had one story.
fn parts(earlier: &Earlier, span: Span<u64>) -> Vec<(Span<u64>, Before)> {
    let mut parts = Vec::new();
    let mut at = span.start;
    for piece in earlier.from(span.start) {
        if piece.page >= span.end {
            break;
        }
        if at < piece.page {
            parts.push((at..piece.page, Before::Unlisted));
            at = piece.page;
        }
        let end = (piece.page + piece.pages).min(span.end);
        let before = match piece.pfn {
            Some(pfn) => Before::At(pfn + (at - piece.page)),
            None => Before::Nowhere,
        };
        parts.push((at..end, before));
        at = end;
    }
    if at < span.end {
        parts.push((at..span.end, Before::Unlisted));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{
        earlier::Piece,
        sample::{layout, run},
    };
    use v2p_common::Pfn;

    #[test]
    fn each_page_has_one_story() {
        let piece = |page, pages, pfn| Piece { page, pages, pfn };
        let earlier = Earlier(vec![
            piece(10, 10, Some(100)),
            piece(20, 5, None),
            piece(40, 3, Some(500)),
            piece(50, 2, Some(600)),
        ]);
        let layout = layout();
        let mut changes = Changes::since(earlier);
        let at = |pfn| PageState::Present { pfn: Pfn(pfn) };
        changes.run(&layout, &run(8, at(98), 4, 4096));
        changes.run(&layout, &run(12, at(200), 4, 4096));
        changes.run(&layout, &run(16, PageState::Absent, 2, 4096));
        changes.run(
            &layout,
            &run(18, PageState::Swapped { swap: None }, 2, 4096),
        );
        changes.run(&layout, &run(20, at(300), 5, 4096));
        changes.run(&layout, &run(50, at(601), 1, 4096));
        changes.unmapped(&layout, &[8..25, 50..51]);
        assert_eq!(
            changes.counts,
            Counts {
                stayed: 2,
                moved: 5,
                came: 7,
                left: 2 + 3 + 1,
                swapped: 2,
                unlisted: 2
            }
        );
        let shift = |pages, from, to| Shift { pages, from, to };
        assert_eq!(changes.shifts, [shift(4, 102, 200), shift(1, 600, 601)]);
        let of = |change: Change| {
            let cells = changes.cells.all();
            cells
                .iter()
                .filter(|((_, kind), _)| *kind == change as u16)
                .map(|(_, n)| n)
                .sum::<u64>()
        };
        assert_eq!(of(Change::MovedAway), 5);
        assert_eq!(of(Change::MovedHere), 5);
        assert_eq!(of(Change::Left), 8);
    }
}
