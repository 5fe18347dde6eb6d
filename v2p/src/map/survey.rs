//! What a process has of each cell of memory, mapping by mapping. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::{
    state::PageState,
    translate::{Totals, run::Run},
};

use super::layout::Layout;

/// Frames of the smallest large page.
const LARGE: u64 = 512;

/// How many pages of each kind lie in each cell.
#[derive(Default)]
pub struct Cells {
    counts: HashMap<(u64, u16), u64>,
    /// The last one, of which the next page mostly is too.
    last: Option<((u64, u16), u64)>,
    /// Pages in frames that no zone spans.
    pub elsewhere: u64,
}

impl Cells {
    /// Counts `pages` pages of kind `kind`, in frames from `pfn` on.
    pub fn add(&mut self, layout: &Layout, mut pfn: u64, mut pages: u64, kind: u16) {
        let frames = layout.cell_frames();
        while pages > 0 {
            let mut some = pages.min(frames - pfn % frames);
            match layout.cell_of(pfn) {
                Some(cell) => self.count((cell, kind), some),
                None => {
                    // Where no zone is, there is nothing up to the next.
                    some = match layout.next_zone(pfn) {
                        None => pages,
                        Some(start) => pages.min(some.max(start.saturating_sub(pfn))),
                    };
                    self.elsewhere += some;
                }
            }
            pfn += some;
            pages -= some;
        }
    }

    fn count(&mut self, key: (u64, u16), pages: u64) {
        match &mut self.last {
            Some((last, n)) if *last == key => *n += pages,
            _ => {
                if let Some((last, n)) = self.last.replace((key, pages)) {
                    *self.counts.entry(last).or_default() += n;
                }
            }
        }
    }

    /// Cell, kind and pages of every kind in every cell.
    pub fn all(&self) -> HashMap<(u64, u16), u64> {
        let mut all = self.counts.clone();
        if let Some((last, n)) = self.last {
            *all.entry(last).or_default() += n;
        }
        all
    }
}

/// Mappings of one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// As /proc/PID/maps has it.
    pub name: String,
    /// Pages in a frame.
    pub present: u64,
    /// Pages on a swap device.
    pub swapped: u64,
}

/// Part of a large page: what of its frames the process has in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Large {
    /// The first frame of the page.
    pub pfn: u64,
    /// Frames of the page.
    pub frames: u64,
    /// Which group has it.
    pub group: u16,
}

/// What a process has of memory.
#[derive(Default)]
pub struct Survey {
    /// Cell by cell; the kind is the number of the group.
    pub cells: Cells,
    /// By name, in the order in which they were met.
    pub groups: Vec<Group>,
    /// Large pages, each once for every stretch in which it was met.
    pub large: Vec<Large>,
    /// Pages of each state.
    pub totals: Totals,
    /// Stretches of frames that follow each other where their addresses do.
    pub runs: u64,
    /// Whether the size of a page is known.
    pub sizes_known: bool,
    by_name: HashMap<String, u16>,
    /// Address and frame that would continue the last stretch.
    next: Option<(u64, u64)>,
}

impl Survey {
    /// The number of the group of that name.
    pub fn group(&mut self, name: &str) -> u16 {
        if let Some(group) = self.by_name.get(name) {
            return *group;
        }
        // Numbers beyond are of one group: nobody has so many names.
        let group = u16::try_from(self.groups.len()).unwrap_or(u16::MAX);
        if group < u16::MAX {
            self.by_name.insert(name.to_owned(), group);
            self.groups.push(Group {
                name: name.to_owned(),
                present: 0,
                swapped: 0,
            });
        }
        group
    }

    /// Takes a run of pages of a group.
    pub fn run(&mut self, layout: &Layout, run: &Run, group: u16) {
        self.totals.add(run);
        let Run { first, pages } = *run;
        let of_group = self.groups.get_mut(usize::from(group));
        match first.state {
            PageState::Present { pfn } => {
                if let Some(of_group) = of_group {
                    of_group.present += pages;
                }
                self.cells.add(layout, pfn.0, pages, group);
                if self.next != Some((first.va.page_number(), pfn.0)) {
                    self.runs += 1;
                }
                self.next = Some((first.va.page_number() + pages, pfn.0 + pages));
                self.sizes_known |= first.page_size.is_some();
                let frames = first.page_size.unwrap_or(0) / v2p_common::PAGE_SIZE;
                if frames >= LARGE {
                    self.large(pfn.0, pages, frames, group);
                }
            }
            PageState::Swapped { .. } => {
                if let Some(of_group) = of_group {
                    of_group.swapped += pages;
                }
            }
            _ => {}
        }
    }

    /// First frame and frames of each large page, each once, by frame.
    pub fn large_pages(&self) -> BTreeSet<(u64, u64)> {
        let large = self.large.iter();
        large.map(|large| (large.pfn, large.frames)).collect()
    }

    fn large(&mut self, pfn: u64, pages: u64, frames: u64, group: u16) {
        let mut first = pfn - pfn % frames;
        while first < pfn + pages {
            let next = Large {
                pfn: first,
                frames,
                group,
            };
            if self.large.last() != Some(&next) {
                self.large.push(next);
            }
            first += frames;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::sample::{layout, run};
    use v2p_common::Pfn;

    fn present(pfn: u64) -> PageState {
        PageState::Present { pfn: Pfn(pfn) }
    }

    #[test]
    fn every_page_is_in_one_cell() {
        let layout = layout();
        let mut survey = Survey::default();
        let heap = survey.group("[heap]");
        assert_eq!(survey.group("[heap]"), heap);
        survey.run(&layout, &run(0, present(5), 1000, 4096), heap);
        survey.run(&layout, &run(1000, present(1 << 30), 3, 4096), heap);
        survey.run(
            &layout,
            &run(1003, PageState::Swapped { swap: None }, 7, 4096),
            heap,
        );
        let cells = survey.cells.all();
        assert_eq!(cells.values().sum::<u64>(), 1000);
        assert_eq!(cells.len(), 501, "two frames a cell, from an odd one on");
        assert_eq!(survey.cells.elsewhere, 3);
        let Group {
            present, swapped, ..
        } = survey.groups[0];
        assert_eq!((present, swapped, survey.totals.present), (1003, 7, 1003));
    }

    #[test]
    fn a_run_goes_on_only_where_both_addresses_do() {
        let layout = layout();
        let mut survey = Survey::default();
        let group = survey.group("");
        for (page, pfn) in [(0, 10), (1, 11), (2, 20), (4, 21), (5, 22)] {
            survey.run(&layout, &run(page, present(pfn), 1, 4096), group);
        }
        assert_eq!(survey.runs, 3);
    }

    #[test]
    fn a_large_page_is_one_however_it_is_met() {
        let layout = layout();
        let mut survey = Survey::default();
        let group = survey.group("");
        survey.run(&layout, &run(512, present(1024), 100, 2 << 20), group);
        survey.run(&layout, &run(612, present(1124), 412, 2 << 20), group);
        survey.run(&layout, &run(1024, present(4096), 1024, 2 << 20), group);
        let pfns: Vec<_> = survey.large.iter().map(|large| large.pfn).collect();
        assert_eq!(pfns, [1024, 4096, 4608]);
    }
}
