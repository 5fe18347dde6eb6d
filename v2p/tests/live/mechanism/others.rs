//! What others do to a process's pages: KSM, userfaultfd, writers from outside, bad memory.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use v2p::{
    page::OwnPage,
    process::{FrameFlags, Pagemap, frame_flags},
};

use super::scene::Scene;
use crate::{
    Done,
    machine::{Setting, only_in_guests},
    memory::FILE_BASE,
    target::{BASE, PAGE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);
const MADV_MERGEABLE: u64 = 12;
const MADV_UNMERGEABLE: u64 = 13;
const MADV_HWPOISON: u64 = 100;
const KSM: &str = "/sys/kernel/mm/ksm";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_ksm_merge", ksm_merge),
        trial("mechanism_ksm_break_by_a_write", ksm_break_by_a_write),
        trial("mechanism_ksm_unmerge", ksm_unmerge),
        trial("mechanism_uffd_copy", uffd_copy),
        trial("mechanism_uffd_zeropage", uffd_zeropage),
        trial("mechanism_uffd_move", uffd_move),
        trial("mechanism_process_vm_writev", process_vm_writev),
        trial("mechanism_proc_pid_mem", proc_pid_mem),
        trial("mechanism_hwpoison", hwpoison),
    ]
}

/// This thread.
fn tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
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

fn ksm_merge() -> Done {
    let mut scene = Scene::new(&[ALL], |target| target.fill(va(8), 4));
    let _at_work = match ksm() {
        Ok(settings) => settings,
        Err(skipped) => return skipped,
    };
    scene.act(|target| target.must(libc::SYS_madvise, &[va(8), 4 * PAGE, MADV_MERGEABLE]));
    if !wait_for_one_frame(&scene.target) {
        return Done::Skipped("KSM did not merge them in 20 s".to_owned());
    }
    thread::sleep(Duration::from_millis(500));
    let told = scene.end();
    // One of all may keep its frame.
    let merged = (8..12)
        .filter(|i| !told.causes_of(va(*i)).is_empty())
        .count();
    assert!(merged >= 3, "{:#?}", told.moves);
    let merges = told.moves.iter().filter(|m| m["cause"] == "ksm-merge");
    assert_eq!(merges.count(), told.moves.len(), "{:#?}", told.moves);
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
    scene.act(|target| target.must(libc::SYS_madvise, &[va(8), 4 * PAGE, MADV_UNMERGEABLE]));
    let told = scene.end();
    if told.functions {
        told.only((va(8), 4), &["ksm-break"])
            .by("ksm-break", told.pid);
    }
    told.proven("KSM break, MADV_UNMERGEABLE");
    Done::Passed
}

/// A userfaultfd for `pages` pages from `start` on. `None`: this kernel has none with these features.
fn userfaultfd(target: &mut Target, start: u64, pages: u64, features: u64) -> Option<u64> {
    const API: u64 = 0xc018_aa3f;
    const REGISTER: u64 = 0xc020_aa00;
    let fd = u64::try_from(target.call(libc::SYS_userfaultfd, &[1])).ok()?;
    let place = target.scratch(&[0xaa, features, 0]);
    if target.call(libc::SYS_ioctl, &[fd, API, place]) != 0 {
        return None;
    }
    let place = target.scratch(&[start, pages * PAGE, 1, 0]);
    target.must(libc::SYS_ioctl, &[fd, REGISTER, place]);
    Some(fd)
}

fn uffd_copy() -> Done {
    const COPY: u64 = 0xc028_aa03;
    let mut scene = Scene::new(&[(va(8), 4)], |target| target.fill(va(20), 4));
    let done = scene.act(|target| {
        let fd = userfaultfd(target, va(8), 4, 0)?;
        let place = target.scratch(&[va(8), va(20), 4 * PAGE, 0, 0]);
        Some(target.must(libc::SYS_ioctl, &[fd, COPY, place]))
    });
    if done.is_none() {
        return Done::Skipped("this kernel has no userfaultfd".to_owned());
    }
    let told = scene.end();
    told.only((va(8), 4), &["first-touch"])
        .by("first-touch", told.pid);
    told.by_event("UFFDIO_COPY");
    Done::Passed
}

