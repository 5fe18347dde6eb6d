//! Translations of so many pages that their frames are asked about on another thread, several batches of them.

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::{
    common::Pfn,
    process::{FrameFile, FrameFlags, Pagemap, maps::Mapping},
    state::PageState,
    translate::{Page, Route, Translator},
};

use crate::{
    Done,
    harness::{self, address},
    target::Target,
    translate::{runs, translate},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "many_pages_have_the_flags_of_their_own_frames",
            flags_of_many,
        ),
        trial(
            "what_was_broken_off_comes_into_no_other_translation",
            broken_off,
        ),
        trial(
            "many_pages_that_pagemap_hides_are_told_by_the_walk",
            hidden_by_pagemap,
        ),
    ]
}

fn flags_of_many() -> Done {
    const MANY: u64 = 30_000;
    let mut target = Target::start();
    let start = target.tell("mixed", MANY);
    let (flags, counts) = (FrameFile::flags().unwrap(), FrameFile::counts().unwrap());
    let word = |file: &FrameFile, pfn: &Value| {
        let mut words = Vec::new();
        let frame = [Pfn(pfn.as_u64().unwrap())];
        file.of(&frame, |word| words.extend(word)).unwrap();
        words[0]
    };
    let steady = FrameFlags(u64::MAX).steady().names();
    for route in ["pagemap", "both"] {
        let range = format!("{start:#x}+{}", MANY * 4096);
        let (records, _) = translate(&target, &["--each", "--route", route, &range]);
        let (mut at, mut compared, mut free, mut others) = (0, 0, 0, 0);
        for run in runs(&records) {
            assert_eq!(address(&run["va"]), start + at * 4096, "{route}: {run}");
            // What was given away may be taken, and compaction may be moving one, still.
            let states: &[_] = match at % 6 {
                2 => &["present", "migrating", "absent"],
                4 => &["zero"],
                5 => &["absent"],
                _ => &["present", "migrating"],
            };
            let state = run["state"].as_str().unwrap();
            assert!(states.contains(&state), "{route}: {run}");
            at += run["pages"].as_u64().unwrap();
            if state != "present" {
                continue;
            }
            // Nobody asked KSM to look at these, whatever 6.12 says of every anonymous page (`v2p::page::believed`).
            let now = FrameFlags(word(&flags, &run["pfn"]) & !FrameFlags::KSM.0);
            let names = now.steady().names();
            let told = run["flags"].as_array().unwrap();
            let told: Vec<_> = told
                .iter()
                .filter(|flag| steady.iter().any(|name| flag == name))
                .collect();
            let mapped = run["mapped"] == word(&counts, &run["pfn"]);
            // What is on its way between the kernel's lists changes.
            compared += u64::from(mapped && told == names);
            others += u64::from(
                run["flags"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|flag| flag == "uptodate"),
            );
            free += u64::from(!names.contains(&"swapbacked"));
        }
        assert_eq!(at, MANY, "{route}");
        let written = MANY / 6 * 4;
        assert!(compared > written * 99 / 100, "{route}: {compared}");
        assert!(free > MANY / 6 / 2, "{route}: {free} are as all others");
        assert!(
            others > written * 99 / 100,
            "{route}: {others} are up to date"
        );
    }
    Done::Passed
}

