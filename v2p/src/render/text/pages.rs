//! The lines of what lies behind pages: a walk's levels, what a translation comes to, who maps a frame.

use std::fmt::Write as _;

use crate::{
    record::{Frame, Hex, Record},
    render::{Colour, count, paint, printable},
    state::Totals,
};

/// One of these records as one line.
pub(super) fn line(record: &Record, colour: bool) -> String {
    match record {
        Record::Level {
            level,
            index,
            entry,
            pa,
            flags,
        } => self::level(level, *index, *entry, *pa, flags),
        Record::Translated {
            route,
            why,
            left_out,
            totals,
        } => self::totals(route, why.as_deref(), left_out, totals, colour),
        Record::Mapping {
            pfn,
            pid,
            comm,
            va,
            name,
            page_size,
        } => mapping(*pfn, *pid, comm, *va, name, *page_size),
        Record::Looked {
            processes,
            pages,
            mappings,
            unread,
            unread_why,
            flags,
            frames,
        } => looked(
            *processes,
            *pages,
            *mappings,
            *unread,
            unread_why.as_deref(),
            flags.as_deref(),
            frames,
        ),
        _ => String::new(),
    }
}

fn level(level: &str, index: u64, entry: Hex, pa: Option<Hex>, flags: &[&str]) -> String {
    let pa = pa.map_or_else(|| "-".to_owned(), |pa| pa.to_string());
    format!(
        "{level:>5} [{index:>3}]  {:#018x}  -> {pa:<14}  {}",
        entry.0,
        flags.join(" ")
    )
}

fn totals(
    route: &str,
    why: Option<&str>,
    left_out: &[String],
    totals: &Totals,
    colour: bool,
) -> String {
    let kinds = [
        ("present", totals.present),
        ("swapped", totals.swapped),
        ("migrating", totals.migrating),
        ("zero", totals.zero),
        ("device", totals.device),
        ("guard", totals.guard),
        ("poisoned", totals.poisoned),
        ("hidden", totals.hidden),
        ("absent", totals.absent),
    ];
    let counts: Vec<_> = kinds
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    let pages = count(totals.pages, "page");
    let mut line = format!("{pages} by {route}: {}", counts.join(", "));
    if totals.hidden > 0 {
        line.push_str("; hidden without CAP_SYS_ADMIN");
    }
    if let Some(why) = why {
        line.push_str(&format!("; not by a walk too: {why}"));
    }
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        line.push_str(&format!("; left out, since pagemap ends below: {names}"));
    }
    if route == "both" {
        let mut differ = format!("; {} disagree, {} moved", totals.disagree, totals.moved);
        let by_one = totals.told_by_one();
        if by_one > 0 {
            let _ = write!(differ, ", {by_one} told by one route alone");
        }
        if totals.holes > 0 {
            let holes = totals.holes;
            let _ = write!(differ, ", {holes} absent by the walk alone");
        }
        let tone = if totals.disagree > 0 {
            Colour::Bad
        } else {
            Colour::Good
        };
        line.push_str(&paint(&differ, tone, colour));
    }
    line
}

fn mapping(pfn: u64, pid: u32, comm: &str, va: Hex, name: &str, page_size: Option<u64>) -> String {
    let size = size_name(page_size);
    let (comm, name) = (printable(comm), printable(name));
    format!("pfn {pfn:<10} {pid:>8}  {comm:<16} {va:>18}  {size:<3} {name}")
        .trim_end()
        .to_owned()
}

fn looked(
    processes: u64,
    pages: u64,
    mappings: u64,
    unread: u64,
    unread_why: Option<&str>,
    flags: Option<&[&str]>,
    frames: &[Frame],
) -> String {
    let unknown = frames.iter().filter(|frame| frame.flags.is_none()).count();
    let frame = match (flags, frames.len(), unknown) {
        (Some([]), 1, _) => "the frame: no flags".to_owned(),
        (Some([]), ..) => "the frames: no flags".to_owned(),
        (Some(flags), 1, _) => format!("the frame: {}", flags.join(",")),
        (Some(flags), ..) => format!("the frames: {}", flags.join(",")),
        (None, _, 0) => "the frames differ".to_owned(),
        (None, 1, _) => "the frame: unknown".to_owned(),
        (None, all, unknown) if all == unknown => "the frames: unknown".to_owned(),
        (None, all, unknown) => format!("the frames differ, and {unknown} of {all} are unknown"),
    };
    let why = unread_why.map_or_else(String::new, |why| format!(" ({why})"));
    let unread = match unread {
        0 => String::new(),
        n => format!("; {} could not be read{why}", count(n, "process")),
    };
    format!(
        "{} in {} ({} compared){unread}; {frame}",
        count(mappings, "mapping"),
        count(processes, "process"),
        count(pages, "page"),
    )
}

pub(super) const fn size_name(bytes: Option<u64>) -> &'static str {
    match bytes {
        Some(1_073_741_824) => "1G",
        Some(2_097_152) => "2M",
        Some(4096) => "4K",
        _ => "-",
    }
}
