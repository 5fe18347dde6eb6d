//! A burst: pages that go from node to node as fast as move_pages(2) can, and a watch that tells of every one or counts what it
//! lost.
//!
//! V2P_BURST_SECONDS says how long; `cargo xtask bench` asks for a minute.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    thread,
    time::Instant,
};

use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    Done, harness,
    machine::{Setting, two_nodes},
    target::{PAGES, Target, va},
    trial,
};

const SECONDS: &str = "V2P_BURST_SECONDS";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "every_move_of_a_burst_is_told_or_counted_as_lost",
        burst,
    )]
}

fn burst() -> Done {
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    // What would move pages too, and is not counted.
    let _quiet = [
        Setting::change("/proc/sys/kernel/numa_balancing", "0"),
        Setting::change("/proc/sys/vm/compaction_proactiveness", "0"),
    ];
    let seconds = std::env::var(SECONDS).map_or(2, |s| s.parse().unwrap());
    let mut target = Target::start();
    target.fill(va(0), PAGES);
    let mut watch = harness::v2p()
        .args(["watch", "--json", "--pid", &target.pid().to_string()])
        .arg(format!("{:#x}..{:#x}", va(0), va(PAGES)))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(watch.stdout.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    assert!(first.contains(r#""type":"start""#), "{first}");
    // Read as it comes, and not kept: there may be a million.
    let reader = thread::spawn(move || {
        let (mut told, mut last) = (0, String::new());
        for line in said.lines().map_while(Result::ok) {
            if line.contains(r#""cause":"migration""#) {
                let one: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(one["proof"], "event", "{one}");
                told += one["pages"].as_u64().unwrap();
            }
            last = line;
        }
        let end: Value = serde_json::from_str(&last).unwrap();
        (told, end)
    });
    let start = Instant::now();
    let moved = target.shuttle(seconds);
    let took = start.elapsed().as_secs_f64();
    let pid = Pid::from_raw(i32::try_from(watch.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(watch.wait().unwrap().success());
    let (told, end) = reader.join().unwrap();
    let lost = end["lost"].as_u64().unwrap();
    println!(
        "burst: Linux {}, {seconds} s of move_pages: {moved} pages moved ({:.0} a second), {told} moves told, {lost} events lost",
        v2p::kernel::release(),
        moved as f64 / took
    );
    assert!(moved > 1000, "{moved} pages moved");
    // An event that is lost is one move at most that is not told.
    assert!(told <= moved && moved <= told + lost, "{end}");
    Done::Passed
}
