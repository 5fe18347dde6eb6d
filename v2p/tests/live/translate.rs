//! `v2p translate` on a running kernel, held against what the target itself knows.

use std::{
    collections::BTreeSet, ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, ptr::null_mut,
    time::Instant,
};

use libtest_mimic::Trial;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde_json::Value;

use crate::{
    Done,
    harness::{self, PATIENCE, address, last_json},
    machine::two_nodes,
    mechanism::move_to_other_node,
    target::{PAGES, Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("every_route_says_what_the_target_itself_knows", every_route),
        trial("runs_hold_every_page_once", runs_hold_every_page),
        trial(
            "the_routes_agree_on_every_process_of_this_machine",
            every_process,
        ),
        trial("levels_lead_to_the_frame_of_the_run", levels),
        trial("a_terabyte_that_is_reserved_costs_nothing", a_terabyte),
        trial("the_node_of_a_page_is_told_where_there_are_two", nodes),
        trial("how_often_a_page_is_mapped_is_told_page_by_page", mapped),
        trial(
            "a_process_whose_main_thread_has_ended_is_one",
            without_main_thread,
        ),
        trial("one_page_that_is_not_there_is_an_answer_of_no", one_absent),
        trial("a_name_may_look_like_an_address_or_be_no_text", odd_names),
    ]
}

/// All records of a translation, and its exit code.
pub(crate) fn translate(target: &Target, more: &[&str]) -> (Vec<Value>, Option<i32>) {
    let pid = target.pid().to_string();
    let output = harness::run(&[&["translate", "--json", "--pid", &pid], more].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, "");
    let records = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (records, output.status.code())
}

pub(crate) fn runs(records: &[Value]) -> Vec<&Value> {
    records.iter().filter(|r| r["type"] == "run").collect()
}

fn all_pages() -> String {
    format!("{:#x}..{:#x}", va(0), va(PAGES))
}

fn every_route() -> Done {
    let mut target = Target::start();
    let truth: Vec<_> = (0..8).map(|i| target.tell("write", i)).collect();
    target.tell("read", 9);
    for route in ["pagemap", "walk", "both", "auto"] {
        let (records, code) = translate(&target, &["--each", "--route", route, &all_pages()]);
        assert_eq!(code, Some(0));
        let mut pages = vec![Value::Null; usize::try_from(PAGES).unwrap()];
        for run in runs(&records) {
            let first = (address(&run["va"]) - va(0)) / 4096;
            for i in first..first + run["pages"].as_u64().unwrap() {
                pages[usize::try_from(i).unwrap()] = run.clone();
            }
        }
        for (i, pfn) in truth.iter().enumerate() {
            let page = &pages[i];
            assert_eq!(
                (&page["state"], &page["pfn"]),
                (&Value::from("present"), &Value::from(*pfn)),
                "{route}: {page}"
            );
            assert_eq!(address(&page["pa"]), pfn * 4096);
            let (verdict, size) = match route {
                "pagemap" => ("single", Value::Null),
                "walk" => ("single", Value::from(4096)),
                _ => ("agree", Value::from(4096)),
            };
            assert_eq!(
                (&page["verdict"], &page["page_size"]),
                (&Value::from(verdict), &size),
                "{route}: {page}"
            );
            let flags = page["flags"].as_array().unwrap();
            assert!(flags.contains(&Value::from("anon")), "{route}: {page}");
        }
        assert_eq!(pages[9]["state"], "zero", "{route}: {}", pages[9]);
        assert_eq!(pages[20]["state"], "absent", "{route}: {}", pages[20]);
        let end = records.last().unwrap();
        let expected = if route == "auto" { "both" } else { route };
        assert_eq!(
            (&end["type"], &end["route"]),
            (&Value::from("end"), &Value::from(expected))
        );
        let counts = ["pages", "present", "zero", "absent", "disagree", "moved"]
            .map(|k| end[k].as_u64().unwrap());
        assert_eq!(counts, [PAGES, 8, 1, PAGES - 9, 0, 0], "{route}: {end}");
    }
    Done::Passed
}

fn runs_hold_every_page() -> Done {
    let mut target = Target::start();
    (0..PAGES)
        .step_by(3)
        .for_each(|i| _ = target.tell("write", i));
    let (records, _) = translate(&target, &[&all_pages()]);
    let mut at = va(0);
    for run in runs(&records) {
        assert_eq!(address(&run["va"]), at, "{run}");
        at += 4096 * run["pages"].as_u64().unwrap();
    }
    assert_eq!(at, va(PAGES));
    Done::Passed
}

