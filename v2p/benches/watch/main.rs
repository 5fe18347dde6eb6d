//! What a watch costs: the time that is added to a minor fault of the target, beside perf's; what a process pays that is not
//! watched, while v2p or perf looks at another; how soon the hooks are live; and a burst: one compaction of a punched GiB.
//!
//! As root: `cargo bench -p v2p --bench watch`, or `cargo xtask bench`. perf and bpftrace are rows where they are installed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench fails by panicking"
)]

mod burst;
mod report;
mod tracers;
mod workload;

use std::process::Command;

use report::{Report, Rows, alone};
use tracers::{FAULTS_TOLD, PERF, beside, start_tracer, under, watch, watched};
use workload::Workload;

const ROUNDS: usize = 7;

fn main() {
    match std::env::var_os(workload::KIND) {
        Some(kind) if kind == burst::PUNCHED => return burst::be_punched(),
        Some(_) => return workload::be(),
        None => {}
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: it needs root");
        return;
    }
    let json = std::env::args().any(|a| a == "--json");
    let report = Report::begin(json);
    let (has_perf, has_bpftrace) = (has("perf"), has("bpftrace"));
    for (program, is_there) in [("perf", has_perf), ("bpftrace", has_bpftrace)] {
        if !is_there {
            eprintln!("no {program} here: without its rows");
        }
    }
    let mut rows = Rows::default();
    let mut lives = Vec::new();
    for _ in 0..ROUNDS {
        references(&mut rows, has_perf, has_bpftrace);
        lives.push(watches(&mut rows));
        bystanders(&mut rows, has_perf);
    }
    report.rows(&rows);
    report.frames(tracers::with_frames());
    report.lives(&lives);
    report.burst(&burst::burst());
}

fn has(program: &str) -> bool {
    let version = Command::new(program).arg("--version").output();
    version.is_ok_and(|o| o.status.success())
}

/// One round of what v2p is held against.
fn references(rows: &mut Rows, has_perf: bool, has_bpftrace: bool) {
    rows.add("no tracer", alone(Workload::start().round()));
    if has_perf {
        let name = "perf record -e page-faults -c 1 -d";
        rows.add(name, alone(under("perf", &PERF)));
    }
    if has_bpftrace {
        let count = ["-e", "software:page-faults:1 { @ = count(); }"];
        let name = "bpftrace, counting all faults";
        rows.add(name, alone(under("bpftrace", &count)));
    }
}

/// One round of v2p at the workload; gives after how many milliseconds the hooks were live.
fn watches(rows: &mut Rows) -> f64 {
    let (ns, live_ms) = watched(&FAULTS_TOLD);
    rows.add("v2p watch --faults --json", alone(ns));
    rows.add("v2p watch --json", alone(watched(&[]).0));
    live_ms
}

/// One round of those that are not looked at.
fn bystanders(rows: &mut Rows, has_perf: bool) {
    if has_perf {
        let name = "not watched, while perf records another";
        let perf = |pid| (start_tracer("perf", &PERF, pid), None);
        rows.add(name, beside(perf));
    }
    for (name, told) in [
        ("not watched, while v2p watches another", &[][..]),
        ("not watched, while its faults are told", &FAULTS_TOLD),
    ] {
        let v2p = |pid| {
            let (v2p, out, _) = watch(pid, told);
            (v2p, Some(out))
        };
        rows.add(name, beside(v2p));
    }
}
