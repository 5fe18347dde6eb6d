//! The kernel moves pages.

use std::{fs, thread, time::Duration};

use libtest_mimic::Trial;
use v2p::{common::VirtAddr, inject};

use super::scene::Scene;
use crate::{
    Done,
    machine::{Setting, only_in_guests},
    target::{BASE, PAGE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);
const MPOL_BIND: u64 = 2;
const MPOL_MF_STRICT_MOVE: u64 = 3;
const MPOL_MF_MOVE: u64 = 2;
const MADV_SOFT_OFFLINE: u64 = 101;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_compaction", compaction),
        trial("mechanism_move_pages", move_pages),
        trial("mechanism_migrate_pages", migrate_pages),
        trial("mechanism_mbind", mbind),
        trial("mechanism_numa_balancing", numa_balancing),
        trial("mechanism_soft_offline", soft_offline),
        trial("mechanism_memory_offline", memory_offline),
    ]
}

/// Why there is nothing to be moved between.
fn two_nodes() -> Result<(), Done> {
    match fs::exists("/sys/devices/system/node/node1") {
        Ok(true) => Ok(()),
        _ => Err(Done::Skipped("one NUMA node".to_owned())),
    }
}

/// This thread.
fn tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

/// The node that a page is not on.
fn other_node(target: &mut Target, page: u64) -> u64 {
    let place = target.scratch(&[page, 0, 0]);
    target.must(libc::SYS_move_pages, &[0, 1, place, 0, place + 16, 0]);
    1 - (target.peek(place + 16) & 1)
}

fn compaction() -> Done {
    let scene = Scene::new(&[(va(5), 1)], |target| _ = target.tell("place", 5));
    // The stranger moves with the rest of the machine.
    if let Err(reason) = inject::move_by_compaction(scene.target.pid(), VirtAddr(va(5))) {
        return Done::Skipped(reason.to_string());
    }
    thread::sleep(Duration::from_millis(100));
    let told = scene.end();
    // It may take more than one turn at it.
    let causes = told.causes_of(va(5));
    assert!(!causes.is_empty() && causes.iter().all(|c| c == "migration"));
    told.reason("migration", "compaction");
    told.by_event("compaction");
    Done::Passed
}

fn move_pages() -> Done {
    if let Err(skipped) = two_nodes() {
        return skipped;
    }
    let mut scene = Scene::new(&[ALL], |target| target.fill(BASE, 8));
    scene.act(|target| {
        let node = other_node(target, va(3));
        let place = target.scratch(&[va(3), node, 0]);
        let arguments = [0, 1, place, place + 8, place + 16, MPOL_MF_MOVE];
        target.must(libc::SYS_move_pages, &arguments);
    });
    let told = scene.end();
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "syscall").by_event("move_pages");
    Done::Passed
}

fn migrate_pages() -> Done {
    if let Err(skipped) = two_nodes() {
        return skipped;
    }
    let mut scene = Scene::new(&[(va(3), 1)], |target| target.fill(BASE, 8));
    scene.act(|target| {
        let node = other_node(target, va(3));
        let place = target.scratch(&[1 << (1 - node), 1 << node]);
        target.must(libc::SYS_migrate_pages, &[0, 64, place, place + 8]);
    });
    let told = scene.end();
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "syscall")
        .by_event("migrate_pages");
    Done::Passed
}

fn mbind() -> Done {
    if let Err(skipped) = two_nodes() {
        return skipped;
    }
    let mut scene = Scene::new(&[ALL], |target| target.fill(BASE, 8));
    scene.act(|target| {
        let node = other_node(target, va(3));
        let place = target.scratch(&[1 << node]);
        let arguments = [va(3), PAGE, MPOL_BIND, place, 64, MPOL_MF_STRICT_MOVE];
        target.must(libc::SYS_mbind, &arguments);
    });
    let told = scene.end();
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "mempolicy").by_event("mbind");
    Done::Passed
}

fn numa_balancing() -> Done {
    if let Err(skipped) = two_nodes() {
        return skipped;
    }
    let Some(_on) = Setting::change("/proc/sys/kernel/numa_balancing", "1") else {
        return Done::Skipped("this kernel does not balance".to_owned());
    };
    let mut scene = Scene::new(&[(va(3), 1)], |target| {
        // On a CPU of node 0, with the page on node 1.
        let place = target.scratch(&[1]);
        target.must(libc::SYS_sched_setaffinity, &[0, 8, place]);
        target.fill(va(3), 1);
        if other_node(target, va(3)) == 1 {
            let place = target.scratch(&[va(3), 1, 0]);
            let arguments = [0, 1, place, place + 8, place + 16, MPOL_MF_MOVE];
            target.must(libc::SYS_move_pages, &arguments);
        }
    });
    scene.target.spin(va(3), 20);
    let told = scene.end();
    if told.causes_of(va(3)).is_empty() {
        return Done::Skipped("20 s of use did not make the kernel move it".to_owned());
    }
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "numa").by_event("NUMA balancing");
    Done::Passed
}

fn soft_offline() -> Done {
    if let Err(reason) = only_in_guests("takes a frame out of use") {
        return Done::Skipped(reason);
    }
    let mut scene = Scene::new(&[ALL], |target| target.fill(BASE, 8));
    let done =
        scene.act(|target| target.call(libc::SYS_madvise, &[va(3), PAGE, MADV_SOFT_OFFLINE]));
    if done != 0 {
        return Done::Skipped(format!("madvise(MADV_SOFT_OFFLINE): error {}", -done));
    }
    let told = scene.end();
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "memory-failure")
        .by_event("soft offline");
    Done::Passed
}

fn memory_offline() -> Done {
    if let Err(reason) = only_in_guests("takes memory out of use") {
        return Done::Skipped(reason);
    }
    let size =
        fs::read_to_string("/sys/devices/system/memory/block_size_bytes").unwrap_or_default();
    let Ok(size) = u64::from_str_radix(size.trim(), 16) else {
        return Done::Skipped("this kernel cannot take memory offline".to_owned());
    };
    let scene = Scene::new(&[(va(3), 1)], |target| target.fill(va(3), 1));
    let block = scene.target.frame(3) * PAGE / size;
    let path = format!("/sys/devices/system/memory/memory{block}/state");
    let Some(_offline) = Setting::change(&path, "offline") else {
        return Done::Skipped(format!("memory block {block} cannot be taken offline"));
    };
    let told = scene.end();
    told.only((va(3), 1), &["migration"]).by("migration", tid());
    told.reason("migration", "hotplug")
        .by_event("memory offline");
    Done::Passed
}