/// Whether it is right that process `pid` is not translated.
fn is_no_one_s(pid: u32, code: Option<i32>) -> bool {
    let maps = fs::read(format!("/proc/{pid}/maps"));
    match code {
        // A kernel thread, a zombie, or one that has ended.
        Some(1) => {
            maps.is_ok_and(|maps| maps.is_empty()) || v2p::process::Process::open(pid).is_err()
        }
        // Kept from root too.
        Some(3) => maps.is_err(),
        _ => false,
    }
}

fn every_process() -> Done {
    let target = Target::start();
    let (mut seen, mut compared) = (0, BTreeSet::new());
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|s| s.parse::<u32>().ok())
        else {
            continue;
        };
        let output = harness::run(&[
            "translate",
            "--json",
            "--route",
            "both",
            "--pid",
            &pid.to_string(),
        ]);
        if output.status.code() != Some(0) {
            let said = String::from_utf8_lossy(&output.stderr);
            let code = output.status.code();
            let executed = said.contains("executed another program");
            assert!(
                executed || is_no_one_s(pid, code),
                "{pid}: exit {code:?}, {said}"
            );
            continue;
        }
        compared.insert(pid);
        let end = last_json(&output);
        assert_eq!(end["disagree"], 0, "process {pid}: {end}");
        // Pagemap cannot tell of the kernel's half; of all else no frame is told that was not compared.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in text
            .lines()
            .filter(|line| line.contains(r#""state":"present""#))
        {
            let run: Value = serde_json::from_str(line).unwrap();
            let is_compared = run["verdict"] != "single" || run["mapping"] == "[vsyscall]";
            assert!(is_compared, "process {pid}: {run}");
        }
        seen += end["present"].as_u64().unwrap();
    }
    assert!(seen > 1000, "{seen} pages");
    for pid in [std::process::id(), target.pid()] {
        assert!(compared.contains(&pid), "{pid} is not in {compared:?}");
    }
    Done::Passed
}

fn levels() -> Done {
    let mut target = Target::start();
    let pfn = target.tell("write", 5);
    let inside = format!("{:#x}", va(5) + 0x123);
    let (records, code) = translate(&target, &[&inside, "--levels"]);
    assert_eq!(code, Some(0));
    let levels: Vec<_> = records.iter().filter(|r| r["type"] == "level").collect();
    let names: Vec<_> = levels
        .iter()
        .map(|l| l["level"].as_str().unwrap())
        .collect();
    let all = ["pgd", "p4d", "pud", "pmd", "pte"];
    assert!(
        names == all || names == ["pgd", "pud", "pmd", "pte"],
        "{names:?}"
    );
    if let Ok(expected) = std::env::var("V2P_LAB_LEVELS") {
        assert_eq!(names.len().to_string(), expected);
    }
    let leaf = levels.last().unwrap();
    assert_eq!(address(&leaf["pa"]), pfn * 4096);
    for level in &levels {
        let flags = level["flags"].as_array().unwrap();
        assert!(
            flags.contains(&Value::from("present")) && flags.contains(&Value::from("user")),
            "{level}"
        );
    }
    assert_eq!(runs(&records)[0]["pfn"], pfn);
    let pid = target.pid().to_string();
    let text = harness::run(&["translate", "--pid", &pid, &inside]).stdout;
    let place = format!("{:#x} is at physical address {:#x}", va(5), pfn * 4096);
    assert!(String::from_utf8_lossy(&text).contains(&place), "{place}");
    // It was written to, and stays marked so.
    target.must(libc::SYS_mprotect, &[va(5), 4096, 1]);
    let (records, _) = translate(&target, &[&inside, "--levels"]);
    let leaf = records.iter().rfind(|r| r["type"] == "level").unwrap();
    let flags = leaf["flags"].as_array().unwrap();
    let saved = v2p::kernel::version() >= Some((6, 6));
    let dirty = if saved { "saved-dirty" } else { "dirty" };
    assert!(
        flags.contains(&dirty.into()) && !flags.contains(&"rw".into()),
        "{leaf}"
    );
    // Long enough to be an address without its prefix.
    let (bare, code) = translate(&target, &[inside.trim_start_matches("0x"), "--levels"]);
    assert_eq!(code, Some(0));
    assert_eq!(runs(&bare)[0]["pfn"], pfn);
    Done::Passed
}

