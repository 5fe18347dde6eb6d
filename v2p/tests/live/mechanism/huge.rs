//! Huge pages: faults, collapse, split, hugetlb.

use std::{fs, thread, time::Duration};

use libtest_mimic::Trial;

use super::scene::Scene;
use crate::{
    Done,
    machine::Setting,
    memory::{FILE_BASE, HUGE, HUGE_BASE},
    target::{PAGE, Target},
    trial,
};

const AREA: (u64, u64) = (HUGE_BASE, 512);
const MADV_HUGEPAGE: u64 = 14;
const MADV_NOHUGEPAGE: u64 = 15;
const MADV_COLLAPSE: u64 = 25;
const POOL: &str = "/proc/sys/vm/nr_hugepages";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_huge_page_fault", huge_page_fault),
        trial("mechanism_madv_collapse", madv_collapse),
        trial("mechanism_khugepaged", khugepaged),
        trial(
            "mechanism_collapse_of_shared_memory",
            collapse_of_shared_memory,
        ),
        trial("mechanism_huge_page_split_is_no_move", split_is_no_move),
        trial("mechanism_huge_page_migration", huge_page_migration),
        trial("mechanism_hugetlb_fault", hugetlb_fault),
        trial("mechanism_hugetlb_unmap", hugetlb_unmap),
        trial("mechanism_hugetlb_cow", hugetlb_cow),
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
    told.only(AREA, &["collapse"]).by("collapse", told.pid);
    told.by_event("MADV_COLLAPSE");
    Done::Passed
}

fn khugepaged() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let folder = "/sys/kernel/mm/transparent_hugepage/khugepaged";
    let _often = Setting::change(&format!("{folder}/scan_sleep_millisecs"), "10");
    let _soon = Setting::change(&format!("{folder}/alloc_sleep_millisecs"), "10");
    let mut scene = Scene::new(&[AREA], base_pages);
    scene.act(|target| target.must(libc::SYS_madvise, &[HUGE_BASE, HUGE, MADV_HUGEPAGE]));
    scene.target.spin(HUGE_BASE, 20);
    thread::sleep(Duration::from_millis(100));
    let told = scene.end();
    if told.causes_of(HUGE_BASE).is_empty() {
        return Done::Skipped("khugepaged did not come by in 20 s".to_owned());
    }
    told.only(AREA, &["collapse"]);
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

fn split_is_no_move() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let mut given = 0;
    let mut scene = Scene::new(&[AREA], |target| given = target.tell("thp", 0));
    if given == 0 {
        return Done::Skipped("the kernel gave no huge page".to_owned());
    }
    scene.act(|target| target.must(libc::SYS_mprotect, &[HUGE_BASE, PAGE, 1]));
    let told = scene.end();
    told.none().by_event("huge page split");
    Done::Passed
}

fn huge_page_migration() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    if !fs::exists("/sys/devices/system/node/node1").unwrap_or(false) {
        return Done::Skipped("one NUMA node".to_owned());
    }
    let mut given = 0;
    let mut scene = Scene::new(&[AREA], |target| given = target.tell("thp", 0));
    if given == 0 {
        return Done::Skipped("the kernel gave no huge page".to_owned());
    }
    let status = scene.act(|target| {
        let place = target.scratch(&[HUGE_BASE, 0, 0]);
        target.must(libc::SYS_move_pages, &[0, 1, place, 0, place + 16, 0]);
        let node = 1 - (target.peek(place + 16) & 1);
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
    let told = scene.end();
    told.only(AREA, &["migration"]).by("migration", told.pid);
    told.reason("migration", "syscall")
        .by_event("huge page migrated");
    assert_eq!(told.moves.len(), 1, "one move of 512 pages");
    Done::Passed
}

/// A pool that both can have a page of, and one more for a copy.
fn pool() -> Result<Setting, Done> {
    let none = || Done::Skipped("no huge pages could be set aside".to_owned());
    let pool = Setting::change(POOL, "4").ok_or_else(none)?;
    let got = fs::read_to_string(POOL).unwrap_or_default();
    if got.trim() == "4" {
        Ok(pool)
    } else {
        Err(none())
    }
}

fn hugetlb_fault() -> Done {
    let _pool = match pool() {
        Ok(pool) => pool,
        Err(skipped) => return skipped,
    };
    let mut scene = Scene::new(&[AREA], |_| {});
    assert_eq!(scene.act(|target| target.tell("hugetlb", 0)), 1);
    let told = scene.end();
    told.only(AREA, &["first-touch"])
        .by("first-touch", told.pid);
    told.by_event("hugetlb fault");
    Done::Passed
}

fn hugetlb_unmap() -> Done {
    let _pool = match pool() {
        Ok(pool) => pool,
        Err(skipped) => return skipped,
    };
    let mut scene = Scene::new(&[AREA], |target| assert_eq!(target.tell("hugetlb", 0), 1));
    scene.act(|target| target.must(libc::SYS_munmap, &[HUGE_BASE, HUGE]));
    let told = scene.end();
    told.only(AREA, &["unmap"]).by("unmap", told.pid);
    told.by_event("hugetlb unmapped");
    Done::Passed
}

fn hugetlb_cow() -> Done {
    let _pool = match pool() {
        Ok(pool) => pool,
        Err(skipped) => return skipped,
    };
    let mut scene = Scene::new(&[AREA], |target| {
        assert_eq!(target.tell("hugetlb", 0), 1);
        target.fork();
    });
    scene.act(|target| target.fill(HUGE_BASE, 1));
    let told = scene.end();
    told.only(AREA, &["cow"]).by("cow", told.pid);
    told.by_event("hugetlb copy-on-write");
    Done::Passed
}
