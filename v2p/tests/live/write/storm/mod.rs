//! The storm: a process whose pages are moved, swapped out, thrown away and compacted all the while, by a thread of its own
//! that also keeps the truth about them; and writes to them, by the seed's way first, then under guard.
//!
//! V2P_STORM_WRITES says how many writes a guarded row has; those by the seed's way have no more than [`ENOUGH`], which show it.

mod blow;
mod row;
mod weather;

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use v2p::{
    common::VirtAddr,
    guard::{Job, Step},
    kernel::now_ns,
    process::Pagemap,
    record::Verdict,
};

use self::{
    row::Row,
    weather::{Storm, Weather},
};
use super::{Scene, is_open};
use crate::{
    Done,
    machine::{self, Setting},
    target::PAGE,
    trial,
};

pub(crate) use blow::run;

const WRITES: &str = "V2P_STORM_WRITES";
/// Where the pages are.
const START: u64 = 0x6700_0000_0000;
/// How many: few, so that each is always about to be moved.
const PAGES: u64 = N as u64;
const N: usize = 16;
/// Where in its page a write goes.
const SLOT: u64 = 64;
/// Writes by the seed's way, and writes whose window is measured, at most.
const ENOUGH: u64 = 2000;
/// What the guarded window should not be above, of a bare look-up and a bare write.
const WINDOW_BAR: f64 = 1.5;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("write_storm", storm)]
}

/// The median of some, in microseconds.
fn grace_period() -> u128 {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    let mut took = [0; 15].map(|_: u128| {
        let start = Instant::now();
        // SAFETY: takes two integers and no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
        start.elapsed().as_micros()
    });
    took.sort_unstable();
    took[7]
}

fn how_many() -> u64 {
    std::env::var(WRITES).map_or(150, |n| n.parse().unwrap())
}

fn storm() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    if machine::two_nodes().is_err() {
        return Done::Skipped("there is one node".to_owned());
    }
    let swaps = machine::swap_on_zram();
    let n = how_many();
    // What a guarded write waits for, where its page moved: several ticks, or one interrupt on each processor.
    let patient = grace_period();
    let _soon = Setting::change("/sys/kernel/rcu_expedited", "1");
    println!(
        "storm: a grace period: {patient} us, expedited {} us",
        grace_period()
    );
    println!(
        "storm: Linux {}, {PAGES} pages{}",
        v2p::kernel::release(),
        swaps
            .as_ref()
            .err()
            .map_or_else(String::new, |why| format!("; no page-out: {why}"))
    );
    Row::print_header();
    let swaps = swaps.is_ok();
    const PAUSE: Duration = Duration::from_millis(1);
    let some = n.min(ENOUGH);
    seeds_way("mlock, look up, write", Duration::ZERO, some).print();
    let mut slow = seeds_way("mlock, look up, 1 ms, write", PAUSE, some);
    slow.print();
    let mut unpinned = [
        ("guarded, another process", Duration::ZERO),
        ("guarded, 1 ms before the write", PAUSE),
    ]
    .map(|(name, pause)| unpinned(name, pause, n, swaps));
    unpinned.iter_mut().for_each(Row::print);
    let mut pinned = pinned(n, swaps);
    if let Some(pinned) = &mut pinned {
        pinned.print();
    }
    windows(some);
    for row in &unpinned {
        assert_eq!(row.missed, 0, "{row:?}");
        assert_eq!(row.flagged, row.strays, "{row:?}");
        assert_eq!(row.wrote_after_all, 0, "{row:?}");
        assert_eq!(row.unexplained, 0, "no events were lost: {row:?}");
        assert!(row.said[4] * 2 < n, "refused: {row:?}");
    }
    // Else that nothing was missed would show nothing.
    let [quick, paused] = &unpinned;
    assert!(slow.strays > 0 && paused.strays > 0, "{slow:?} {paused:?}");
    assert!(quick.said[0] * 5 > n, "landed: {quick:?}");
    if let Some(pinned) = pinned {
        assert_eq!(pinned.said[0] + pinned.lost, n, "{pinned:?}");
        assert!(pinned.lost * 10 < n, "{pinned:?}");
        assert_eq!((pinned.strays, pinned.missed), (0, 0), "{pinned:?}");
    }
    Done::Passed
}

/// As who wrote first did it: lock the pages, look up, write, believe it.
fn seeds_way(name: &'static str, pause: Duration, n: u64) -> Row {
    let mut storm = Storm::elsewhere(Weather {
        name,
        locks: true,
        swaps: false,
        discards: false,
    });
    let pagemap = Pagemap::of(storm.pid()).unwrap();
    let devmem = devmem();
    let mut row = Row::new(name);
    for k in 0..n {
        let i = k % PAGES;
        let token = (0x5eed << 32) | (k + 1);
        storm.let_blow();
        let start = Instant::now();
        let word = pagemap.word(VirtAddr(START + i * PAGE)).unwrap().unwrap();
        let Some(pfn) = word.pfn() else {
            row.count(Some(Verdict::Refused), false, true);
            continue;
        };
        if !pause.is_zero() {
            thread::sleep(pause);
        }
        let place = pfn.at(SLOT).0;
        assert_eq!(devmem.write_at(&token.to_ne_bytes(), place).unwrap(), 8);
        row.took += start.elapsed();
        let (value, _) = storm.ask(i);
        row.count(None, value == token, false);
    }
    row.deeds = storm.assert_blew();
    row
}

