//! What is looked at before anything is written: where the page is, whose it is, what it holds.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use v2p_common::{Pfn, PhysAddr, VirtAddr, pagemap::PagemapWord, pte::Entry};

use super::{
    Guard, Job, lru,
    parts::Part,
    refusal::{self, Frame, Refusal},
};
use crate::{
    page::ksm_flag_tells,
    process::{self, AddressSpace, FrameFile, FrameFlags, frame_flags, frame_mapcount, maps},
    state::PageState,
    translate::{Page, Verdict, leaf_is_bad},
};

/// How often at least, and how long, a page is looked up that is being moved or that the routes do not agree on: who moves it may have to
/// wait for its turn.
const LOOKS: u32 = 1000;
const LOOKED_FOR: Duration = Duration::from_secs(5);
/// After how many of them it is believed that only one route can tell.
const DIFFERING_LOOKS: u32 = 20;
/// How often bytes are compared that the process may be changing meanwhile.
const COMPARISONS: u32 = 10;

/// Where a page is, by both routes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) pfn: Pfn,
    /// The process's entry.
    pub(super) entry: Entry,
    pub(super) word: PagemapWord,
}

/// What a look-up by both routes gave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sight {
    /// Both name this frame.
    At(Place),
    /// Both say that there is none, and what there is.
    Without(Page),
    /// They differ, which passes where the page is being moved.
    Disagree {
        pagemap: PageState,
        walk: Option<Pfn>,
        /// What it means where it goes on so.
        settled: Option<Page>,
    },
    /// There is no address space any more.
    Gone,
}

impl Sight {
    /// The frame.
    pub(super) const fn pfn(self) -> Option<Pfn> {
        match self {
            Self::At(place) => Some(place.pfn),
            _ => None,
        }
    }

    /// As people say it.
    pub(super) fn in_words(self) -> String {
        match self {
            Self::At(place) => format!("it is in frame {}", place.pfn),
            Self::Without(page) => {
                refusal::of_state(page.state).map_or_else(String::new, |r| r.what)
            }
            Self::Disagree { pagemap, walk, .. } => format!(
                "the routes do not agree: {pagemap:?} by pagemap, {} by the walk",
                walk.map_or_else(|| "no frame".to_owned(), |pfn| format!("frame {pfn}"))
            ),
            Self::Gone => "the address space is gone".to_owned(),
        }
    }
}

/// What was found at a physical and at a virtual address.
pub(super) enum Compared {
    /// Both have this.
    Same(Vec<u8>),
    /// They have not the same, again and again.
    Differ,
    /// The process's memory cannot be read there.
    Unread(io::Error),
    /// The physical address cannot be read.
    Denied(io::Error),
}

/// A part that may be written, as far as is known.
pub(super) struct Checked {
    pub(super) part: Part,
    pub(super) pfn: Pfn,
    pub(super) word: PagemapWord,
    /// What it holds.
    pub(super) before: Vec<u8>,
}

impl Checked {
    /// Where it is written to.
    pub(super) const fn pa(&self) -> PhysAddr {
        self.pfn.at(self.part.va.page_offset())
    }
}

impl Guard {
    /// One look-up by both routes.
    pub(super) fn look(&mut self, va: VirtAddr) -> Result<Sight> {
        let Some(both) = self.ask(va)? else {
            return Ok(Sight::Gone);
        };
        let pagemap = self.decoder.word(both.pagemap);
        Ok(match (both.agreed(), both.walk.end) {
            (Some(pfn), Some(end)) if pagemap == (PageState::Present { pfn }) => Sight::At(Place {
                pfn,
                entry: end.entry,
                word: both.pagemap,
            }),
            (_, Some(end)) => {
                let walked = (end.level, end.entry);
                let page = self.decoder.page(va, Some(both.pagemap), Some(walked));
                if page.verdict != Verdict::Disagree {
                    return Ok(Sight::Without(page));
                }
                // Devices' memory, and what else pagemap takes for a hole.
                let settled = self.decoder.settle(page, both.pagemap, walked);
                Sight::Disagree {
                    pagemap,
                    walk: both.walk.pfn(va),
                    settled: Some(settled).filter(|page| {
                        let is_page = matches!(page.state, PageState::Present { .. });
                        page.verdict != Verdict::Disagree && !is_page
                    }),
                }
            }
            (_, None) => Sight::Disagree {
                pagemap,
                walk: None,
                settled: None,
            },
        })
    }