/// The buffer of a perf event, whose pages the kernel maps by their frames (VM_PFNMAP, from 6.15 on).
fn hidden_by_pagemap() -> Done {
    const MANY: u64 = 4096 + 1;
    const AT: u64 = 0x6500_0000_0000;
    const SOFTWARE_OF_64_BYTES: u64 = 64 << 32 | 1;
    const DUMMY: u64 = 9;
    let mut target = Target::start();
    let attributes = target.scratch(&[SOFTWARE_OF_64_BYTES, DUMMY, 0, 0, 0, 0, 0, 0]);
    let arguments = [attributes, 0, u64::MAX, u64::MAX, 0];
    let event = target.must(libc::SYS_perf_event_open, &arguments);
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE).unsigned_abs();
    let arguments = [AT, MANY * 4096, 3, flags.into(), event, 0];
    assert_eq!(target.must(libc::SYS_mmap, &arguments), AT);
    let range = format!("{AT:#x}+{}", MANY * 4096);
    let told = ["pagemap", "walk", "both"].map(|route| {
        let (records, code) = translate(&target, &["--route", route, &range]);
        assert_eq!(code, Some(0), "{route}");
        let end = records.last().unwrap().clone();
        (runs(&records).into_iter().cloned().collect::<Vec<_>>(), end)
    });
    let [pagemap, walk, both] = &told;
    if pagemap.1["absent"] != MANY || walk.1["absent"] == MANY {
        return Done::Skipped("this kernel maps perf's buffers as any page".to_owned());
    }
    assert_eq!(
        (&walk.1["device"], &both.1["device"]),
        (&MANY.into(), &MANY.into())
    );
    assert_eq!(both.1["single"], MANY, "{}", both.1);
    assert_eq!(walk.0, both.0);
    // Not page by page.
    let mapping = Mapping {
        start: AT,
        end: AT + MANY * 4096,
        writable: true,
        name: String::new(),
    };
    let pagemap = Pagemap::of(target.pid()).unwrap();
    let mut translator = Translator::new(Route::Both).unwrap();
    let (mut devices, before) = (0, harness::reads());
    let each = &mut |page: Page, pages| {
        devices += u64::from(matches!(page.state, PageState::Device { .. })) * pages;
        Ok(())
    };
    assert!(translator.mapping(&pagemap, &mapping, each).unwrap());
    assert_eq!(devices, MANY);
    if let (Some(before), Some(after)) = (before, harness::reads()) {
        assert!(after - before < MANY / 10, "{} reads", after - before);
    }
    Done::Passed
}

/// By the library, which goes on after an error, and after a process that ended.
fn broken_off() -> Done {
    // The last of it is enough for another thread, too: it is read in parts of 1, 8, and then 16 blocks of 512.
    const MANY: u64 = 512 * (1 + 8 + 4 * 16 + 12);
    let (mut target, mut ends) = (Target::start(), Some(Target::start()));
    let starts = [&mut target, ends.as_mut().unwrap()].map(|of| of.tell("mixed", MANY));
    let [mapping, of_other] = starts.map(|start| Mapping {
        start,
        end: start + MANY * 4096,
        writable: true,
        name: String::new(),
    });
    let pagemap = Pagemap::of(target.pid()).unwrap();
    let other = Pagemap::of(ends.as_ref().unwrap().pid()).unwrap();
    let mut translator = Translator::new(Route::Pagemap).unwrap();
    let told_whole = |translator: &mut Translator| {
        let mut next = mapping.start;
        let mut take = |page: Page, pages| {
            anyhow::ensure!(page.va.0 == next, "{page:?} in the place of {next:#x}");
            next += pages * 4096;
            Ok(())
        };
        assert!(translator.mapping(&pagemap, &mapping, &mut take).unwrap());
        assert_eq!(next, mapping.end);
    };
    for last in [0, 1000, MANY / 2, MANY - 20_000, MANY - 9000, MANY - 1] {
        let last = mapping.start + last * 4096;
        let mut take = |page: Page, _| {
            anyhow::ensure!(page.va.0 != last, "enough");
            Ok(())
        };
        let error = translator.mapping(&pagemap, &mapping, &mut take);
        assert_eq!(error.unwrap_err().to_string(), "enough");
        told_whole(&mut translator);
    }
    let mut next = of_other.start;
    let mut take = |page: Page, pages| {
        drop(ends.take());
        anyhow::ensure!(page.va.0 == next, "{page:?} in the place of {next:#x}");
        next += pages * 4096;
        Ok(())
    };
    assert!(!translator.mapping(&other, &of_other, &mut take).unwrap());
    assert!(next < of_other.end);
    told_whole(&mut translator);
    Done::Passed
}
