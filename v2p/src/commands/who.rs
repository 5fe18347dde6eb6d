//! `v2p who`: whose page a frame is, by walking the page tables of every process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use anyhow::{Context as _, Result};
use v2p_common::Pfn;

use crate::{
    cli,
    doctor::tracing,
    exit,
    kernel::{iomem::Iomem, privileges},
    page::believed,
    process::{AddressSpace, FrameFlags, Process, frame_flags, maps::Mapping, require_own_proc},
    record::{Frame, Hex, Record},
    render::Output,
    translate::{Finder, Page, Route, Translator, Wanted},
};

/// Looks; gives the exit code.
///
/// # Errors
/// Exit code 3 where privileges or eBPF are missing, or the processes in /proc are not those that we can open.
pub fn run(args: &cli::Who, output: &mut Output) -> Result<u8> {
    privileges::keep_to_looking(true)?;
    require_own_proc().context("who")?;
    tracing::require().context("who")?;
    let mut translator = Translator::new(Route::Walk).context("who")?;
    translator.frames_alone();
    let mut search = Search {
        wanted: Wanted::new(&args.frames),
        translator,
        processes: 0,
        pages: 0,
        mappings: 0,
        unread: 0,
        found: BTreeMap::new(),
    };
    let mut known = BTreeSet::new();
    for list in 0..LISTS {
        let mut pids = pids()?;
        pids.retain(|pid| known.insert(*pid));
        if list == 0 {
            output.progress(pids.len() as u64);
        }
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            search.process(pid, output)?;
            output.advance(1);
        }
    }
    let Search {
        processes,
        pages,
        mappings,
        unread,
        found,
        ..
    } = search;
    let frames = frames(&args.frames, &found);
    for frame in &frames {
        if let Some(what) = &frame.what {
            let seen = match unread {
                0 => "",
                _ => ", as far as they could be read",
            };
            let pfn = frame.pfn;
            output.heading(&format!("pfn {pfn}: no process maps it{seen}; {what}"))?;
        }
    }
    let flags = frames.first().and_then(|first| first.flags.clone());
    output.record(&Record::Looked {
        processes,
        pages,
        mappings,
        unread,
        flags: flags.filter(|first| frames.iter().all(|f| f.flags.as_ref() == Some(first))),
        frames,
    })?;
    Ok(if mappings == 0 { exit::NO } else { exit::YES })
}

/// How often the processes are listed at most: some start while others are looked at.
const LISTS: usize = 4;
/// How often a process is looked at that executes another program meanwhile.
const ATTEMPTS: usize = 4;

/// Every process, by number.
fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc")?.flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

struct Search {
    wanted: Wanted,
    translator: Translator,
    processes: u64,
    pages: u64,
    mappings: u64,
    unread: u64,
    /// Mappings by frame.
    found: BTreeMap<u64, u64>,
}

/// What became of a look at a process.
enum Look {
    /// It was counted, or has ended.
    Over,
    /// What was seen is not what it has now.
    Changed,
}

impl Search {
    /// Looks at one process. Kernel threads have no pages, and one that ends before all of it was looked at has left those that it had: nothing
    /// is said of them. What we may not read is counted, and so is what executes one program after the other.
    fn process(&mut self, pid: u32, output: &mut Output) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if matches!(self.look(pid, output)?, Look::Over) {
                return Ok(());
            }
        }
        self.unread += 1;
        Ok(())
    }

    fn look(&mut self, pid: u32, output: &mut Output) -> Result<Look> {
        let space =
            Process::open(pid).and_then(|process| Ok((AddressSpace::of(&process)?, process)));
        let (space, process) = match space {
            Ok(found) => found,
            Err(e) if exit::code(&e) == exit::NO => return Ok(Look::Over),
            Err(_) => {
                self.unread += 1;
                return Ok(Look::Over);
            }
        };
        let AddressSpace {
            pagemap, mappings, ..
        } = &space;
        let comm = process.name();
        let (mut found, mut pages, mut whole) = (Vec::new(), 0, true);
        for mapping in mappings {
            let mut finder = Finder::new(&self.wanted);
            let alive = match self.translator.mapping(pagemap, mapping, &mut finder) {
                Ok(alive) => alive,
                Err(e) if exit::code(&e) == exit::UNSUPPORTED => return Err(e),
                // Others are none the worse for it, and what was found is so.
                Err(_) => {
                    whole = false;
                    break;
                }
            };
            pages += finder.pages;
            found.extend(
                finder
                    .found
                    .iter()
                    .filter_map(|page| Some((page, page.any_frame()?)))
                    .map(|(page, pfn)| (pfn, record(pid, &comm, mapping, pfn, page))),
            );
            if !alive {
                return Ok(after(&process));
            }
        }
        // The name too.
        if !space.is_of(&process) {
            return Ok(after(&process));
        }
        match whole {
            true => self.processes += 1,
            false => self.unread += 1,
        }
        self.pages += pages;
        self.mappings += found.len() as u64;
        for (pfn, record) in &found {
            *self.found.entry(pfn.0).or_default() += 1;
            output.record(record)?;
        }
        Ok(Look::Over)
    }
}

