//! Transparent huge pages: faults, collapse, migration.

use std::{fs, os::fd::AsRawFd as _, thread, time::Duration};

use libtest_mimic::Trial;
use v2p::process::{FrameFlags, frame_flags};

use super::{
    migration,
    scene::{Scene, Told},
    tid,
};
use crate::{
    Again, Done,
    machine::{Setting, two_nodes},
    memory::{FILE_BASE, HUGE, HUGE_BASE},
    target::{PAGE, Target},
    trial,
};

pub(super) const AREA: (u64, u64) = (HUGE_BASE, 512);
const MADV_HUGEPAGE: u64 = 14;
pub(super) const MADV_NOHUGEPAGE: u64 = 15;
pub(super) const MADV_COLLAPSE: u64 = 25;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_huge_page_fault", huge_page_fault),
        trial("mechanism_huge_zero_page", huge_zero_page),
        trial("mechanism_copy_on_write_of_a_huge_page", copied),
        trial("mechanism_madv_collapse", madv_collapse),
        trial("mechanism_process_madvise_collapse", collapse_from_outside),
        trial("mechanism_khugepaged", khugepaged),
        trial(
            "mechanism_collapse_of_shared_memory",
            collapse_of_shared_memory,
        ),
        trial(
            "mechanism_khugepaged_of_shared_memory",
            khugepaged_of_shared,
        ),
        trial("mechanism_huge_page_migration", huge_page_migration),
    ]
}

/// Whether there are transparent huge pages for those who ask.
pub(super) fn thp() -> Result<(), Done> {
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    match enabled {
        Ok(enabled) if !enabled.contains("[never]") => Ok(()),
        _ => Err(Done::Skipped("no transparent huge pages here".to_owned())),
    }
}

/// 2 MiB of base pages, all written.
fn base_pages(target: &mut Target) {
    const PRIVATE_ANONYMOUS_FIXED: u64 = 0x2 | 0x20 | 0x10;
    let arguments = [HUGE_BASE, HUGE, 3, PRIVATE_ANONYMOUS_FIXED, u64::MAX, 0];
    target.must(libc::SYS_mmap, &arguments);
    target.must(libc::SYS_madvise, &[HUGE_BASE, HUGE, MADV_NOHUGEPAGE]);
    target.fill(HUGE_BASE, 512);
}

fn huge_page_fault() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let mut scene = Scene::new(&[AREA], |_| {});
    if scene.act(|target| target.tell("thp", 0)) == 0 {
        return Done::Skipped("the kernel gave no huge page".to_owned());
    }
    let told = scene.end();
    told.only(AREA, &["first-touch"])
        .by("first-touch", told.pid);
    assert_eq!(told.moves.len(), 1);
    told.by_event("huge page fault");
    Done::Passed
}

/// Its first write replaces the whole of it by a huge page (from 6.13 on), or one page of it.
fn huge_zero_page() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let written = HUGE_BASE + 3 * PAGE;
    // khugepaged may collapse entries that say zeros beside one page.
    let most = "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none";
    let _apart = Setting::change(most, "0");
    let mut scene = Scene::new(&[AREA], |_| {});
    let is_there = scene.act(|target| {
        let is_there = target.tell("thp-zero", 0);
        target.fill(written, 1);
        is_there
    });
    if is_there == 0 {
        return Done::Skipped("the kernel gave no huge page of zeros".to_owned());
    }
    let told = scene.end();
    let replaced = ["first-touch", "zero-fill"].map(str::to_owned);
    assert_eq!(told.causes_of(written), replaced);
    for other in (0..512).map(|i| HUGE_BASE + i * PAGE) {
        let causes = told.causes_of(other);
        assert!(
            replaced.starts_with(causes) && !causes.is_empty(),
            "{other:#x}: {causes:?}"
        );
    }
    told.by("zero-fill", told.pid)
        .by_event("huge page of zeros");
    Done::Passed
}

