//! The command itself: what it prints, how it ends, and what it says to bad input.

use std::{
    ffi::CStr,
    fs, io,
    os::unix::process::CommandExt as _,
    process::{Output, Stdio},
};

use libtest_mimic::Trial;
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};
use serde_json::Value;
use v2p::process::Pagemap;

use super::{inside, is_open, word};
use crate::{
    Done,
    harness::{self, expected_devmem, last_json},
    machine::two_nodes,
    target::{PAGES, Target, va},
    trial,
};

const NEW: [u8; 8] = *b"8 bytes!";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("write_lands_in_another_process_and_says_so", lands),
        trial("write_names_the_check_that_denies", denied),
        trial("write_beyond_the_processes_addresses_is_refused", beyond),
        trial(
            "write_says_what_is_wrong_with_its_input_in_one_line",
            bad_input,
        ),
        trial("write_says_what_it_did_whatever_signal_comes", told_to_stop),
        trial("write_tells_a_stray_as_text", stray),
        trial("write_tells_a_stray_inside_a_huge_page", huge_stray),
        trial("write_without_dev_mem_or_with_one_for_reading", devmem),
    ]
}

/// Once something was written it has to be said.
fn told_to_stop() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    let mut target = Target::start();
    let file = format!("/tmp/v2p-write-{}", std::process::id());
    let bytes = b"8 bytes!".repeat(usize::try_from(PAGES).unwrap() * 512);
    fs::write(&file, &bytes).unwrap();
    // A command may end before it is met.
    let output = (0..50).find_map(|_| met_in_the_midst(&mut target, &file));
    fs::remove_file(&file).unwrap();
    let output = output.expect("no command was met between its first word and its end");
    let output = harness::whole("write", output);
    let said = last_json(&output);
    assert_eq!(output.status.code(), Some(0), "{said:#}");
    assert_eq!(said["verdict"], "landed", "{said:#}");
    assert_eq!(said["written"], bytes.len(), "{said:#}");
    assert_eq!(target.peek(va(PAGES) - 8), word(NEW));
    Done::Passed
}

/// What a command said that had written its first word when signals reached it; nothing where it
/// had ended by then.
fn met_in_the_midst(target: &mut Target, file: &str) -> Option<Output> {
    target.fill(va(0), PAGES);
    let (pid, place) = (target.pid().to_string(), format!("{:#x}", va(0)));
    let writer = harness::v2p()
        .args(["write", "--json", "--pid", &pid, &place, "--file", file])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let process = Pid::from_child(&writer);
    // Not waited for here: its pid has to be its own while signals are sent.
    let changed = |to| waitid(WaitId::Pid(process), to | WaitIdOptions::NOWAIT).unwrap();
    let ended = || changed(WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_some();
    while target.peek(va(0)) != word(NEW) && !ended() {}
    kill_process(process, Signal::STOP).unwrap();
    let met = changed(WaitIdOptions::EXITED | WaitIdOptions::STOPPED).unwrap();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::CONT] {
        kill_process(process, signal).unwrap();
    }
    let output = writer.wait_with_output().unwrap();
    met.stopped().then_some(output)
}

fn write(target: &Target, va: u64, arguments: &[&str]) -> Output {
    let (pid, va) = (target.pid().to_string(), format!("{va:#x}"));
    let start = ["write", "--pid", &pid, &va];
    harness::run(&[&start[..], arguments].concat())
}

/// Refused as what is not mapped is, with a record, by the address from which on there is nothing.
fn beyond() -> Done {
    let target = Target::start();
    let end = Pagemap::of(target.pid()).unwrap().end().unwrap().unwrap().0;
    for (at, first) in [(end, end), (end + 4, end + 4), (end - 4, end)] {
        let output = write(&target, at, &["--text", "12345678", "--json"]);
        let said = last_json(&output);
        assert_eq!(output.status.code(), Some(1), "{said:#}");
        assert_eq!(said["verdict"], "refused", "{said:#}");
        assert_eq!(said["refused"], "not-mapped", "{said:#}");
        let why = said["why"].as_str().unwrap();
        assert!(why.contains(&format!("end at {end:#x}")), "{why}");
        assert_eq!(
            why.starts_with(&format!("at {first:#x}: ")),
            at < end,
            "{why}"
        );
    }
    Done::Passed
}