fn a_terabyte() -> Done {
    let mut target = Target::start();
    // More than one of the kernel's own buffers of 512 regions.
    let start = target.tell("reserve", 1500);
    // By pagemap alone it is read whole where the kernel has no PAGEMAP_SCAN (6.7): minutes.
    let scans = v2p::kernel::version() >= Some((6, 7));
    let routes: &[_] = if scans {
        &["pagemap", "walk", "both"]
    } else {
        &["walk", "both"]
    };
    for route in routes {
        let (records, code) = translate(&target, &["--route", route, &format!("{start:#x}+1024G")]);
        assert_eq!(code, Some(0));
        let mut at = start;
        for run in runs(&records) {
            assert_eq!(address(&run["va"]), at, "{run}");
            at += 4096 * run["pages"].as_u64().unwrap();
        }
        let end = records.last().unwrap();
        let counts = ["pages", "present", "disagree"].map(|k| end[k].as_u64().unwrap());
        assert_eq!(counts, [1 << 28, 1500, 0], "{route}: {end}");
    }
    Done::Passed
}

fn nodes() -> Done {
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let mut target = Target::start();
    let mut told = Vec::new();
    for _ in 0..2 {
        target.tell("write", 5);
        let there = move_to_other_node(&mut target, va(5));
        let (records, _) = translate(&target, &[&format!("{:#x}", va(5))]);
        assert_eq!(runs(&records)[0]["node"], there, "{records:?}");
        told.push(there);
    }
    assert_ne!(told[0], told[1]);
    Done::Passed
}

fn mapped() -> Done {
    let mut target = Target::start();
    target.tell("write", 5);
    let page = format!("{:#x}", va(5));
    let count = |target: &Target, more: &[&str]| {
        let (records, _) = translate(target, &[&[page.as_str()], more].concat());
        runs(&records)[0]["mapped"].clone()
    };
    assert_eq!(count(&target, &["--each"]), 1);
    // It would cut runs.
    assert_eq!(count(&target, &[]), Value::Null);
    target.fork();
    assert_eq!(count(&target, &["--each"]), 2);
    Done::Passed
}

/// Its number then has no memory in /proc; its other threads have.
fn without_main_thread() -> Done {
    let mut target = Target::start();
    let pfn = target.tell("write", 4);
    target.tell("leave", 0);
    let deadline = Instant::now() + PATIENCE;
    // Empty, or an error: that differs from kernel to kernel.
    let maps = format!("/proc/{}/maps", target.pid());
    while fs::read(&maps).is_ok_and(|mappings| !mappings.is_empty()) {
        assert!(Instant::now() < deadline, "the main thread has not ended");
    }
    let (records, code) = translate(&target, &[&format!("{:#x}", va(4))]);
    assert_eq!((&runs(&records)[0]["pfn"], code), (&pfn.into(), Some(0)));
    let output = harness::run(&["who", "--json", &format!("pfn:{pfn}")]);
    assert_eq!(last_json(&output)["mappings"], 1);
    Done::Passed
}

fn one_absent() -> Done {
    let mut target = Target::start();
    let address = format!("{:#x}", va(3));
    let (records, code) = translate(&target, &[&address]);
    assert_eq!(
        (code, &runs(&records)[0]["state"]),
        (Some(1), &Value::from("absent"))
    );
    target.tell("write", 3);
    assert_eq!(translate(&target, &[&address]).1, Some(0));
    Done::Passed
}

/// Of a file that is called as an address could be, or by bytes that are no text.
fn odd_names() -> Done {
    const LEN: usize = 4096;
    for name in [&b"cafebabe"[..], b"xxd", b"a\xff\xfeb"] {
        let name = OsStr::from_bytes(name);
        let folder = std::env::temp_dir().join(format!("v2p-names-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, [1; LEN]).unwrap();
        let file = fs::File::open(&path).unwrap();
        // SAFETY: a new mapping touches nothing that exists, and nothing refers to it after it is taken away.
        let place =
            unsafe { mmap(null_mut(), LEN, ProtFlags::READ, MapFlags::SHARED, &file, 0) }.unwrap();
        let pid = std::process::id().to_string();
        let command = ["translate", "--json", "--pid", &pid];
        let output = harness::v2p().args(command).arg(name).output().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        // SAFETY: as above.
        unsafe { munmap(place, LEN) }.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let run: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(address(&run["va"]), place as u64, "{text}");
        assert_eq!(run["mapping"], *path.to_string_lossy(), "{text}");
    }
    Done::Passed
}