/// The kernel splits what is shared since a fork, and copies one page of it.
fn copied() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let written = HUGE_BASE + 77 * PAGE;
    let mut given = u64::MAX;
    let mut scene = Scene::new(&[AREA], |target| {
        given = given.min(target.tell("thp", 0));
        target.fork();
    });
    if given == 0 {
        return Done::Skipped("the kernel gave no huge page".to_owned());
    }
    scene.act(|target| target.fill(written, 1));
    let told = scene.end();
    told.only((written, 1), &["cow"]).by("cow", told.pid);
    told.by_event("copy-on-write of a huge page");
    Done::Passed
}

fn madv_collapse() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let mut scene = Scene::new(&[AREA], base_pages);
    let done = scene.act(|target| {
        target.must(libc::SYS_madvise, &[HUGE_BASE, HUGE, MADV_HUGEPAGE]);
        target.call(libc::SYS_madvise, &[HUGE_BASE, HUGE, MADV_COLLAPSE])
    });
    if done != 0 {
        return Done::Skipped(format!("madvise(MADV_COLLAPSE): error {}", -done));
    }
    let told = scene.end();
    told.only(AREA, &["collapse"]);
    not_by_khugepaged(&told);
    told.by("collapse", told.pid);
    told.by_event("MADV_COLLAPSE");
    Done::Passed
}

fn collapse_from_outside() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let mut scene = Scene::new(&[AREA], base_pages);
    scene.act(|target| target.must(libc::SYS_madvise, &[HUGE_BASE, HUGE, MADV_HUGEPAGE]));
    let process = scene.target.pidfd();
    let part = [HUGE_BASE, HUGE];
    // SAFETY: a struct iovec of the target's memory, as the call wants it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            part.as_ptr(),
            1,
            MADV_COLLAPSE,
            0,
        )
    };
    if done != HUGE.cast_signed() {
        let e = std::io::Error::last_os_error();
        return Done::Skipped(format!("process_madvise(MADV_COLLAPSE): {e}"));
    }
    let told = scene.end();
    told.only(AREA, &["collapse"]);
    not_by_khugepaged(&told);
    told.by("collapse", tid())
        .by_event("process_madvise(MADV_COLLAPSE)");
    Done::Passed
}

/// It is woken by the advice.
fn not_by_khugepaged(told: &Told) {
    if told.moves.iter().any(|m| m["by"]["comm"] == "khugepaged") {
        std::panic::panic_any(Again("khugepaged came first".to_owned()));
    }
}

fn khugepaged() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let _unbalanced = Setting::change("/proc/sys/kernel/numa_balancing", "0");
    let folder = "/sys/kernel/mm/transparent_hugepage/khugepaged";
    let _often = Setting::change(&format!("{folder}/scan_sleep_millisecs"), "10");
    let _soon = Setting::change(&format!("{folder}/alloc_sleep_millisecs"), "10");
    let mut scene = Scene::new(&[AREA], base_pages);
    let frame = scene.target.word(HUGE_BASE).pfn().unwrap();
    scene.act(|target| target.must(libc::SYS_madvise, &[HUGE_BASE, HUGE, MADV_HUGEPAGE]));
    scene.target.spin(HUGE_BASE, frame.0, 20);
    thread::sleep(Duration::from_millis(100));
    let told = scene.end();
    if told.causes_of(HUGE_BASE).is_empty() {
        return Done::Skipped("khugepaged did not come by in 20 s".to_owned());
    }
    told.only(AREA, &["collapse"])
        .by_name("collapse", "khugepaged");
    told.by_event("khugepaged");
    Done::Passed
}

