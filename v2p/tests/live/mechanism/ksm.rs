//! KSM: pages with the same in them become one, and part again.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    panic::panic_any,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::{
    page::OwnPage,
    process::{FrameFlags, Pagemap, frame_flags},
};

use super::{
    scene::{Scene, Told},
    tid,
};
use crate::{
    Again, Done,
    machine::Setting,
    target::{BASE, PAGE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);
const MADV_MERGEABLE: u64 = 12;
const MADV_UNMERGEABLE: u64 = 13;
const KSM: &str = "/sys/kernel/mm/ksm";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_ksm_merge", ksm_merge),
        trial("mechanism_ksm_break_by_a_write", ksm_break_by_a_write),
        trial("mechanism_ksm_unmerge", ksm_unmerge),
        trial("mechanism_ksm_unmerge_all", ksm_unmerge_all),
        trial(
            "mechanism_ksm_merge_with_zero_page",
            ksm_merge_with_zero_page,
        ),
    ]
}

/// KSM at work, as long as these live.
fn ksm() -> Result<[Option<Setting>; 4], Done> {
    let set = |name: &str, value| Setting::change(&format!("{KSM}/{name}"), value);
    // 6.6 and later would skip pages that did not merge soon.
    let settings = [
        set("smart_scan", "0"),
        set("pages_to_scan", "5000"),
        set("sleep_millisecs", "10"),
        set("run", "1"),
    ];
    match settings[3] {
        Some(_) => Ok(settings),
        None => Err(Done::Skipped("this kernel has no KSM".to_owned())),
    }
}

/// Whether /proc/kpageflags shows KSM for a page that it never was asked about.
fn flag_lies() -> bool {
    let page = OwnPage::new().unwrap();
    let word = Pagemap::of_self().unwrap().word(page.va());
    let pfn = word.unwrap().unwrap().pfn().unwrap();
    frame_flags(pfn).unwrap().has(FrameFlags::KSM)
}

fn equal_pages(target: &mut Target) {
    target.fill(va(8), 4);
    target.must(libc::SYS_madvise, &[va(8), 4 * PAGE, MADV_MERGEABLE]);
}

/// Waits until its four pages lie in one frame.
fn wait_for_one_frame(target: &Target) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        let first = target.frame(8);
        if first != 0 && (9..12).all(|i| target.frame(i) == first) {
            return true;
        }
        thread::sleep(Duration::from_millis(50));
    }
    false
}

/// KSM merges four pages of the scene.
fn merged(mut scene: Scene) -> Result<Told, Done> {
    let _at_work = ksm()?;
    scene.act(|target| target.must(libc::SYS_madvise, &[va(8), 4 * PAGE, MADV_MERGEABLE]));
    if !wait_for_one_frame(&scene.target) {
        let why = "KSM did not merge them in 20 s".to_owned();
        return Err(Done::Skipped(why));
    }
    thread::sleep(Duration::from_millis(500));
    Ok(scene.end())
}

fn ksm_merge() -> Done {
    let scene = Scene::new(&[ALL], |target| target.fill(va(8), 4));
    let told = match merged(scene) {
        Ok(told) => told,
        Err(skipped) => return skipped,
    };
    // ksmd takes back the first half of a pair whose second it cannot have just then.
    let taken_back = |m: &&Value| m["cause"] != "ksm-merge" && m["by"]["comm"] == "ksmd";
    if let Some(one) = told.moves.iter().find(taken_back) {
        panic_any(Again(format!("ksmd took a merge back: {one}")));
    }
    // One of all may keep its frame.
    let merged = (8..12)
        .filter(|i| !told.causes_of(va(*i)).is_empty())
        .count();
    assert!(merged >= 3, "{:#?}", told.moves);
    let merges = told.moves.iter().filter(|m| m["cause"] == "ksm-merge");
    assert_eq!(merges.count(), told.moves.len(), "{:#?}", told.moves);
    told.by_name("ksm-merge", "ksmd");
    told.in_part("KSM merge");
    Done::Passed
}

fn ksm_break_by_a_write() -> Done {
    let _at_work = match ksm() {
        Ok(settings) => settings,
        Err(skipped) => return skipped,
    };
    let mut merged = true;
    let prepare = |target: &mut Target| {
        equal_pages(target);
        merged &= wait_for_one_frame(target);
    };
    let mut scene = Scene::of(&[ALL], prepare, |target| {
        // So that what the write makes is not merged again.
        fs::write(format!("{KSM}/run"), "0").unwrap();
        target.pid()
    });
    if !merged {
        return Done::Skipped("KSM did not merge them in 20 s".to_owned());
    }
    scene.act(|target| target.fill(va(9), 1));
    let told = scene.end();
    let cause = told.causes_of(va(9));
    if cause == ["cow"] && flag_lies() {
        return Done::Skipped(
            "this kernel's flag does not tell pages of KSM from others".to_owned(),
        );
    }
    told.only((va(9), 1), &["ksm-break"])
        .by("ksm-break", told.pid);
    told.by_event("KSM break, by a write");
    Done::Passed
}

fn ksm_unmerge() -> Done {
    unmerged("MADV_UNMERGEABLE", |scene| {
        scene.act(|target| target.must(libc::SYS_madvise, &[va(8), 4 * PAGE, MADV_UNMERGEABLE]));
        scene.target.pid()
    })
}

/// As root asks for it, of every process.
fn ksm_unmerge_all() -> Done {
    unmerged("of all at once", |_| {
        fs::write(format!("{KSM}/run"), "2").unwrap();
        tid()
    })
}

/// `unmerge` has four pages unmerged, and gives the thread that did.
fn unmerged(mechanism: &str, unmerge: impl FnOnce(&mut Scene) -> u32) -> Done {
    let _at_work = match ksm() {
        Ok(settings) => settings,
        Err(skipped) => return skipped,
    };
    let mut merged = true;
    let mut scene = Scene::new(&[ALL], |target| {
        equal_pages(target);
        merged &= wait_for_one_frame(target);
    });
    if !merged {
        return Done::Skipped("KSM did not merge them in 20 s".to_owned());
    }
    let by = unmerge(&mut scene);
    let told = scene.end();
    if told.functions {
        told.only((va(8), 4), &["ksm-break"]).by("ksm-break", by);
    }
    told.proven(&format!("KSM break, {mechanism}"));
    Done::Passed
}

/// Pages of zeros, where KSM is told to have them in the page of zeros that all have.
fn ksm_merge_with_zero_page() -> Done {
    let path = format!("{KSM}/use_zero_pages");
    let Some(_zero) = Setting::change(&path, "1") else {
        return Done::Skipped("this kernel's KSM does not know the zero page".to_owned());
    };
    let scene = Scene::new(&[ALL], |target| {
        target.fill(va(8), 4);
        let memory = fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{}/mem", target.pid()));
        let memory = memory.unwrap();
        let zeros = |i| memory.write_all_at(&[0; 4096], va(i)).unwrap();
        (8..12).for_each(zeros);
    });
    let told = match merged(scene) {
        Ok(told) => told,
        Err(skipped) => return skipped,
    };
    told.only((va(8), 4), &["ksm-merge"]);
    for one in &told.moves {
        assert_eq!(one["to"]["state"], "zero", "{one:#}");
    }
    told.by_name("ksm-merge", "ksmd");
    told.in_part("KSM merge, with the zero page");
    Done::Passed
}
