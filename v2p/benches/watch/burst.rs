//! One compaction of all memory, as told of a process with holes in its own.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    ptr,
    time::Instant,
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use serde_json::Value;
use v2p::{
    common::{VirtAddr, pagemap::PagemapWord},
    process::Pagemap,
};

use crate::{
    tracers::{interrupt, watch},
    workload::{KIND, PAGE},
};

/// The workload that has memory with holes in it.
pub(crate) const PUNCHED: &str = "punched";
const GIB: usize = 1 << 30;

/// What was seen, and told.
pub(crate) struct Burst {
    /// Pages whose frame is another one afterwards, by pagemap.
    pub(crate) elsewhere: usize,
    /// Moves by compaction that were told: more, where a page moved twice.
    pub(crate) moves: u64,
    pub(crate) lost: u64,
    /// From the order to its end.
    pub(crate) ms: f64,
}

pub(crate) fn burst() -> Burst {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(KIND, PUNCHED)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let start: u64 = line.trim().parse().unwrap();
    let (mut v2p, out, _) = watch(child.id(), &[]);
    let reader = std::thread::spawn(move || {
        let (mut moves, mut last) = (0, String::new());
        for line in out.lines().map_while(Result::ok) {
            if line.contains(r#""cause":"migration""#) {
                let one: Value = serde_json::from_str(&line).unwrap();
                moves += one["pages"].as_u64().unwrap();
            }
            last = line;
        }
        let end: Value = serde_json::from_str(&last).unwrap();
        (moves, end["lost"].as_u64().unwrap())
    });
    let before = frames(child.id(), start);
    let begin = Instant::now();
    std::fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
    let ms = begin.elapsed().as_secs_f64() * 1000.0;
    let after = frames(child.id(), start);
    interrupt(&mut v2p);
    let (moves, lost) = reader.join().unwrap();
    // It ends with its input.
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(before.len(), after.len());
    let elsewhere = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert!(
        moves + lost >= elsewhere as u64,
        "{moves} {lost} {elsewhere}"
    );
    Burst {
        elsewhere,
        moves,
        lost,
        ms,
    }
}

/// The frames of the GiB at `start`, hole or not.
fn frames(pid: u32, start: u64) -> Vec<Option<u64>> {
    let mut frames = Vec::new();
    let each = |_, word: PagemapWord| frames.push(word.pfn().map(|pfn| pfn.0));
    let end = VirtAddr(start + GIB as u64);
    assert!(
        Pagemap::of(pid)
            .unwrap()
            .words(VirtAddr(start), end, each)
            .unwrap()
    );
    frames
}

/// The child's side: a GiB of base pages, every second one given back, until its input ends.
pub(crate) fn be_punched() {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, written page by page, of which single pages are given back.
    unsafe {
        let start = mmap_anonymous(ptr::null_mut(), GIB, access, MapFlags::PRIVATE).unwrap();
        madvise(start, GIB, Advice::LinuxNoHugepage).unwrap();
        let pages = (0..GIB / PAGE).map(|i| start.cast::<u8>().add(i * PAGE));
        pages.clone().for_each(|page| page.write_volatile(1));
        for page in pages.skip(1).step_by(2) {
            madvise(page.cast(), PAGE, Advice::LinuxDontNeed).unwrap();
        }
        println!("{}", start as u64);
    }
    let _ = std::io::stdin().read(&mut [0]);
}
