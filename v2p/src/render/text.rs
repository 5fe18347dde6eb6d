//! Records as aligned lines for people.

use std::fmt::{self, Display, Write as _};

use v2p_common::Pfn;

use super::{
    Colour, column,
    moves::of_process,
    paint, printable,
    words::{self, count},
};
use crate::{
    record::{Access, Hex, Record},
    state::PageState,
    translate::{Totals, Verdict},
};

/// Tells time since the first record that had one.
#[derive(Default)]
pub(super) struct Clock {
    start_ns: Option<u64>,
}

impl Clock {
    pub(super) fn since_start(&mut self, t_ns: u64) -> String {
        let start = *self.start_ns.get_or_insert(t_ns);
        let us = t_ns.saturating_sub(start) / 1000;
        format!("{:>5}.{:06}", us / 1_000_000, us % 1_000_000)
    }

    /// One record as one line, or a few.
    pub(super) fn line(&mut self, record: &Record, colour: bool) -> String {
        match record {
            Record::Start {
                pid,
                kernel,
                hooks,
                missing,
            } => start(*pid, kernel, hooks, missing, colour),
            Record::Fault {
                pid,
                t_ns,
                tid,
                va,
                pfn,
                major,
                access,
                ..
            } => {
                let pfn = pfn.map_or_else(|| "-".to_owned(), |pfn| format!("pfn {pfn}"));
                let kind = if *major { "major" } else { "minor" };
                let access = access.map_or("-", Access::name);
                let line = format!(
                    "{}  {}{va:>14}  fault  {kind}  {access:<5}  {pfn:<14} thread {tid}",
                    self.since_start(*t_ns),
                    of_process(*pid)
                );
                paint(&line, Colour::Dim, colour)
            }
            Record::Fork {
                t_ns,
                pid,
                parent,
                comm,
                followed,
                ..
            } => {
                let time = self.since_start(*t_ns);
                let text = comm.text();
                let line = format!("{time}  {pid:>7}  fork by {} ({parent})", printable(&text));
                match followed {
                    true => line,
                    false => paint(
                        &(line + ": not followed, too many are"),
                        Colour::Bad,
                        colour,
                    ),
                }
            }
            Record::Gone { t_ns, pid, why, .. } => {
                let why = match *why {
                    "no-room" => "executed a program: not followed, too many are",
                    why => why,
                };
                format!("{}  {pid:>7}  {why}", self.since_start(*t_ns))
            }
            Record::Lost { events } => paint(
                &format!(
                    "LOST {}: what follows may miss some moves",
                    count(*events, "event")
                ),
                Colour::Bad,
                colour,
            ),
            Record::End {
                why,
                events,
                faults,
                moves,
                lost,
                reconciled,
                status,
            } => {
                let status =
                    status.map_or_else(String::new, |status| format!(", exit status {status}"));
                format!(
                    "end ({why}{status}): {} ({reconciled} of them found by comparing the tables), {}, {} read, {lost} lost",
                    count(*moves, "move"),
                    count(*faults, "fault"),
                    count(*events, "event"),
                )
            }
            Record::Run {
                va,
                pages,
                state,
                page_size,
                flags,
                mapped,
                node,
                verdict,
                ..
            } => {
                let notes = Notes {
                    flags,
                    mapped: *mapped,
                    node: *node,
                };
                run_line(*va, *pages, *state, *page_size, notes, *verdict, colour)
            }
            Record::Level {
                level,
                index,
                entry,
                pa,
                flags,
            } => {
                let pa = pa.map_or_else(|| "-".to_owned(), |pa| pa.to_string());
                format!(
                    "{level:>5} [{index:>3}]  {:#018x}  -> {pa:<14}  {}",
                    entry.0,
                    flags.join(" ")
                )
            }
            Record::Translated {
                route,
                why,
                left_out,
                totals,
            } => totals_line(route, why.as_deref(), left_out, totals, colour),
            Record::Mapping {
                pfn,
                pid,
                comm,
                va,
                name,
                page_size,
            } => {
                let size = size_name(*page_size);
                let (comm, name) = (printable(comm), printable(name));
                format!("pfn {pfn:<10} {pid:>8}  {comm:<16} {va:>18}  {size:<3} {name}")
                    .trim_end()
                    .to_owned()
            }
            Record::Looked {
                processes,
                pages,
                mappings,
                unread,
                flags,
                frames,
            } => {
                let frame = match (flags, frames.iter().all(|frame| frame.flags.is_some())) {
                    (Some(flags), _) if flags.is_empty() => "the frame: no flags".to_owned(),
                    (Some(flags), _) => format!("the frame: {}", flags.join(",")),
                    (None, true) => "the frames differ".to_owned(),
                    (None, false) => "the frame: unknown".to_owned(),
                };
                let unread = match unread {
                    0 => String::new(),
                    n => format!("; {} could not be read", count(*n, "process")),
                };
                format!(
                    "{} in {} ({} compared){unread}; {frame}",
                    count(*mappings, "mapping"),
                    count(*processes, "process"),
                    count(*pages, "page"),
                )
            }
            // Moves have lines of their own, for many; the demo tells its story step by step.
            Record::Move { .. } | Record::Write(_) | Record::Demo { .. } => String::new(),
        }
    }
}