/// /dev/mem without any guard: in a guest.
fn devmem() -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mem")
        .unwrap()
}

/// With the same pause as who wrote first, or none.
fn unpinned(name: &'static str, pause: Duration, n: u64, swaps: bool) -> Row {
    let weather = Weather {
        name,
        locks: false,
        swaps,
        discards: true,
    };
    let mut storm = Storm::elsewhere(weather);
    let mut scene = Scene::of(storm.pid(), START..START + PAGES * PAGE);
    guarded(&mut storm, &mut scene, pause, n)
}

/// `None`: this kernel has no io_uring, or has turned it off.
fn pinned(n: u64, swaps: bool) -> Option<Row> {
    let weather = Weather {
        name: "guarded, own pages, pinned",
        // The pin alone is to keep them there, from being swapped out too.
        locks: false,
        swaps,
        // No pin holds against what the process does to its own mapping: another page would come in its place.
        discards: false,
    };
    let mut storm = Storm::here(weather);
    let mut scene = Scene::of(std::process::id(), START..START + PAGES * PAGE);
    let len = usize::try_from(PAGES * PAGE).unwrap();
    if let Err(why) = scene.guard.pin(VirtAddr(START), len) {
        println!("storm: not pinned: {why}");
        assert!(
            why.contains("io_uring_disabled") || why.contains("has no io_uring"),
            "{why}"
        );
        storm.begin();
        return None;
    }
    storm.begin();
    Some(guarded(&mut storm, &mut scene, Duration::ZERO, n))
}

fn guarded(storm: &mut Storm, scene: &mut Scene, pause: Duration, n: u64) -> Row {
    let mut row = Row::new(storm.weather.name);
    let control = scene.guard.programs().control();
    let events = control.account.seq.get();
    for k in 0..n {
        let i = k % PAGES;
        let token: u64 = (0x600d << 32) | (k + 1);
        storm.let_blow();
        let mut writing = u64::MAX;
        let job = Job {
            va: VirtAddr(START + i * PAGE + SLOT),
            bytes: &token.to_ne_bytes(),
            dry_run: false,
            force_readonly: false,
        };
        let start = Instant::now();
        let said = scene.job_losing(&job, &mut |step| {
            if step == Step::Write {
                writing = now_ns();
                if !pause.is_zero() {
                    thread::sleep(pause);
                }
            }
            Ok(())
        });
        row.took += start.elapsed();
        row.windows.extend(said.window_ns);
        let (value, wiped) = storm.ask(i);
        let (is_there, was_wiped) = (value == token, wiped > writing);
        row.count(Some(said.verdict), is_there, was_wiped);
        // What is to fail the test is told in full.
        let unexplained = said.verdict == Verdict::Unproven && !was_wiped && said.lost == 0;
        row.unexplained += u64::from(unexplained);
        row.lost += u64::from(said.verdict == Verdict::Unproven && said.lost > 0);
        if unexplained || said.pinned && said.verdict != Verdict::Landed {
            println!("storm: {said:?}");
        }
    }
    row.events = control.account.seq.get() - events;
    row.deeds = storm.assert_blew();
    row
}

/// The window on a page at rest, against a bare look-up and a bare write, in turns.
fn windows(n: u64) {
    let page = v2p::page::OwnPage::new().unwrap();
    let va = page.va();
    let mut scene = Scene::of(std::process::id(), va.0..va.0 + PAGE);
    let (pagemap, devmem) = (Pagemap::of_self().unwrap(), devmem());
    let (mut guarded, mut bare) = (Vec::new(), Vec::new());
    for k in 0..n {
        let token = k.to_ne_bytes();
        let said = scene.write(va.0 + SLOT, &token);
        assert_eq!(said.verdict, Verdict::Landed, "{said:#?}");
        guarded.push(said.window_ns.unwrap());
        let start = now_ns();
        let pfn = pagemap.word(va).unwrap().unwrap().pfn().unwrap();
        devmem.write_at(&token, pfn.at(2 * SLOT).0).unwrap();
        bare.push(now_ns() - start);
    }
    let median = |list: &mut Vec<u64>| {
        list.sort_unstable();
        list[list.len() / 2]
    };
    let (guarded, bare) = (median(&mut guarded), median(&mut bare));
    let ratio = guarded as f64 / bare as f64;
    // Told like a row of the bench, and never failed for: a guest shares its machine.
    let above = if ratio > WINDOW_BAR { "  above" } else { "" };
    println!(
        "storm: window on a page at rest, median of {n}: guarded {:.1} us, bare look-up and write {:.1} us  ratio {ratio:.2}  bar {WINDOW_BAR:.2}{above}",
        guarded as f64 / 1e3,
        bare as f64 / 1e3,
    );
}
