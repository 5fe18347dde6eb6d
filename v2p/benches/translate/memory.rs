//! Memory: the peak of resident memory of whole commands, which must not follow the target's size.

use std::process::{Command, Stdio};

use crate::{
    commands::V2P,
    report::{Bar, Report, median},
    space::Target,
};

const RUNS: usize = 5;

/// Peaks for address spaces of 1 to 64 GiB in which every page is there.
pub(crate) fn peaks(report: &mut Report) {
    for route in ["pagemap", "walk", "both"] {
        let title = format!("peak resident memory, v2p translate --route {route}");
        report.heading(&title, "KiB");
        // Of zeros nothing is asked about frames, and no page table is copied; of a file's pages all is.
        for (option, what, sizes) in [
            ("--zero-gib", "zeros", &[1, 8, 64][..]),
            ("--file-gib", "pages of a file", &[1, 8]),
        ] {
            let mut reference = None;
            for gib in sizes {
                let target = Target::start(option, *gib);
                let peaks: Vec<u64> = (0..RUNS).map(|_| peak(&target.pid(), route)).collect();
                let reference = *reference.get_or_insert_with(|| median(&peaks));
                let name = format!("{gib} GiB mapped, {what}");
                let bar = Bar::Ratio(1.1);
                report.row(&title, &name, "KiB", &peaks, Some(reference), bar);
            }
        }
    }
}

/// The peak of one translation, told by a small process in between: what getrusage says of a child counts from the fork
/// on, so it is never less than the parent's own memory.
fn peak(pid: &str, route: &str) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--peak",
            V2P,
            "translate",
            "--pid",
            pid,
            "--route",
            route,
            "--json",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().unwrap()
}

/// Runs a command and says its peak, VmHWM of /proc/PID/status, as getrusage(2) tells it.
pub(crate) fn run(command: &[String]) {
    let status = Command::new(&command[0])
        .args(&command[1..])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{command:?}: {status}");
    // SAFETY: all bytes zero are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the place is valid.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    assert_eq!(failed, 0);
    println!("{}", usage.ru_maxrss);
}
