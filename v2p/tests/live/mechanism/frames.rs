//! Frames that are to be taken out of use, or are wanted by somebody: what lies in them goes elsewhere.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use libtest_mimic::Trial;

use super::{scene::Scene, tid};
use crate::{
    Done,
    machine::{Setting, only_in_guests},
    target::{BASE, PAGE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);
const MPOL_BIND: u64 = 2;
const MADV_SOFT_OFFLINE: u64 = 101;
const MADV_HWPOISON: u64 = 100;
const IORING_REGISTER_BUFFERS: u64 = 0;

const BLOCKS: &str = "/sys/devices/system/memory";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_soft_offline", soft_offline),
        trial("mechanism_hwpoison", hwpoison),
        trial("mechanism_longterm_pin", longterm_pin),
        trial("mechanism_memory_offline", memory_offline),
        trial("mechanism_contiguous_allocation", contiguous_allocation),
    ]
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

/// A block of memory made one of ZONE_MOVABLE: its addresses and its node. Stays so.
fn movable_block() -> Result<(Range<u64>, u64), String> {
    let size = fs::read_to_string(format!("{BLOCKS}/block_size_bytes")).map_err(|e| e.to_string());
    let size = u64::from_str_radix(size?.trim(), 16).map_err(|e| e.to_string())?;
    let named = |prefix: &str, path: &Path| -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_prefix(prefix)?;
        name.parse().ok()
    };
    let entries = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut blocks: Vec<(u64, PathBuf)> = entries(Path::new(BLOCKS))
        .into_iter()
        .filter_map(|path| Some((named("memory", &path)?, path)))
        .collect();
    // The kernel has put what it needs itself into the first ones.
    blocks.sort();
    for (number, path) in blocks.into_iter().rev().take(4) {
        let node = entries(&path).iter().find_map(|p| named("node", p));
        let state = path.join("state");
        if fs::write(&state, "offline").is_err() {
            continue;
        }
        if fs::write(&state, "online_movable").is_ok()
            && let Some(node) = node
        {
            return Ok((number * size..(number + 1) * size, node));
        }
        let _ = fs::write(&state, "online");
    }
    Err("no block of memory can be made movable".to_owned())
}

/// A scene whose target's page 3 lies in a block of ZONE_MOVABLE.
fn in_a_movable_block() -> Result<(Scene, Range<u64>), Done> {
    only_in_guests("changes the zones of memory").map_err(Done::Skipped)?;
    let (block, node) = movable_block().map_err(Done::Skipped)?;
    let scene = Scene::new(&[ALL], |target| on_node(target, node));
    if !block.contains(&(scene.target.frame(3) * PAGE)) {
        let why = "the page did not come to lie in ZONE_MOVABLE";
        return Err(Done::Skipped(why.to_owned()));
    }
    Ok((scene, block))
}

/// Has it write page 3, which lies on `node` then.
fn on_node(target: &mut Target, node: u64) {
    let place = target.scratch(&[1 << node]);
    target.must(libc::SYS_mbind, &[va(3), PAGE, MPOL_BIND, place, 64, 0]);
    target.fill(va(3), 1);
    // The policy would forbid that it goes elsewhere.
    target.must(libc::SYS_mbind, &[va(3), PAGE, 0, 0, 0, 0]);
}

fn longterm_pin() -> Done {
    let (mut scene, _) = match in_a_movable_block() {
        Ok(found) => found,
        Err(skipped) => return skipped,
    };
    let done = scene.act(|target| {
        let place = target.scratch(&[0; 15]);
        let ring = target.call(libc::SYS_io_uring_setup, &[1, place]);
        let place = target.scratch(&[va(3), PAGE]);
        let arguments = [ring.cast_unsigned(), IORING_REGISTER_BUFFERS, place, 1];
        if ring < 0 {
            return ring;
        }
        target.call(libc::SYS_io_uring_register, &arguments)
    });
    if done < 0 {
        return Done::Skipped(format!("io_uring: error {}", -done));
    }
    let told = scene.end();
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "longterm-pin")
        .by_event("longterm pin out of ZONE_MOVABLE");
    Done::Passed
}

fn memory_offline() -> Done {
    let (scene, block) = match in_a_movable_block() {
        Ok(found) => found,
        Err(skipped) => return skipped,
    };
    let number = block.start / (block.end - block.start);
    let path = format!("{BLOCKS}/memory{number}/state");
    if let Err(e) = fs::write(&path, "offline") {
        return Done::Skipped(format!("{path}: {e}"));
    }
    let told = scene.end();
    fs::write(&path, "online_movable").unwrap();
    told.only((va(3), 1), &["migration"]).by("migration", tid());
    told.reason("migration", "hotplug")
        .by_event("memory offline");
    Done::Passed
}

/// A huge page of a gigabyte, whose place the kernel keeps free for it (CMA) and lends to what can be moved.
fn contiguous_allocation() -> Done {
    const GIGABYTES: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";
    if let Err(reason) = only_in_guests("takes a gigabyte in one piece") {
        return Done::Skipped(reason);
    }
    let known = fs::read_to_string("/proc/meminfo").unwrap();
    let area = known
        .lines()
        .find_map(|line| line.strip_prefix("CmaTotal:"));
    if area.is_none_or(|size| size.trim() == "0 kB") {
        return Done::Skipped("no memory is kept for contiguous allocation (CMA)".to_owned());
    }
    let scene = Scene::new(&[ALL], |target| target.fill(BASE, PAGES));
    let frames = || -> Vec<_> { (0..PAGES).map(|i| scene.target.frame(i)).collect() };
    let before = frames();
    let pool = Setting::change(GIGABYTES, "1");
    let after = frames();
    let got = fs::read_to_string(GIGABYTES).unwrap();
    let told = scene.end();
    drop(pool);
    assert_eq!(got.trim(), "1", "the place that was kept for it");
    assert_ne!(
        before, after,
        "the kernel lends of it from the first page on"
    );
    for (i, (was, is)) in (0..).zip(before.iter().zip(&after)) {
        let causes: &[&str] = if was == is { &[] } else { &["migration"] };
        told.just((va(i), 1), causes);
    }
    told.by("migration", tid()).reason("migration", "contig");
    told.by_event("contiguous allocation");
    Done::Passed
}
