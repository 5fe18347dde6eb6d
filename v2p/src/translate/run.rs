//! Pages -> runs: stretches that are contiguous in both address spaces and alike in everything shown. Pure.

use v2p_common::PAGE_SIZE;

use super::page::Page;
use crate::state::{PageState, Totals, Verdict};

/// Pages that go together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first page.
    pub first: Page,
    /// How many base pages.
    pub pages: u64,
}

impl Run {
    /// Whether `next` goes on where this run ends, in everything.
    fn goes_on(&self, next: &Page) -> bool {
        let expected = Page {
            va: v2p_common::VirtAddr(
                self.first
                    .va
                    .0
                    .wrapping_add(self.pages.wrapping_mul(PAGE_SIZE)),
            ),
            state: self.first.state.advanced(self.pages),
            ..self.first
        };
        expected == *next
    }
}

/// Joins pages into runs.
#[derive(Default)]
pub struct Runs {
    /// The run that is open.
    pub current: Option<Run>,
    /// No joining: one run a page, but one for all that was not looked at since nothing is there.
    pub each: bool,
}

impl Runs {
    /// Takes `pages` pages that are alike, the first being `page`; gives the run that this ends.
    pub fn push(&mut self, page: Page, pages: u64) -> Option<Run> {
        if let Some(run) = &mut self.current
            && (!self.each || pages > 1 && run.pages > 1)
            && run.goes_on(&page)
        {
            run.pages += pages;
            return None;
        }
        self.current.replace(Run { first: page, pages })
    }

    /// The run that is still open.
    pub fn finish(&mut self) -> Option<Run> {
        self.current.take()
    }
}

impl Totals {
    /// Pages that are not absent and that one route alone tells.
    pub const fn told_by_one(&self) -> u64 {
        self.single.saturating_sub(self.holes)
    }

    /// Counts a run.
    pub fn add(&mut self, run: &Run) {
        self.pages += run.pages;
        let of_state = match run.first.state {
            PageState::Present { .. } => &mut self.present,
            PageState::Swapped { .. } => &mut self.swapped,
            PageState::Migrating { .. } => &mut self.migrating,
            PageState::Zero => &mut self.zero,
            PageState::Device { .. } => &mut self.device,
            PageState::Guard => &mut self.guard,
            PageState::Poisoned => &mut self.poisoned,
            PageState::Absent => &mut self.absent,
            PageState::Hidden => &mut self.hidden,
        };
        *of_state += run.pages;
        match run.first.verdict {
            Verdict::Disagree => self.disagree += run.pages,
            Verdict::Moved => self.moved += run.pages,
            Verdict::Single => {
                self.single += run.pages;
                if run.first.state == PageState::Absent {
                    self.holes += run.pages;
                }
            }
            Verdict::Agree => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v2p_common::{Pfn, VirtAddr};

    fn page(n: u64, pfn: u64) -> Page {
        Page {
            va: VirtAddr(0x1000 * n),
            state: PageState::Present { pfn: Pfn(pfn) },
            page_size: Some(4096),
            marks: Default::default(),
            frame: None,
            mapped: None,
            node: None,
            verdict: Verdict::Agree,
        }
    }

    #[test]
    fn pages_join_while_both_addresses_go_on() {
        let mut runs = Runs::default();
        let mut out = Vec::new();
        for (n, pfn) in [(1, 10), (2, 11), (3, 12), (4, 20), (6, 21)] {
            out.extend(runs.push(page(n, pfn), 1));
        }
        out.extend(runs.finish());
        let shape: Vec<_> = out.iter().map(|r| (r.first.va.0, r.pages)).collect();
        assert_eq!(shape, [(0x1000, 3), (0x4000, 1), (0x6000, 1)]);
    }

    #[test]
    fn what_was_not_looked_at_is_one_run_also_where_each_page_is_one() {
        let mut runs = Runs {
            each: true,
            ..Runs::default()
        };
        let absent = |n| Page {
            state: PageState::Absent,
            ..page(n, 0)
        };
        let mut out = Vec::new();
        for (n, pages) in [(1, 1), (2, 1), (3, 100), (103, 50), (153, 1)] {
            out.extend(runs.push(absent(n), pages));
        }
        out.extend(runs.finish());
        let shape: Vec<_> = out.iter().map(|run| run.pages).collect();
        assert_eq!(shape, [1, 1, 150, 1]);
    }

    #[test]
    fn a_difference_in_anything_shown_ends_a_run() {
        let mut runs = Runs::default();
        runs.push(page(1, 10), 1);
        let other = Page {
            node: Some(1),
            ..page(2, 11)
        };
        assert_eq!(runs.push(other, 1).unwrap().pages, 1);
    }

    #[test]
    fn every_page_is_counted_once() {
        let mut totals = Totals::default();
        let mut run = Run {
            first: page(1, 10),
            pages: 7,
        };
        totals.add(&run);
        run.first.state = PageState::Absent;
        run.first.verdict = Verdict::Moved;
        totals.add(&run);
        assert_eq!(
            (totals.pages, totals.present, totals.absent, totals.moved),
            (14, 7, 7, 7)
        );
        run.first.verdict = Verdict::Single;
        totals.add(&run);
        run.first.state = PageState::Zero;
        totals.add(&run);
        assert_eq!((totals.single, totals.holes, totals.zero), (14, 7, 7));
    }
}
