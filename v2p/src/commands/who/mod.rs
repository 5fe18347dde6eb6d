//! `v2p who`: whose page a frame is, by walking the page tables of every process.

mod frame;
mod left;
mod search;

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result};
use v2p_common::Pfn;

use self::search::{Counts, Search};
use crate::{
    cli,
    doctor::tracing,
    exit,
    kernel::{iomem::Iomem, privileges},
    page::believed,
    process::{frame_flags, require_own_proc},
    record::{Frame, Record},
    render::Output,
};

/// Looks; gives the exit code.
///
/// # Errors
/// Exit code 3 where privileges or eBPF are missing, or the processes in /proc are not those that we can open.
pub fn run(args: &cli::Who, output: &mut Output) -> Result<u8> {
    privileges::keep_to_looking(true)?;
    require_own_proc().context("who")?;
    tracing::require_programs().context("who")?;
    let mut search = Search::new(&args.frames).context("who")?;
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
    let counts = search.counts;
    let (frames, may_be_mapped) = frames(&args.frames, &counts);
    for frame in &frames {
        if let Some(what) = &frame.what {
            let seen = match counts.unread {
                0 => "",
                _ => ", as far as they could be read",
            };
            let pfn = frame.pfn;
            output.heading(&format!("pfn {pfn}: no process maps it{seen}; {what}"))?;
        }
    }
    let flags = frames.first().and_then(|first| first.flags.clone());
    // What could not be read may be what maps one of them.
    let cannot_tell = counts.mappings == 0 && counts.unread > 0 && may_be_mapped;
    output.record(&Record::Looked {
        processes: counts.processes,
        pages: counts.pages,
        mappings: counts.mappings,
        unread: counts.unread,
        unread_why: counts.unread_why,
        flags: flags.filter(|first| frames.iter().all(|f| f.flags.as_ref() == Some(first))),
        frames,
    })?;
    if cannot_tell {
        output.say("v2p: who: it cannot be told whether a process maps it: not all could be read");
        output.say("hint: run it as root, with CAP_SYS_PTRACE");
        return Ok(exit::UNSUPPORTED);
    }
    Ok(match counts.mappings {
        0 => exit::NO,
        _ => exit::YES,
    })
}

/// How often the processes are listed at most: some start while others are looked at.
const LISTS: usize = 4;

/// Every process, by number.
fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc")?.flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// What is known of each frame, and whether the kernel may count mappings of any.
fn frames(asked: &[Pfn], counts: &Counts) -> (Vec<Frame>, bool) {
    let iomem = Iomem::read().ok().flatten();
    let mut may_be_mapped = false;
    let of = |pfn: &Pfn| {
        let flags = frame_flags(*pfn);
        may_be_mapped |= frame::may_be_counted(&flags);
        let mappings = counts.of_frame(*pfn);
        let what = (mappings == 0).then(|| {
            let what = frame::what_it_is(*pfn, &flags, iomem.as_ref());
            match counts.left_by(*pfn) {
                Some(left) => format!("{what}; {left}"),
                None => what,
            }
        });
        Frame {
            pfn: pfn.0,
            mappings,
            what,
            flags: flags.ok().map(|flags| believed(flags).steady().names()),
        }
    };
    (asked.iter().map(of).collect(), may_be_mapped)
}
