//! The look at every process, one after the other.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use anyhow::{Result, bail};
use v2p_common::{Pfn, VirtAddr};

use super::left::{Left, Why};
use crate::{
    exit,
    process::{AddressSpace, FrameFile, FrameFlags, Process},
    record::{Hex, Record},
    render::Output,
    state::PageState,
    translate::{Finder, Page, Route, Translator, Wanted, leaf_is_bad},
};

/// How often a process is looked at that executes another program meanwhile.
const ATTEMPTS: usize = 4;
/// Pages of a process that are kept until it is known that they were its, at most: 2.5 MiB of them.
const KEPT: usize = 1 << 16;
/// Of those that are in migration.
const KEPT_MOVING: usize = 1 << 10;
/// How often we wait for migrations to end, in one process.
const WAITS: u32 = 200;
const WAIT: Duration = Duration::from_millis(1);

/// A search, and what came of it so far.
pub(super) struct Search {
    wanted: Wanted,
    translator: Translator,
    /// `None`: not ours to read.
    flags: Option<FrameFile>,
    pub(super) counts: Counts,
}

/// What was found.
#[derive(Default)]
pub(super) struct Counts {
    /// Processes that were looked at from end to end.
    pub(super) processes: u64,
    /// Their pages that were compared.
    pub(super) pages: u64,
    /// Pages that map one of the frames: those that were told.
    pub(super) mappings: u64,
    /// Processes that could not be read, or not all of them.
    pub(super) unread: u64,
    /// Which was the first of them, and why.
    pub(super) unread_why: Option<String>,
    /// Mappings by frame.
    by_frame: BTreeMap<Pfn, u64>,
    /// By frame: an entry that names it and maps nothing.
    left: BTreeMap<Pfn, Left>,
}

impl Counts {
    /// Mappings of `pfn`.
    pub(super) fn of_frame(&self, pfn: Pfn) -> u64 {
        self.by_frame.get(&pfn).copied().unwrap_or_default()
    }

    /// Takes that a process could not be read, or not all of it, and why.
    fn could_not_read(&mut self, why: impl FnOnce() -> String) {
        self.unread += 1;
        self.unread_why.get_or_insert_with(why);
    }

    /// Takes that `pfn` is named by an entry that maps nothing, for the first time of this process.
    fn left(&mut self, pfn: Pfn, pid: u32, comm: &str, va: VirtAddr, why: Why) {
        let others = self.left.get(&pfn).map(|first| first.others + 1);
        let left = self.left.entry(pfn).or_insert_with(|| Left {
            pid,
            comm: comm.to_owned(),
            va,
            why,
            others: 0,
        });
        left.others = others.unwrap_or(0);
    }

    /// Whose page was in `pfn`.
    pub(super) fn left_by(&self, pfn: Pfn) -> Option<&Left> {
        self.left.get(&pfn)
    }
}

/// What became of a look at a process.
enum Look {
    /// It was counted, or has ended.
    Over,
    /// What was seen is not what it has now.
    Changed,
}

/// A page that names a wanted frame.
#[derive(Clone, Copy)]
struct Hit {
    va: VirtAddr,
    pfn: Pfn,
    page_size: Option<u64>,
    /// Which of the mappings.
    mapping: u32,
}

/// One process, as it is looked at.
struct Looked<'a> {
    process: &'a Process,
    space: &'a AddressSpace,
    comm: String,
    /// Not told yet.
    hits: Vec<Hit>,
    moving: Vec<Hit>,
    /// Those that went on mapping nothing.
    left: BTreeMap<Pfn, (VirtAddr, Why)>,
    /// Why the reading is to stop.
    stop: Option<Stop>,
    /// Whether all that was found of it will be told.
    whole: bool,
}

enum Stop {
    /// The address space is not the process's any more.
    Changed,
    /// Nothing can be told any more.
    Failed(anyhow::Error),
}

impl Looked<'_> {
    /// Takes a page that was found; tells what there is once it is much.
    fn found(
        &mut self,
        page: &Page,
        hit: Hit,
        counts: &mut Counts,
        output: &mut Output,
    ) -> Result<()> {
        if page.any_frame().is_none() {
            match self.moving.len() < KEPT_MOVING {
                true => self.moving.push(hit),
                false => self.whole = false,
            }
            return Ok(());
        }
        self.hits.push(hit);
        if self.hits.len() < KEPT {
            return Ok(());
        }
        match self.tell(counts, output) {
            Ok(true) => return Ok(()),
            Ok(false) => self.stop = Some(Stop::Changed),
            Err(e) => self.stop = Some(Stop::Failed(e)),
        }
        bail!("it is to stop")
    }

    /// Tells what was found, if that is the process's. False: it may not be.
    fn tell(&mut self, counts: &mut Counts, output: &mut Output) -> Result<bool> {
        // The name too.
        if !self.space.is_of(self.process) {
            return Ok(false);
        }
        for (pfn, (va, why)) in std::mem::take(&mut self.left) {
            counts.left(pfn, self.process.pid, &self.comm, va, why);
        }
        for hit in self.hits.drain(..) {
            counts.mappings += 1;
            *counts.by_frame.entry(hit.pfn).or_default() += 1;
            let mapping = self.space.mappings.get(hit.mapping as usize);
            output.record(&Record::Mapping {
                pfn: hit.pfn.0,
                pid: self.process.pid,
                comm: self.comm.clone(),
                va: Hex(hit.va.0),
                name: mapping
                    .map(|mapping| mapping.name.clone())
                    .unwrap_or_default(),
                page_size: hit.page_size,
            })?;
        }
        Ok(true)
    }

    /// What became of a look that the address space did not outlast.
    fn after(&self) -> Look {
        match self.process.has_ended() {
            true => Look::Over,
            false => Look::Changed,
        }
    }
}