fn lands() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    let mut target = Target::start();
    (0..3).for_each(|i| _ = target.tell("write", i));
    // An odd address.
    let place = inside(0) + 1;
    let output = write(&target, place, &["--text", "eight by", "--json"]);
    let said = last_json(&output);
    assert_eq!(output.status.code(), Some(0), "{said:#}");
    assert_eq!(said["verdict"], "landed", "{said:#}");
    assert_eq!(said["pid"], target.pid());
    assert_eq!((&said["len"], &said["written"]), (&8.into(), &8.into()));
    assert_eq!(said["pfn"], target.frame(0));
    assert_eq!(harness::address(&said["va"]), place);
    assert_eq!(
        harness::address(&said["pa"]),
        target.frame(0) * 4096 + place % 4096
    );
    assert_eq!(said["before"], "0000000000000000");
    assert_eq!((&said["lost"], &said["denied"]), (&0.into(), &Value::Null));
    assert_eq!(said["pinned"], false);
    assert!(
        said["not_pinned"]
            .as_str()
            .unwrap()
            .contains("another process")
    );
    assert_eq!(target.peek(place), word(*b"eight by"));

    // Over the border of two pages, from a file; in words.
    let file = format!("/tmp/v2p-write-{}", std::process::id());
    fs::write(&file, b"8 bytes!").unwrap();
    let output = write(&target, va(2) - 3, &["--file", &file]);
    fs::remove_file(&file).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.ends_with("\nverdict: landed\n"), "{text}");
    assert!(
        text.contains("3 bytes by pwrite") && text.contains("5 bytes by pwrite"),
        "{text}"
    );
    assert_eq!(target.peek(va(2) - 3), word(*b"8 bytes!"));
    Done::Passed
}

fn denied() -> Done {
    if is_open() {
        return Done::Skipped("/dev/mem opens on this kernel".to_owned());
    }
    let mut target = Target::start();
    target.tell("write", 0);
    let output = write(&target, inside(0), &["--text", "x", "--json"]);
    let said = last_json(&output);
    assert_eq!(output.status.code(), Some(1), "{said:#}");
    assert_eq!(said["verdict"], "denied", "{said:#}");
    assert_eq!(said["window_ns"], Value::Null);
    assert_eq!(said["pfn"], target.frame(0));
    match expected_devmem() {
        Some(check) => assert_eq!(said["denied"]["check"], check, "{said:#}"),
        None => assert!(!said["denied"]["evidence"].as_str().unwrap().is_empty()),
    }
    Done::Passed
}

fn bad_input() -> Done {
    let mut target = Target::start();
    (0..PAGES).for_each(|i| _ = target.tell("write", i));
    let pid = target.pid().to_string();
    let at = |va: u64| format!("{va:#x}");
    let (first, last) = (at(va(0)), at(va(PAGES) - 4));
    let cases: [(&[&str], i32, &str); 2] = [
        (
            &["--pid", "999999999", &first, "--text", "x"],
            1,
            "there is none",
        ),
        // What lies there is an answer, not an error: on stdout.
        (
            &["--pid", &pid, &last, "--text", "12345"],
            1,
            "nothing is mapped there",
        ),
    ];
    for (arguments, code, says) in cases {
        let output = harness::run(&[&["write"][..], arguments].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {errors}{text}"
        );
        assert!(
            errors.contains(says) || text.contains(says),
            "{arguments:?}: {errors}{text}"
        );
        assert!(errors.lines().count() <= 2, "{errors}");
    }
    assert_eq!(target.peek(va(PAGES) - 8), 0);
    Done::Passed
}

