//! Huge pages of a pool.

use std::fs;

use libtest_mimic::Trial;

use super::{migration, scene::Scene};
use crate::{
    Done,
    machine::{Setting, two_nodes},
    memory::{HUGE, HUGE_BASE},
    target::Target,
    trial,
};

const AREA: (u64, u64) = (HUGE_BASE, 512);
const POOL: &str = "/proc/sys/vm/nr_hugepages";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_hugetlb_fault", hugetlb_fault),
        trial("mechanism_hugetlb_unmap", hugetlb_unmap),
        trial("mechanism_hugetlb_cow", hugetlb_cow),
        trial("mechanism_hugetlb_move_pages", hugetlb_move_pages),
        trial("mechanism_hugetlb_unshare", hugetlb_unshare),
    ]
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

fn hugetlb_move_pages() -> Done {
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let _pool = match pool() {
        Ok(pool) => pool,
        Err(skipped) => return skipped,
    };
    let mut scene = Scene::new(&[AREA], |target| assert_eq!(target.tell("hugetlb", 0), 1));
    let moved = scene.act(|target| {
        let node = migration::other_node(target, HUGE_BASE);
        let place = target.scratch(&[HUGE_BASE, node, 0]);
        let arguments = [0, 1, place, place + 8, place + 16, 2];
        target.must(libc::SYS_move_pages, &arguments);
        target.peek(place + 16) & 0xffff_ffff == node
    });
    if !moved {
        return Done::Skipped("the other node had no huge page to give".to_owned());
    }
    let told = scene.end();
    told.only(AREA, &["migration"]).by("migration", told.pid);
    told.reason("migration", "syscall")
        .by_event("hugetlb, move_pages");
    assert_eq!(told.moves.len(), 1, "one move of 512 pages");
    Done::Passed
}

/// Processes that map the same whole gigabyte of a pool share a table; who changes the protection of a part gets one of its own, which is
/// empty.
fn hugetlb_unshare() -> Done {
    const GIB: u64 = 1 << 30;
    const PLACE: u64 = 0x6a00_0000_0000;
    const SHARED_NORESERVE_FIXED: u64 = 0x01 | 0x4000 | 0x10;
    const MFD_HUGETLB: u64 = 4;
    let _pool = match pool() {
        Ok(pool) => pool,
        Err(skipped) => return skipped,
    };
    let prepare = |target: &mut Target| {
        let place = target.scratch_text("one");
        let file = target.must(libc::SYS_memfd_create, &[place, MFD_HUGETLB]);
        target.must(libc::SYS_ftruncate, &[file, GIB]);
        let arguments = [PLACE, GIB, 3, SHARED_NORESERVE_FIXED, file, 0];
        target.must(libc::SYS_mmap, &arguments);
        target.fill(PLACE, 1);
        target.fork();
        // The child's first fault finds the parent's table.
        target.have_child_write(PLACE);
    };
    let mut scene = Scene::new(&[(PLACE, 512)], prepare);
    // Of another part than the one that is looked at.
    scene.act(|target| target.must(libc::SYS_mprotect, &[PLACE + 4 * HUGE, HUGE, 1]));
    if scene.target.word(PLACE).pfn().is_some() {
        return Done::Skipped("this kernel shares no tables".to_owned());
    }
    let told = scene.end();
    told.only((PLACE, 512), &["unknown"]);
    told.in_part("hugetlb, table no longer shared");
    Done::Passed
}
