//! `v2p who`: whose page a frame is, by walking the page tables of every process.

use std::{collections::HashSet, fs};

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, Pfn};

use crate::{
    cli, exit,
    kernel::privileges::Privileges,
    process::{
        FrameFlags, Pagemap, frame_flags,
        maps::{self, Mapping},
    },
    record::{Hex, PageState, Record},
    render::Output,
    translate::{Page, Route, Translator},
};

/// Looks; gives the exit code.
///
/// # Errors
/// Exit code 3 where privileges or eBPF are missing.
pub fn run(args: &cli::Who, output: &mut Output) -> Result<u8> {
    Privileges::read()?.require_tracing().context("who")?;
    let mut translator = Translator::new(Route::Walk).context("who")?;
    translator.without_flags();
    let mut search = Search {
        wanted: args.frames.iter().copied().collect(),
        translator,
        processes: 0,
        pages: 0,
        mappings: 0,
    };
    for pid in pids()? {
        search.process(pid, output)?;
    }
    let Search {
        processes,
        pages,
        mappings,
        ..
    } = search;
    let flags = flags_of_all(&args.frames);
    if mappings == 0 {
        for pfn in &args.frames {
            output.heading(&format!(
                "pfn {pfn}: no process maps it; {}",
                what_it_is(*pfn)
            ))?;
        }
    }
    output.record(&Record::Looked {
        processes,
        pages,
        mappings,
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
    wanted: HashSet<Pfn>,
    translator: Translator,
    processes: u64,
    pages: u64,
    mappings: u64,
}

impl Search {
    /// Looks at one process. Kernel threads, and processes that have ended or that we may not read, are none.
    fn process(&mut self, pid: u32, output: &mut Output) -> Result<()> {
        let (Ok(pagemap), Ok(mappings)) = (Pagemap::of(pid), maps::mappings(pid)) else {
            return Ok(());
        };
        if mappings.is_empty() {
            return Ok(());
        }
        self.processes += 1;
        for mapping in &mappings {
            let mut found = Vec::new();
            let Self {
                wanted,
                translator,
                pages,
                ..
            } = self;
            let alive = translator.mapping(&pagemap, mapping, &mut |page, n| {
                if let Some(pfn) = frame(&page) {
                    *pages += n;
                    if wanted.contains(&pfn) {
                        found.push(page);
                    }
                }
                Ok(())
            })?;
            for page in found {
                self.mappings += 1;
                output.record(&record(pid, mapping, &page))?;
            }
            if !alive {
                break;
            }
        }
        Ok(())
    }
}

/// The frame that a page maps, whosever it is.
const fn frame(page: &Page) -> Option<Pfn> {
    match page.state {
        PageState::Present { pfn } | PageState::Device { pfn } => Some(pfn),
        _ => None,
    }
}

fn record(pid: u32, mapping: &Mapping, page: &Page) -> Record {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Record::Mapping {
        pfn: frame(page).map_or(0, |pfn| pfn.0),
        pid,
        comm: comm.trim_end().to_owned(),
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