fn stray() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let mut target = Target::start();
    target.tell("write", 0);
    let output = write(
        &target,
        inside(0),
        &["--text", "8 bytes!", "--inject-move", "write"],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.ends_with("\nverdict: strayed\n"), "{text}");
    assert!(
        text.contains("where there was 0000000000000000 before"),
        "{text}"
    );
    assert_eq!(target.peek(inside(0)), 0);
    Done::Passed
}

/// The events of a huge page carry its first address, which is not the one that is written to.
fn huge_stray() -> Done {
    const MADV_HUGEPAGE: u64 = 14;
    const HUGE: u64 = 2 << 20;
    const PLACE: u64 = 0x6300_0000_0000;
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let mut target = Target::start();
    let bits = |bits: libc::c_int| u64::try_from(bits).unwrap();
    let access = bits(libc::PROT_READ | libc::PROT_WRITE);
    let flags = bits(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    target.must(libc::SYS_mmap, &[PLACE, HUGE, access, flags, u64::MAX, 0]);
    target.call(libc::SYS_madvise, &[PLACE, HUGE, MADV_HUGEPAGE]);
    target.fill(PLACE, 1);
    let place = PLACE + 77 * 4096 + 8;
    let pid = target.pid().to_string();
    let run = harness::run(&["translate", "--json", "--pid", &pid, &format!("{place:#x}")]);
    let run: Value =
        serde_json::from_slice(run.stdout.split(|b| *b == b'\n').next().unwrap()).unwrap();
    if run["page_size"] != HUGE {
        return Done::Skipped(format!("no huge page was given: {run}"));
    }
    let output = write(
        &target,
        place,
        &["--text", "8 bytes!", "--inject-move", "write", "--json"],
    );
    let said = last_json(&output);
    assert_eq!(
        (&said["verdict"], output.status.code()),
        (&"strayed".into(), Some(1)),
        "{said:#}"
    );
    let moves = said["moves"].as_array().unwrap();
    assert!(!moves.is_empty(), "{said:#}");
    assert!(
        moves.iter().all(|one| one["cause"] == "migration"),
        "{said:#}"
    );
    assert_eq!(target.peek(place), 0);
    Done::Passed
}

/// In a mount namespace of its own, puts a /dev there that has nothing, or a /dev/mem with this mode, which then counts for
/// root too.
fn other_dev(mode: Option<u32>) -> io::Result<()> {
    // SAFETY: between fork and exec, where there is one thread and nothing is shared yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", all)?;
    mount(c"none", c"/dev", c"tmpfs", MountFlags::empty(), None)?;
    let Some(mode) = mode else { return Ok(()) };
    let place: &CStr = c"/dev/mem";
    let mode = Mode::from_raw_mode(mode);
    mknodat(CWD, place, FileType::CharacterDevice, mode, makedev(1, 1))?;
    remove_capability_from_bounding_set(CapabilitySet::DAC_READ_SEARCH)?;
    Ok(remove_capability_from_bounding_set(
        CapabilitySet::DAC_OVERRIDE,
    )?)
}

fn devmem() -> Done {
    if expected_devmem().is_none() {
        return Done::Skipped("what /dev/mem is here is not known beforehand".to_owned());
    }
    let mut target = Target::start();
    target.tell("write", 0);
    for (mode, errno) in [(None, "ENOENT"), (Some(0o400), "EACCES")] {
        let mut command = harness::v2p();
        let (pid, address) = (target.pid().to_string(), format!("{:#x}", inside(0)));
        command.args(["write", "--json", "--pid", &pid, &address, "--text", "x"]);
        // SAFETY: `other_dev` makes a few system calls and allocates nothing.
        unsafe { command.pre_exec(move || other_dev(mode)) };
        let output = command.output().unwrap();
        let said = last_json(&output);
        assert_eq!(output.status.code(), Some(1), "{said:#}");
        assert_eq!(said["verdict"], "denied", "{said:#}");
        assert_eq!(
            (&said["denied"]["check"], &said["denied"]["errno"]),
            (&"devmem-node".into(), &errno.into()),
            "{said:#}"
        );
    }
    assert_eq!(target.peek(inside(0)), 0);
    Done::Passed
}