fn uffd_zeropage() -> Done {
    const ZEROPAGE: u64 = 0xc020_aa04;
    let mut scene = Scene::new(&[(va(8), 4)], |_| {});
    let done = scene.act(|target| {
        let fd = userfaultfd(target, va(8), 4, 0)?;
        let place = target.scratch(&[va(8), 4 * PAGE, 0, 0]);
        Some(target.must(libc::SYS_ioctl, &[fd, ZEROPAGE, place]))
    });
    if done.is_none() {
        return Done::Skipped("this kernel has no userfaultfd".to_owned());
    }
    let told = scene.end();
    told.only((va(8), 4), &["first-touch"])
        .by("first-touch", told.pid);
    told.by_event("UFFDIO_ZEROPAGE");
    Done::Passed
}

fn uffd_move() -> Done {
    const FEATURE_MOVE: u64 = 1 << 16;
    const MOVE: u64 = 0xc028_aa05;
    let mut scene = Scene::new(&[(va(8), 4), (va(20), 4)], |target| target.fill(va(20), 4));
    let done = scene.act(|target| {
        let fd = userfaultfd(target, va(8), 4, FEATURE_MOVE)?;
        let place = target.scratch(&[va(8), va(20), 4 * PAGE, 0, 0]);
        Some(target.call(libc::SYS_ioctl, &[fd, MOVE, place]))
    });
    match done {
        None => return Done::Skipped("this kernel has no UFFDIO_MOVE".to_owned()),
        Some(0) => {}
        Some(error) => panic!("UFFDIO_MOVE: {error}"),
    }
    let told = scene.end();
    told.just((va(8), 4), &["remap"])
        .just((va(20), 4), &["remap"])
        .by("remap", told.pid);
    told.by_event("UFFDIO_MOVE");
    Done::Passed
}

fn process_vm_writev() -> Done {
    let scene = Scene::new(&[ALL], |target| {
        target.fill(va(4), 1);
        target.fork();
    });
    let byte = [9u8];
    let ours = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    let theirs = libc::iovec {
        iov_base: va(4) as *mut _,
        iov_len: 1,
    };
    let pid = i32::try_from(scene.target.pid()).unwrap();
    // SAFETY: one element each, which outlive the call.
    let written =
        unsafe { libc::process_vm_writev(pid, &raw const ours, 1, &raw const theirs, 1, 0) };
    assert_eq!(written, 1, "{}", io::Error::last_os_error());
    let told = scene.end();
    if told.moves.iter().all(|m| m["proof"] == "event") {
        told.only((va(4), 1), &["cow"]).by("cow", tid());
    } else {
        told.only((va(4), 1), &["unknown"]);
    }
    told.in_part("process_vm_writev");
    Done::Passed
}

fn proc_pid_mem() -> Done {
    let scene = Scene::new(&[(FILE_BASE, 1)], |target| {
        target.private_file(1);
        target.touch(FILE_BASE);
    });
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/mem", scene.target.pid()))
        .unwrap();
    memory.write_at(&[9], FILE_BASE).unwrap();
    let told = scene.end();
    if told.functions {
        told.only((FILE_BASE, 1), &["cow"]).by("cow", tid());
    } else {
        told.only((FILE_BASE, 1), &["unknown"]);
    }
    told.proven("/proc/PID/mem");
    Done::Passed
}

fn hwpoison() -> Done {
    if let Err(reason) = only_in_guests("takes a frame out of use") {
        return Done::Skipped(reason);
    }
    let mut scene = Scene::new(&[ALL], |target| target.fill(BASE, 8));
    let done = scene.act(|target| target.call(libc::SYS_madvise, &[va(3), PAGE, MADV_HWPOISON]));
    if done != 0 {
        return Done::Skipped(format!("madvise(MADV_HWPOISON): error {}", -done));
    }
    let told = scene.end();
    told.only((va(3), 1), &["poison"]).by("poison", told.pid);
    told.proven("hwpoison");
    Done::Passed
}
