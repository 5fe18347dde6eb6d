//! Memory of two speeds: what is little used goes to the slower, what is used comes back.

use std::fs;

use libtest_mimic::Trial;

use super::{group::Group, migration::move_to_other_node, scene::Scene, tid};
use crate::{
    Done,
    machine::{Setting, only_in_guests},
    target::{BASE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_tier_demotion", demotion),
        trial("mechanism_tier_promotion", promotion),
    ]
}

/// Why nothing goes from one tier to another, where there are not two. On 6.1 it takes a driver to say that memory is slow; on 6.12 and 7.3
/// the firmware's word is taken for it (memory_tier_late_init, mm/memory-tiers.c).
fn two_tiers() -> Result<(), String> {
    let tiers = fs::read_dir("/sys/devices/virtual/memory_tiering")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("memory_tier")
        })
        .count();
    match tiers {
        2.. => Ok(()),
        _ => Err("memory of one tier".to_owned()),
    }
}

/// Reclaim on demand, which finds a slower node in place of swap.
fn demotion() -> Done {
    if let Err(reason) = two_tiers().and_then(|()| only_in_guests("mounts cgroups")) {
        return Done::Skipped(reason);
    }
    let on = Setting::change("/sys/kernel/mm/numa/demotion_enabled", "true");
    assert!(on.is_some(), "two tiers, and no demotion between them");
    let group = match Group::new("memory") {
        Ok(group) => group,
        Err(skipped) => return skipped,
    };
    let scene = Scene::new(&[ALL], |target| {
        // What was there before stays with the group that it was taken from.
        group.take(target);
        target.fill(BASE, PAGES);
    });
    // The stranger is in the group too.
    group.reclaim(2 * PAGES);
    let told = scene.end();
    let gone: Vec<_> = (0..PAGES)
        .filter(|i| !told.causes_of(va(*i)).is_empty())
        .collect();
    assert!(!gone.is_empty(), "nothing was demoted");
    for i in gone {
        assert_eq!(told.causes_of(va(i)), ["migration"], "{:#?}", told.moves);
    }
    told.by("migration", tid()).reason("migration", "demotion");
    told.by_event("demotion");
    Done::Passed
}

/// NUMA balancing between tiers: a page on the slower one that is used.
fn promotion() -> Done {
    const BETWEEN_TIERS: &str = "2";
    if let Err(reason) = two_tiers() {
        return Done::Skipped(reason);
    }
    let on = Setting::change("/proc/sys/kernel/numa_balancing", BETWEEN_TIERS);
    assert!(on.is_some(), "two tiers, and no balancing between them");
    let mut scene = Scene::new(&[(va(3), 1)], |target: &mut Target| {
        target.fill(va(3), 1);
        assert_eq!(move_to_other_node(target, va(3)), 1, "the slower one");
    });
    let frame = scene.target.frame(3);
    scene.target.spin(va(3), frame, 20);
    let told = scene.end();
    told.only((va(3), 1), &["migration"])
        .by("migration", told.pid);
    told.reason("migration", "numa").by_event("promotion");
    Done::Passed
}
