//! Records as aligned lines for people.

mod pages;
mod runs;

pub(super) use runs::RunLines;

use std::fmt::Write as _;

use super::{
    Colour,
    moves::of_process,
    paint, printable,
    words::{self, count},
};
use crate::record::{Access, Comm, Hex, Record};

/// Tells time since it was made for that moment, else since the first record that has a time.
#[derive(Default)]
pub(super) struct Clock {
    start_ns: Option<u64>,
}

impl Clock {
    /// From that time on: CLOCK_MONOTONIC in nanoseconds.
    pub(super) const fn from(start_ns: u64) -> Self {
        Self {
            start_ns: Some(start_ns),
        }
    }

    fn since_start(&mut self, t_ns: u64) -> String {
        let mut time = String::new();
        self.add_time(&mut time, t_ns);
        time
    }

    /// Adds the time since the start to a line.
    pub(super) fn add_time(&mut self, line: &mut String, t_ns: u64) {
        let start = *self.start_ns.get_or_insert(t_ns);
        let us = t_ns.saturating_sub(start) / 1000;
        // A String takes everything.
        let _ = write!(line, "{:>5}.{:06}", us / 1_000_000, us % 1_000_000);
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
                let place = self.since_start(*t_ns) + "  " + &of_process(*pid);
                let line = fault(&place, *tid, *va, *pfn, *major, *access);
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
                fork(&time, *pid, *parent, comm, *followed, colour)
            }
            Record::Gone { t_ns, pid, why, .. } => gone(&self.since_start(*t_ns), *pid, why),
            Record::Lost { events } => lost(*events, colour),
            Record::End {
                why,
                events,
                faults,
                moves,
                lost,
                reconciled,
                status,
            } => end(why, *events, *faults, *moves, *lost, *reconciled, *status),
            Record::Level { .. }
            | Record::Translated { .. }
            | Record::Mapping { .. }
            | Record::Looked { .. } => pages::line(record, colour),
            // Runs and moves have lines of their own, since they come by the thousand; the demo tells its story step by step.
            Record::Run { .. } | Record::Move { .. } | Record::Write(_) | Record::Demo { .. } => {
                String::new()
            }
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

/// `place`: when, and in which process.
fn fault(
    place: &str,
    tid: u32,
    va: Hex,
    pfn: Option<u64>,
    major: bool,
    access: Option<Access>,
) -> String {
    let pfn = pfn.map_or_else(|| "-".to_owned(), |pfn| format!("pfn {pfn}"));
    let kind = if major { "major" } else { "minor" };
    let access = access.map_or("-", Access::name);
    format!("{place}{va:>14}  fault  {kind}  {access:<5}  {pfn:<14} thread {tid}")
}

fn fork(time: &str, pid: u32, parent: u32, comm: &Comm, followed: bool, colour: bool) -> String {
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

fn gone(time: &str, pid: u32, why: &str) -> String {
    let why = match why {
        "no-room" => "executed a program: not followed, too many are",
        why => why,
    };
    format!("{time}  {pid:>7}  {why}")
}

fn lost(events: u64, colour: bool) -> String {
    let events = count(events, "event");
    let line = format!("LOST {events}: what follows may miss some moves");
    paint(&line, Colour::Bad, colour)
}

fn end(
    why: &str,
    events: u64,
    faults: u64,
    moves: u64,
    lost: u64,
    reconciled: u64,
    status: Option<i32>,
) -> String {
    let status = status.map_or_else(String::new, |status| format!(", exit status {status}"));
    format!(
        "end ({why}{status}): {} ({reconciled} of them found by comparing the tables), {}, {} read, {lost} lost",
        count(moves, "move"),
        count(faults, "fault"),
        count(events, "event"),
    )
}