/// What became of a look that the address space did not outlast.
fn after(process: &Process) -> Look {
    match process.has_ended() {
        true => Look::Over,
        false => Look::Changed,
    }
}

fn record(pid: u32, comm: &str, mapping: &Mapping, pfn: Pfn, page: &Page) -> Record {
    Record::Mapping {
        pfn: pfn.0,
        pid,
        comm: comm.to_owned(),
        va: Hex(page.va.0),
        name: mapping.name.clone(),
        page_size: page.page_size,
    }
}

/// What is known of each frame, those that are mapped `found` so often.
fn frames(asked: &[Pfn], found: &BTreeMap<u64, u64>) -> Vec<Frame> {
    let iomem = Iomem::read().ok().flatten();
    let of = |pfn: &Pfn| {
        let flags = frame_flags(*pfn);
        let mappings = found.get(&pfn.0).copied().unwrap_or_default();
        Frame {
            pfn: pfn.0,
            mappings,
            what: (mappings == 0).then(|| what_it_is(*pfn, &flags, iomem.as_ref())),
            flags: flags.ok().map(|flags| believed(flags).names()),
        }
    };
    asked.iter().map(of).collect()
}

/// What a frame is that no process maps, as far as /proc/kpageflags and /proc/iomem say.
fn what_it_is(pfn: Pfn, flags: &Result<FrameFlags>, iomem: Option<&Iomem>) -> String {
    let flags = match flags {
        Ok(flags) => *flags,
        Err(e) if is_end(e) => {
            return format!(
                "physical address {:#x} is past the end of memory",
                pfn.base().0
            );
        }
        Err(e) => return format!("what it is cannot be told: {e:#}"),
    };
    // Some holes are marked so, some not at all (6.18).
    let is_unknown = flags.has(FrameFlags::NOPAGE);
    if is_unknown || flags == FrameFlags(0) {
        let lies = iomem.map(|iomem| iomem.at(pfn.base()));
        return match lies.as_deref() {
            Some(lies) if lies.iter().any(|resource| resource.is_ram()) => match is_unknown {
                // pfn_to_online_page, fs/proc/page.c, 6.1 to 7.3.
                true => "it is memory that is set offline, or a hole in it".to_owned(),
                // Free pages that wait for a CPU of their own have no mark.
                false => "nothing marks it: the kernel's, or free".to_owned(),
            },
            Some([.., resource]) => format!("there is no memory, but {}", resource.evidence()),
            Some([]) => "there is no memory".to_owned(),
            None if flags == FrameFlags(0) => "nothing marks it".to_owned(),
            None => "there is no memory".to_owned(),
        };
    }
    let kinds = [
        (
            FrameFlags::MMAP,
            "it, or another page of its huge page, is mapped by a process that was not found: one that could not be read, one of another PID namespace, or one that started, executed a program or mapped it meanwhile",
        ),
        (FrameFlags::BUDDY, "it is free"),
        (FrameFlags::HWPOISON, "it is poisoned"),
        (FrameFlags::OFFLINE, "it is offline"),
        (FrameFlags::ZERO_PAGE, "it is the shared zero page"),
        (FrameFlags::SLAB, "it is the kernel's (slab)"),
        (FrameFlags::PGTABLE, "it is a page table"),
        (FrameFlags::RESERVED, "it is reserved"),
        (
            FrameFlags::HUGE,
            "it is a huge page of the pool, or of a file of hugetlbfs, that no process maps",
        ),
        (
            FrameFlags::SWAPCACHE,
            "it is a copy of what is in swap: for a process, it is swapped",
        ),
        (
            FrameFlags::LRU,
            "it is a page of the page cache or of a process that ended",
        ),
    ];
    match kinds.iter().find(|(flag, _)| flags.has(*flag)) {
        Some((_, what)) => (*what).to_owned(),
        None => format!("it is the kernel's (flags {:#x})", flags.0),
    }
}

/// Whether the file of frames ends before the frame.
fn is_end(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof)
}