impl Search {
    /// For these frames.
    ///
    /// # Errors
    /// Exit code 3 where page tables cannot be walked here.
    pub(super) fn new(frames: &[Pfn]) -> Result<Self> {
        let mut translator = Translator::new(Route::Walk)?;
        translator.frames_alone();
        Ok(Self {
            wanted: Wanted::new(frames),
            translator,
            flags: FrameFile::flags().ok(),
            counts: Counts::default(),
        })
    }

    /// Looks at one process. Kernel threads have no pages, and one that ends before all of it was looked at has left those that it had: nothing
    /// is said of them, but for what was told already of one that has more than [`KEPT`]. What we may not read is counted, and so is what executes
    /// one program after the other.
    ///
    /// # Errors
    /// Those of the output, and what keeps us from any process.
    pub(super) fn process(&mut self, pid: u32, output: &mut Output) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if matches!(self.look(pid, output)?, Look::Over) {
                return Ok(());
            }
        }
        self.counts
            .could_not_read(|| format!("process {pid} executes one program after the other"));
        Ok(())
    }

    fn look(&mut self, pid: u32, output: &mut Output) -> Result<Look> {
        let process = match Process::open(pid) {
            Ok(process) => process,
            Err(e) if exit::code(&e) == exit::NO => return Ok(Look::Over),
            Err(e) => {
                self.counts.could_not_read(|| format!("{e:#}"));
                return Ok(Look::Over);
            }
        };
        let space = match AddressSpace::of(&process) {
            Ok(space) => space,
            Err(_) if AddressSpace::is_over(&process) => return Ok(Look::Over),
            Err(e) if exit::code(&e) == exit::NO => return Ok(Look::Changed),
            Err(e) => {
                self.counts.could_not_read(|| format!("{e:#}"));
                return Ok(Look::Over);
            }
        };
        let mut looked = Looked {
            process: &process,
            space: &space,
            comm: process.name(),
            hits: Vec::new(),
            moving: Vec::new(),
            left: BTreeMap::new(),
            stop: None,
            whole: true,
        };
        let mut pages = 0;
        for (mapping, n) in space.mappings.iter().zip(0..) {
            let counts = &mut self.counts;
            let mut finder = Finder::new(&self.wanted, |page: &Page, pfn| {
                let hit = Hit {
                    va: page.va,
                    pfn,
                    page_size: page.page_size,
                    mapping: n,
                };
                looked.found(page, hit, counts, output)
            });
            let read = self
                .translator
                .mapping(&space.pagemap, mapping, &mut finder);
            pages += finder.pages;
            match (read, looked.stop.take()) {
                (_, Some(Stop::Failed(e))) => return Err(e),
                (_, Some(Stop::Changed)) | (Ok(false), None) => return Ok(looked.after()),
                (Ok(true), None) => {}
                (Err(e), None) if exit::code(&e) == exit::UNSUPPORTED => return Err(e),
                // Others are none the worse for it, and what was found is so.
                (Err(_), None) => {
                    looked.whole = false;
                    break;
                }
            }
        }
        let alive = match self.ask_again(&mut looked) {
            Err(e) if exit::code(&e) == exit::UNSUPPORTED => return Err(e),
            Err(_) => {
                looked.whole = false;
                true
            }
            Ok(alive) => alive,
        };
        if !alive || !looked.tell(&mut self.counts, output)? {
            return Ok(looked.after());
        }
        match looked.whole {
            true => self.counts.processes += 1,
            false => {
                let counts = &mut self.counts;
                counts.could_not_read(|| format!("process {pid}, not all of it"));
            }
        }
        self.counts.pages += pages;
        Ok(Look::Over)
    }

    /// Asks again about the pages that were in migration: each has a frame soon, this one or another. False: the address space is gone.
    ///
    /// # Errors
    /// Those of the reading.
    fn ask_again(&mut self, looked: &mut Looked<'_>) -> Result<bool> {
        let mut waits = WAITS;
        for hit in std::mem::take(&mut looked.moving) {
            loop {
                let Some(page) = self.translator.page(&looked.space.pagemap, hit.va)? else {
                    return Ok(false);
                };
                let Some(pfn) = page.named_frame().filter(|pfn| self.wanted.has(*pfn)) else {
                    break;
                };
                if page.any_frame().is_some() {
                    let page_size = page.page_size;
                    looked.hits.push(Hit {
                        pfn,
                        page_size,
                        ..hit
                    });
                    break;
                }
                let why = self.why(page)?;
                if waits == 0 || !matches!(why, Why::Moving | Why::Unknown) {
                    looked.left.entry(pfn).or_insert((page.va, why));
                    break;
                }
                waits -= 1;
                sleep(WAIT);
            }
        }
        Ok(true)
    }

    /// Why the entry of `page` names a frame and maps nothing.
    fn why(&self, mut page: Page) -> Result<Why> {
        let (Some(flags), Some(leaf)) = (&self.flags, page.leaf_in_doubt()) else {
            return Ok(Why::Unknown);
        };
        if leaf_is_bad(flags, leaf)? {
            return Ok(match leaf {
                (_, 1) => Why::Poisoned,
                _ => Why::HugePoisoned,
            });
        }
        let mut first = FrameFlags::NOPAGE;
        flags.of(&[leaf.0], |word| first = word.map_or(first, FrameFlags))?;
        page.add_frame(first);
        Ok(match page.state {
            PageState::Device { .. } => Why::Device,
            _ => Why::Moving,
        })
    }
}