fn collapse_of_shared_memory() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let area = (FILE_BASE, 512);
    let mut scene = Scene::new(&[area], |target| {
        target.shared_memory(512);
        target.fill(FILE_BASE, 512);
    });
    let done =
        scene.act(|target| target.call(libc::SYS_madvise, &[FILE_BASE, HUGE, MADV_COLLAPSE]));
    if done != 0 {
        return Done::Skipped(format!(
            "madvise(MADV_COLLAPSE) of shared memory: error {}",
            -done
        ));
    }
    let told = scene.end();
    // The base pages may be taken out before the huge one is put in.
    let causes = told.causes_of(FILE_BASE);
    assert!(
        !causes.is_empty() && causes.iter().all(|c| c == "collapse"),
        "{causes:?}"
    );
    let causes: Vec<&str> = causes.iter().map(String::as_str).collect();
    told.only(area, &causes);
    told.by_event("MADV_COLLAPSE of shared memory");
    Done::Passed
}

fn khugepaged_of_shared() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let _unbalanced = Setting::change("/proc/sys/kernel/numa_balancing", "0");
    let folder = "/sys/kernel/mm/transparent_hugepage";
    let area = (FILE_BASE, 512);
    let mut scene = Scene::new(&[area], |target| {
        target.shared_memory(512);
        target.fill(FILE_BASE, 512);
    });
    let Some(_shared) = Setting::change(&format!("{folder}/shmem_enabled"), "advise") else {
        return Done::Skipped("no huge pages of shared memory here".to_owned());
    };
    let _often = Setting::change(&format!("{folder}/khugepaged/scan_sleep_millisecs"), "10");
    let _soon = Setting::change(&format!("{folder}/khugepaged/alloc_sleep_millisecs"), "10");
    let frame = scene.target.word(FILE_BASE).pfn().unwrap();
    scene.act(|target| target.must(libc::SYS_madvise, &[FILE_BASE, HUGE, MADV_HUGEPAGE]));
    scene.target.spin(FILE_BASE, frame.0, 10);
    thread::sleep(Duration::from_millis(300));
    let told = scene.end();
    let causes = told.causes_of(FILE_BASE);
    if causes.is_empty() {
        return Done::Skipped("khugepaged did not come by in 10 s".to_owned());
    }
    // Who uses the page meanwhile has it mapped again, which is a fault of its own.
    let fine = ["collapse", "first-touch"];
    assert!(
        causes.iter().all(|c| fine.contains(&c.as_str())),
        "{causes:?}"
    );
    assert!(causes.iter().any(|c| c == "collapse"), "{causes:?}");
    let others = told
        .moves
        .iter()
        .filter(|m| !fine.contains(&m["cause"].as_str().unwrap()));
    assert_eq!(others.count(), 0, "{:#?}", told.moves);
    told.by_name("collapse", "khugepaged");
    told.in_part("khugepaged, shared memory");
    Done::Passed
}

fn huge_page_migration() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let mut given = u64::MAX;
    let mut scene = Scene::new(&[AREA], |target| given = given.min(target.tell("thp", 0)));
    if given == 0 {
        return Done::Skipped("the kernel gave no huge page".to_owned());
    }
    let status = scene.act(|target| {
        let node = migration::other_node(target, HUGE_BASE);
        let place = target.scratch(&[HUGE_BASE, node, 0]);
        target.must(
            libc::SYS_move_pages,
            &[0, 1, place, place + 8, place + 16, 2],
        );
        (target.peek(place + 16) & 0xffff_ffff, node)
    });
    if status.0 != status.1 {
        return Done::Skipped("the other node had no room for a huge page".to_owned());
    }
    let frame = scene.target.word(HUGE_BASE).pfn().unwrap();
    let is_whole = frame_flags(frame).unwrap().has(FrameFlags::THP);
    let told = scene.end();
    told.only(AREA, &["migration"]).by("migration", told.pid);
    told.reason("migration", "syscall")
        .by_event("huge page migrated");
    if !is_whole {
        return Done::Skipped("the kernel split it to move it".to_owned());
    }
    assert_eq!(told.moves.len(), 1, "one move of 512 pages");
    Done::Passed
}
