//! Huge pages: faults, collapse, split, hugetlb.

use std::{fs, os::fd::AsRawFd as _, thread, time::Duration};

use libtest_mimic::Trial;
use v2p::{
    common::Pfn,
    process::{FrameFlags, frame_flags},
};

use super::{
    migration,
    scene::{Scene, Told},
    tid,
};
use crate::{
    Again, Done,
    machine::{Setting, debugfs, two_nodes},
    memory::{FILE_BASE, HUGE, HUGE_BASE},
    target::{PAGE, Target},
    trial,
};

const AREA: (u64, u64) = (HUGE_BASE, 512);
const MADV_HUGEPAGE: u64 = 14;
const MADV_NOHUGEPAGE: u64 = 15;
const MADV_COLLAPSE: u64 = 25;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_huge_page_fault", huge_page_fault),
        trial("mechanism_huge_zero_page", huge_zero_page),
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
        trial("mechanism_huge_page_split_is_no_move", split_is_no_move),
        trial("mechanism_folio_split_is_no_move", folio_split_is_no_move),
        trial(
            "mechanism_folio_split_to_the_zero_page",
            folio_split_to_the_zero_page,
        ),
        trial("mechanism_split_of_shared_memory", split_of_shared_memory),
        trial("mechanism_huge_page_migration", huge_page_migration),
    ]
}

/// Whether there are transparent huge pages for those who ask.
fn thp() -> Result<(), Done> {
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

fn split_is_no_move() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let mut given = u64::MAX;
    let mut scene = Scene::new(&[AREA], |target| given = given.min(target.tell("thp", 0)));
    if given == 0 {
        return Done::Skipped("the kernel gave no huge page".to_owned());
    }
    scene.act(|target| target.must(libc::SYS_mprotect, &[HUGE_BASE, PAGE, 1]));
    let told = scene.end();
    told.none().by_event("huge page split");
    Done::Passed
}

/// A huge page whose folio the kernel took apart on demand: the frame that it began with, and what was told.
fn split_folio(prepare: impl Fn(&mut Target)) -> Result<(Pfn, Vec<Option<Pfn>>, Told), Done> {
    thp()?;
    let file = debugfs("split_huge_pages").map_err(Done::Skipped)?;
    let mut given = u64::MAX;
    let scene = Scene::new(&[AREA], |target| {
        given = given.min(target.tell("thp", 0));
        prepare(target);
    });
    if given == 0 {
        return Err(Done::Skipped("the kernel gave no huge page".to_owned()));
    }
    let first = scene.target.word(HUGE_BASE).pfn().unwrap();
    let is_whole = || frame_flags(first).unwrap().has(FrameFlags::THP);
    assert!(is_whole(), "{first}");
    let (pid, end) = (scene.target.pid(), HUGE_BASE + HUGE);
    fs::write(&file, format!("{pid},{HUGE_BASE:#x},{end:#x}")).unwrap();
    assert!(!is_whole(), "it was not split");
    let frames = (0..512).map(|i| scene.target.word(HUGE_BASE + i * PAGE).pfn());
    let frames = frames.collect();
    Ok((first, frames, scene.end()))
}

/// Other than where one entry of a table becomes many: every page is unmapped and mapped again, by the hooks that tell of a migration.
fn folio_split_is_no_move() -> Done {
    let (first, frames, told) = match split_folio(|target| target.fill(HUGE_BASE, 512)) {
        Ok(found) => found,
        Err(skipped) => return skipped,
    };
    let as_before = (first.0..)
        .zip(&frames)
        .all(|(pfn, frame)| *frame == Some(Pfn(pfn)));
    assert!(as_before, "{frames:?}");
    told.none().by_event("folio split");
    Done::Passed
}

/// Of a huge page that is split, what has nothing but zeros is replaced by the zero page from 6.12 on, of which no event tells
/// (try_to_map_unused_to_zeropage, mm/migrate.c).
fn folio_split_to_the_zero_page() -> Done {
    let (first, frames, told) = match split_folio(|_| {}) {
        Ok(found) => found,
        Err(skipped) => return skipped,
    };
    assert_eq!(frames.first(), Some(&Some(first)), "it has been written");
    let rest = (HUGE_BASE + PAGE, 511);
    if frames.get(1) == Some(&Some(Pfn(first.0 + 1))) {
        told.none();
        return Done::Skipped("this kernel keeps what is zero".to_owned());
    }
    told.only(rest, &["unknown"]);
    assert!(
        told.moves.iter().all(|m| m["to"]["state"] == "zero"),
        "{:#?}",
        told.moves
    );
    told.in_part("folio split to the zero page");
    Done::Passed
}

/// A hole in the middle of a file's huge page: the pages beside it are taken out too, and stay in the page cache. Nobody
/// reclaimed them.
fn split_of_shared_memory() -> Done {
    const PUNCH_HOLE_KEEP_SIZE: u64 = 2 | 1;
    const HOLE: std::ops::Range<u64> = 128..144;
    if let Err(skipped) = thp() {
        return skipped;
    }
    let (area, mut file, mut done) = ((FILE_BASE, 512), 0, 0);
    let mut scene = Scene::new(&[area], |target| {
        file = target.shared_memory(512);
        target.fill(FILE_BASE, 512);
        let one = target.call(libc::SYS_madvise, &[FILE_BASE, HUGE, MADV_COLLAPSE]);
        done = if done == 0 { one } else { done };
    });
    if done != 0 {
        return Done::Skipped(format!(
            "madvise(MADV_COLLAPSE) of shared memory: error {}",
            -done
        ));
    }
    let hole = (HOLE.start * PAGE, (HOLE.end - HOLE.start) * PAGE);
    scene.act(|target| {
        target.must(
            libc::SYS_fallocate,
            &[file, PUNCH_HOLE_KEEP_SIZE, hole.0, hole.1],
        )
    });
    let told = scene.end();
    for page in 0..512 {
        let causes = told.causes_of(FILE_BASE + page * PAGE);
        let is_right = match causes {
            [one] => one == "unknown" || HOLE.contains(&page) && one == "discard",
            _ => false,
        };
        assert!(is_right, "{page}: {causes:?}");
    }
    told.proven("split of shared memory");
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
