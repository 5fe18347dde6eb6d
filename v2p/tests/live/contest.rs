//! Two threads on the same pages: one takes them away, the other touches them again.

use std::collections::BTreeMap;

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::{common::VirtAddr, process::Pagemap};

use crate::{
    Done,
    harness::address,
    machine::{OnCpu, Setting},
    target::{PAGE, Target},
    trial,
    watch::watch,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "two_threads_on_the_same_pages_are_told_apart",
        scuffle,
    )]
}

/// More pages than a processor remembers the places of: who touches one while it is being taken away finds it gone.
const CONTESTED: u64 = 8192;
/// Those that are told of.
const TOLD: std::ops::Range<u64> = 4000..4064;
const START: u64 = 0x6100_0000_0000;

const fn at(page: u64) -> u64 {
    START + page * PAGE
}

/// What is told of each page is one story without a gap, in which nothing was copied, and it ends with what is there.
fn scuffle() -> Done {
    const SECONDS: u64 = 2;
    let _unbalanced = Setting::change("/proc/sys/kernel/numa_balancing", "0");
    let mut target = Target::start();
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let [access, flags] = [access, flags | libc::MAP_ANONYMOUS | libc::MAP_FIXED]
        .map(|bits| u64::try_from(bits).unwrap());
    let mapped = [START, CONTESTED * PAGE, access, flags, u64::MAX, 0];
    target.must(libc::SYS_mmap, &mapped);
    let base_pages = u64::try_from(libc::MADV_NOHUGEPAGE).unwrap();
    target.call(libc::SYS_madvise, &[START, CONTESTED * PAGE, base_pages]);
    let range = format!("{:#x}..{:#x}", at(TOLD.start), at(TOLD.end));
    // 7.x skips a hook that another process is in on that CPU: v2p gives memory back too, and does it beside the thread that does not.
    let _beside = OnCpu::stay(1);
    let watching = watch(&target, &[&range]);
    let times = target.scuffle(START, CONTESTED, SECONDS);
    let pagemap = Pagemap::of(target.pid()).unwrap();
    let truth = TOLD.map(|i| {
        pagemap
            .word(VirtAddr(at(i)))
            .unwrap()
            .unwrap()
            .pfn()
            .unwrap()
            .0
    });
    let truth: Vec<u64> = truth.collect();
    let (records, status) = watching.interrupt();
    assert!(status.success());
    let (start, end) = (&records[0], records.last().unwrap());
    let sees_removals = start["missing"].as_array().unwrap().is_empty();
    let mut known: BTreeMap<u64, Value> = BTreeMap::new();
    let absent = serde_json::json!({"state": "absent"});
    let mut causes: BTreeMap<(String, String), u64> = BTreeMap::new();
    let (mut gaps, mut gone, mut lost) = (0, 0, false);
    for record in &records {
        lost |= record["type"] == "lost";
        if record["type"] != "move" {
            continue;
        }
        let word = |name: &str| record[name].as_str().unwrap().to_owned();
        *causes.entry((word("cause"), word("proof"))).or_default() += 1;
        gone += u64::from(record["cause"] == "unknown" && record["to"] == absent);
        for i in 0..record["pages"].as_u64().unwrap() {
            let place = known.entry(address(&record["va"]) + i * PAGE);
            let before = place.or_insert_with(|| absent.clone());
            gaps += u64::from(*before != nth(&record["from"], i));
            *before = nth(&record["to"], i);
        }
    }
    println!("contest: {times} removals of {CONTESTED} pages: {causes:?}, {gaps} gaps, {end}");
    assert_eq!(gaps, 0);
    for (page, pfn) in TOLD.zip(truth) {
        let there = serde_json::json!({"state": "present", "pfn": pfn});
        assert_eq!(known.get(&at(page)), Some(&there), "page {page}: {end}");
    }
    let copied = causes.keys().any(|(cause, _)| cause == "cow");
    assert!(!copied, "nothing is copied here");
    if sees_removals && !lost {
        let other = |(cause, proof): &&(String, String)| {
            !(proof == "event" && ["first-touch", "discard", "unknown"].contains(&cause.as_str()))
        };
        assert_eq!(causes.keys().find(other), None);
        assert_eq!(gone, 0, "what took a page away is known");
    }
    Done::Passed
}

/// The state of the page `i` pages on.
fn nth(state: &Value, i: u64) -> Value {
    let mut state = state.clone();
    if let Some(pfn) = state["pfn"].as_u64() {
        state["pfn"] = (pfn + i).into();
    }
    state
}