fn start(pid: u32, kernel: &str, hooks: &[String], missing: &[String], colour: bool) -> String {
    let live = count(hooks.len() as u64, "hook");
    let mut text = format!("watching process {pid} on {kernel}: {live} live");
    let missing = missing
        .iter()
        .map(|one| one.split_once(": ").unwrap_or((one, "")));
    for line in words::missing(missing) {
        text.push('\n');
        text.push_str(&paint(&line, Colour::Bad, colour));
    }
    if hooks.iter().any(|hook| hook == "sys_exit") {
        text.push_str(
            "\ninstead: the exits of system calls, and the page tables compared once a second",
        );
    }
    text
}

/// What is said of a page's frame.
struct Notes<'a> {
    flags: &'a [&'static str],
    mapped: Option<u32>,
    node: Option<u32>,
}

fn run_line(
    va: Hex,
    pages: u64,
    state_: PageState,
    page_size: Option<u64>,
    notes: Notes<'_>,
    verdict: Verdict,
    colour: bool,
) -> String {
    let mut line = String::with_capacity(128);
    column::right(&mut line, 18, va);
    line.push_str("  ");
    column::right(&mut line, 8, pages);
    line.push_str("  ");
    match state_ {
        PageState::Absent => column::left(&mut line, 16, "absent"),
        other => column::left(&mut line, 16, state(other)),
    }
    line.push(' ');
    column::left(&mut line, 3, size_name(page_size));
    line.push(' ');
    for (i, flag) in notes.flags.iter().enumerate() {
        line.push_str(if i > 0 { "," } else { "" });
        line.push_str(flag);
    }
    // A String takes everything.
    if let Some(mapped) = notes.mapped {
        let _ = write!(line, "  mapped {mapped}x");
    }
    if let Some(node) = notes.node {
        let _ = write!(line, "  node {node}");
    }
    match verdict {
        Verdict::Agree => {}
        Verdict::Single => line.push_str("  single"),
        Verdict::Disagree => line.push_str(&paint("  DISAGREE", Colour::Bad, colour)),
        Verdict::Moved => line.push_str(&paint("  moved", Colour::Bad, colour)),
    }
    line.truncate(line.trim_end().len());
    line
}

fn totals_line(
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
    if let Some(why) = why {
        line.push_str(&format!("; not by a walk too: {why}"));
    }
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        line.push_str(&format!("; left out, since pagemap ends below: {names}"));
    }
    if route == "both" {
        let mut differ = format!("; {} disagree, {} moved", totals.disagree, totals.moved);
        if totals.single > 0 {
            let _ = write!(differ, ", {} told by one route alone", totals.single);
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

const fn size_name(bytes: Option<u64>) -> &'static str {
    match bytes {
        Some(1_073_741_824) => "1G",
        Some(2_097_152) => "2M",
        Some(4096) => "4K",
        _ => "-",
    }
}

/// A page's state in a word or two.
pub(super) fn state(state: PageState) -> impl Display {
    fmt::from_fn(move |f| match state {
        PageState::Present { pfn: Pfn(pfn) } => write!(f, "pfn {pfn}"),
        PageState::Zero => f.write_str("zero page"),
        PageState::Swapped { swap: Some(swap) } => {
            write!(f, "swap {}:{}", swap.device, swap.offset)
        }
        PageState::Swapped { swap: None } => f.write_str("swapped"),
        PageState::Migrating { pfn: Pfn(pfn) } => write!(f, "migrating {pfn}"),
        PageState::Device { pfn: Pfn(pfn) } => write!(f, "device {pfn}"),
        PageState::Poisoned => f.write_str("poisoned"),
        PageState::Guard => f.write_str("guard"),
        PageState::Hidden => f.write_str("hidden"),
        PageState::Absent => f.write_str("-"),
    })
}
