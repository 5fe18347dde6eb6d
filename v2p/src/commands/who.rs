//! `v2p who`: whose page a frame is, by walking the page tables of every process.

use std::fs;

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, Pfn};

use crate::{
    cli,
    doctor::tracing,
    exit,
    kernel::privileges,
    process::{AddressSpace, FrameFlags, Process, frame_flags, maps::Mapping},
    record::{Hex, Record},
    render::Output,
    translate::{Finder, Page, Route, Translator, Wanted},
};

/// Looks; gives the exit code.
///
/// # Errors
/// Exit code 3 where privileges or eBPF are missing.
pub fn run(args: &cli::Who, output: &mut Output) -> Result<u8> {
    privileges::keep_to_looking(true)?;
    tracing::require().context("who")?;
    let mut translator = Translator::new(Route::Walk).context("who")?;
    translator.frames_alone();
    let pids = pids()?;
    output.progress(pids.len() as u64);
    let mut search = Search {
        wanted: Wanted::new(&args.frames),
        translator,
        processes: 0,
        pages: 0,
        mappings: 0,
        unread: 0,
    };
    for pid in pids {
        search.process(pid, output)?;
        output.advance(1);
    }
    let Search {
        processes,
        pages,
        mappings,
        unread,
        ..
    } = search;
    let flags = flags_of_all(&args.frames);
    if mappings == 0 {
        for pfn in &args.frames {
            output.heading(&format!(
                "pfn {pfn}: no process maps it{}; {}",
                if unread == 0 {
                    ""
                } else {
                    ", as far as they could be read"
                },
                what_it_is(*pfn)
            ))?;
        }
    }
    output.record(&Record::Looked {
        processes,
        pages,
        mappings,
        unread,
        flags: flags.map(FrameFlags::names),
    })?;
    Ok(if mappings == 0 { exit::NO } else { exit::YES })
}

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
}

impl Search {
    /// Looks at one process. Kernel threads have no pages, and one that ends, or executes another program, before all of it was
    /// looked at has left those that it had: nothing is said of them. What we may not read is counted.
    fn process(&mut self, pid: u32, output: &mut Output) -> Result<()> {
        let space = Process::open(pid)
            .and_then(|process| Ok((AddressSpace::of(&process)?, process.name())));
        let (AddressSpace { pagemap, mappings }, comm) = match space {
            Ok(space) => space,
            Err(e) if exit::code(&e) == exit::NO => return Ok(()),
            Err(_) => {
                self.unread += 1;
                return Ok(());
            }
        };
        let (mut found, mut pages, mut whole) = (Vec::new(), 0, true);
        for mapping in &mappings {
            let mut finder = Finder::new(&self.wanted);
            let alive = match self.translator.mapping(&pagemap, mapping, &mut finder) {
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
                    .filter_map(|page| Some(record(pid, &comm, mapping, page.any_frame()?, page))),
            );
            if !alive {
                return Ok(());
            }
        }
        match whole {
            true => self.processes += 1,
            false => self.unread += 1,
        }
        self.pages += pages;
        self.mappings += found.len() as u64;
        found.iter().try_for_each(|record| output.record(record))
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

/// The flags that all the frames have; `None` where they differ, or cannot be read.
fn flags_of_all(frames: &[Pfn]) -> Option<FrameFlags> {
    let mut all = frames.iter().map(|pfn| frame_flags(*pfn).ok());
    let first = all.next()??;
    all.all(|flags| flags == Some(first)).then_some(first)
}

/// What a frame is that no process maps, as far as /proc/kpageflags says.
fn what_it_is(pfn: Pfn) -> String {
    let Ok(flags) = frame_flags(pfn) else {
        return format!(
            "physical address {:#x} is past the end of memory",
            pfn.0 * PAGE_SIZE
        );
    };
    let kinds = [
        (FrameFlags::NOPAGE, "there is no memory"),
        (FrameFlags::BUDDY, "it is free"),
        (FrameFlags::HWPOISON, "it is poisoned"),
        (FrameFlags::OFFLINE, "it is offline"),
        (FrameFlags::ZERO_PAGE, "it is the shared zero page"),
        (FrameFlags::SLAB, "it is the kernel's (slab)"),
        (FrameFlags::PGTABLE, "it is a page table"),
        (FrameFlags::RESERVED, "it is reserved"),
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
