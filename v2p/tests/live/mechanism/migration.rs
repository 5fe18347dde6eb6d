//! The kernel moves pages.

use std::{
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;

use super::{group::Group, scene::Scene, tid};
use crate::{
    Done,
    harness::PATIENCE,
    machine::{Setting, only_in_guests, two_nodes},
    midway,
    target::{BASE, PAGE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);
const MPOL_BIND: u64 = 2;
const MPOL_MF_STRICT_MOVE: u64 = 3;
const MPOL_MF_MOVE: u64 = 2;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_move_pages", move_pages),
        trial(
            "mechanism_move_pages_by_another_process",
            move_pages_by_another,
        ),
        trial("mechanism_migrate_pages", migrate_pages),
        trial("mechanism_mbind", mbind),
        trial("mechanism_cpuset", cpuset),
        trial("mechanism_numa_balancing", numa_balancing),
    ]
}

/// The node that a page is not on.
pub(super) fn other_node(target: &mut Target, page: u64) -> u64 {
    let place = target.scratch(&[page, 0, 0]);
    target.must(libc::SYS_move_pages, &[0, 1, place, 0, place + 16, 0]);
    1 - (target.peek(place + 16) & 1)
}

/// Moves one page there; gives the node that it is on then.
pub(crate) fn move_to_other_node(target: &mut Target, page: u64) -> u64 {
    let node = other_node(target, page);
    let place = target.scratch(&[page, node, 0]);
    let arguments = [0, 1, place, place + 8, place + 16, MPOL_MF_MOVE];
    target.must(libc::SYS_move_pages, &arguments);
    assert_eq!(target.peek(place + 16) & 0xffff_ffff, node);
    node
}

fn move_pages() -> Done {
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let mut scene = Scene::new(&[ALL], |target| target.fill(BASE, 8));
    scene.act(|target| {
        move_to_other_node(target, va(3));
    });
    let told = scene.end();
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "syscall").by_event("move_pages");
    Done::Passed
}

/// By us.
fn move_pages_by_another() -> Done {
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let scene = Scene::new(&[ALL], |target| target.fill(BASE, 8));
    let before = scene.target.word(va(3)).pfn();
    for node in [0, 1] {
        // On the one that it is on it stays.
        midway::move_pages(scene.target.pid(), &[va(3)], node);
        if scene.target.word(va(3)).pfn() != before {
            break;
        }
    }
    let told = scene.end();
    told.only((va(3), 1), &["migration"]).by("migration", tid());
    told.reason("migration", "syscall")
        .by_event("move_pages by another process");
    Done::Passed
}

fn migrate_pages() -> Done {
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
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
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
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

fn cpuset() -> Done {
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    if let Err(reason) = only_in_guests("mounts cgroups") {
        return Done::Skipped(reason);
    }
    let group = match Group::new("cpuset") {
        Ok(group) => group,
        Err(skipped) => return skipped,
    };
    group.set("cpuset.mems", "0");
    let mut scene = Scene::new(&[ALL], |target| {
        group.take(target);
        target.fill(BASE, 8);
    });
    // A worker of the kernel does it.
    group.set("cpuset.mems", "1");
    let began = Instant::now();
    while (0..8).any(|i| other_node(&mut scene.target, va(i)) == 1) {
        assert!(began.elapsed() < PATIENCE, "nothing moves");
        thread::sleep(Duration::from_millis(50));
    }
    // The event that has the reason comes when the worker has moved the rest of the process too; until then they are not told.
    scene.wait_for("migration", 8);
    let told = scene.end();
    told.only((BASE, 8), &["migration"])
        .by_name("migration", "kworker");
    told.reason("migration", "syscall").by_event("cpuset");
    Done::Passed
}

fn numa_balancing() -> Done {
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
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
    let frame = scene.target.frame(3);
    scene.target.spin(va(3), frame, 20);
    let told = scene.end();
    if told.causes_of(va(3)).is_empty() {
        return Done::Skipped("20 s of use did not make the kernel move it".to_owned());
    }
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "numa").by_event("NUMA balancing");
    Done::Passed
}