    /// The same, again and again while the page is being moved.
    pub(super) fn look_at_rest(&mut self, va: VirtAddr) -> Result<Sight> {
        let start = Instant::now();
        let mut sight = self.look(va)?;
        for look in 0.. {
            let late = look >= LOOKS && start.elapsed() >= LOOKED_FOR;
            let without = match sight {
                Sight::At(_) | Sight::Gone => return Ok(sight),
                Sight::Without(page) => Some(page),
                Sight::Disagree { settled, .. } => settled.filter(|_| look >= DIFFERING_LOOKS),
            };
            match without.map(|page| (page, page.leaf_in_doubt())) {
                Some((page, None)) => return Ok(Sight::Without(page)),
                // An entry like that of a migration, which stays, is that of bad memory.
                Some((page, Some(leaf)))
                    if look >= LOOKS && leaf_is_bad(&FrameFile::flags()?, leaf)? =>
                {
                    let state = PageState::Poisoned;
                    return Ok(Sight::Without(Page { state, ..page }));
                }
                Some((page, Some(_))) if late => return Ok(Sight::Without(page)),
                None if late => return Ok(sight),
                _ => {}
            }
            thread::sleep(Duration::from_micros(100));
            sight = self.look(va)?;
        }
        Ok(sight)
    }

    /// Where the page at `va` is; or why that is no place to write to.
    pub(super) fn locate(&mut self, job: &Job<'_>, va: VirtAddr) -> Result<Result<Place, Refusal>> {
        let mappings = maps::mappings(self.process.pid)?;
        let mapping = mappings.iter().find(|m| (m.start..m.end).contains(&va.0));
        if let Some(refusal) = refusal::of_mapping(mapping, job.force_readonly) {
            return Ok(Err(refusal));
        }
        Ok(match self.look_at_rest(va)? {
            Sight::At(place) => Ok(place),
            Sight::Gone => return Err(AddressSpace::none(&self.process).into()),
            Sight::Without(Page { state, .. }) => {
                Err(refusal::of_state(state).unwrap_or_else(|| Refusal {
                    id: "absent",
                    what: format!("no frame: {state:?}"),
                }))
            }
            differ @ Sight::Disagree { .. } => Err(Refusal {
                id: "disagree",
                what: differ.in_words(),
            }),
        })
    }

    /// Why the frame must not be written; `None`: it may.
    pub(super) fn refusal(&mut self, place: &Place) -> Result<Option<Refusal>> {
        let pfn = place.pfn;
        // The first of the 2 MiB that the frame lies in, if it is inside a huge page.
        let head = Pfn(pfn.0 & !511);
        let flags_of_head = || frame_flags(head).unwrap_or(FrameFlags(0));
        let mut frame = Frame {
            pfn,
            flags: frame_flags(pfn)?,
            head: flags_of_head(),
            mapcount: frame_mapcount(pfn)?,
            exclusive: place.word.is_exclusive(),
            entry: place.entry,
            direct_map: self.in_direct_map(pfn)?,
            // Not whether the process was merged itself: what it has of a fork counts for its parent.
            merging: ksm_flag_tells() || process::has_merged(),
        };
        let refusal = refusal::of_frame(&frame);
        if refusal.is_some() || !refusal::may_be_given_up(&frame) {
            return Ok(refusal);
        }
        if !lru::drain(self.source.address()) {
            return Ok(Some(refusal::given_up_perhaps()));
        }
        (frame.flags, frame.head) = (frame_flags(pfn)?, flags_of_head());
        Ok(refusal::of_frame(&frame))
    }

    /// The kernel's own entry for the frame; `None`: it has none.
    fn in_direct_map(&self, pfn: Pfn) -> Result<Option<Entry>> {
        let va = self.direct_map.address(pfn);
        match self.carrier.walk(&self.pagemap, va)? {
            Some(walk) => Ok(self.direct_map.entry(pfn, &walk)),
            None => Err(AddressSpace::none(&self.process).into()),
        }
    }

    /// What the part holds, by the physical and the virtual address.
    pub(super) fn compare(&self, pfn: Pfn, part: Part) -> Result<Compared> {
        let Some(devmem) = &self.devmem else {
            anyhow::bail!("/dev/mem is not open");
        };
        let (mut physical, mut own) = (vec![0; part.len], vec![0; part.len]);
        let mut unread = None;
        for _ in 0..COMPARISONS {
            if let Err(e) = devmem.read(pfn.at(part.va.page_offset()), &mut physical) {
                return Ok(Compared::Denied(e));
            }
            match self.memory.read(part.va, &mut own) {
                Ok(()) if own == physical => return Ok(Compared::Same(physical)),
                read => unread = read.err(),
            }
        }
        Ok(unread.map_or(Compared::Differ, Compared::Unread))
    }
}
