//! Compaction: by hand, by who needs a large piece, and by the kernel's own thread.

use std::{
    fs,
    panic::panic_any,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::{common::VirtAddr, inject};

use super::{
    scene::{Scene, Told},
    tid,
};
use crate::{
    Again, Done,
    machine::{Setting, free_memory, only_in_guests},
    memory::HUGE,
    target::{Target, va},
    trial,
};

const PROACTIVENESS: &str = "/proc/sys/vm/compaction_proactiveness";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_compaction", by_hand),
        trial("mechanism_compaction_direct", direct),
        trial("mechanism_compaction_proactive", proactive),
    ]
}

fn by_hand() -> Done {
    let scene = a_page_in_crumbs();
    // The stranger moves with the rest of the machine.
    if let Err(reason) = inject::move_by_compaction(scene.target.pid(), VirtAddr(va(5))) {
        return Done::Skipped(reason.to_string());
    }
    thread::sleep(Duration::from_millis(100));
    only_compaction(&scene.end()).by_event("compaction");
    Done::Passed
}

/// Page 5 of both lies low, under many holes of one page each.
fn a_page_in_crumbs() -> Scene {
    Scene::new(&[(va(5), 1)], |target| _ = target.tell("place", 5))
}

fn only_compaction(told: &Told) -> &Told {
    // It may take more than one turn at it.
    let causes = told.causes_of(va(5));
    assert!(!causes.is_empty() && causes.iter().all(|c| c == "migration"));
    told.reason("migration", "compaction")
}

/// A pool of all that is free in large pieces: as long as this lives, nobody else has any. To ask for more than there is would have the
/// kernel look for it for minutes.
fn all_large_pieces() -> Result<Setting, Done> {
    let (_, free) = free_memory();
    let pieces = (free / HUGE).to_string();
    Setting::change("/proc/sys/vm/nr_hugepages", &pieces)
        .ok_or_else(|| Done::Skipped("no pool of huge pages here".to_owned()))
}

/// Who then wants huge pages makes the kernel compact for it.
fn direct() -> Done {
    const MADV_HUGEPAGE: u64 = 14;
    const PRIVATE_ANONYMOUS_FIXED: u64 = 0x2 | 0x20 | 0x10;
    const PLACE: u64 = 0x6a00_0000_0000;
    const PIECES: u64 = 32;
    if let Err(reason) = only_in_guests("takes all memory that is in one piece") {
        return Done::Skipped(reason);
    }
    let defrag = "/sys/kernel/mm/transparent_hugepage/defrag";
    let Some(_defrag) = Setting::change(defrag, "always") else {
        return Done::Skipped("no transparent huge pages here".to_owned());
    };
    let _not_of_itself = Setting::change(PROACTIVENESS, "0");
    let mut other = Target::start();
    let scene = a_page_in_crumbs();
    let before = scene.target.frame(5);
    let pool = match all_large_pieces() {
        Ok(pool) => pool,
        Err(skipped) => return skipped,
    };
    let len = PIECES * HUGE;
    let arguments = [PLACE, len, 3, PRIVATE_ANONYMOUS_FIXED, u64::MAX, 0];
    other.must(libc::SYS_mmap, &arguments);
    other.must(libc::SYS_madvise, &[PLACE, len, MADV_HUGEPAGE]);
    for piece in 0..PIECES {
        other.fill(PLACE + piece * HUGE, 1);
        if scene.target.frame(5) != before {
            break;
        }
    }
    drop(pool);
    thread::sleep(Duration::from_millis(100));
    let told = scene.end();
    if told.moves.is_empty() {
        return Done::Skipped("who needed large pieces found them elsewhere".to_owned());
    }
    only_compaction(&told);
    // To fill the pool is to want large pieces, too; and the kernel's own thread is woken by the same want.
    let wanted = [other.pid(), tid()];
    if !told
        .moves
        .iter()
        .any(|m| wanted.iter().any(|tid| m["by"]["tid"] == *tid))
    {
        return Done::Skipped("the kernel's own thread came first".to_owned());
    }
    told.by_event("compaction, direct");
    Done::Passed
}

fn proactive() -> Done {
    if let Err(reason) = only_in_guests("takes all memory that is in one piece") {
        return Done::Skipped(reason);
    }
    let _not_before = Setting::change(PROACTIVENESS, "0");
    let scene = a_page_in_crumbs();
    let before = scene.target.frame(5);
    let pool = match all_large_pieces() {
        Ok(pool) => pool,
        Err(skipped) => return skipped,
    };
    if fs::write(PROACTIVENESS, "100").is_err() {
        return Done::Skipped("this kernel does not compact of itself".to_owned());
    }
    let began = Instant::now();
    while scene.target.frame(5) == before && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(100));
    }
    drop((pool, _not_before));
    thread::sleep(Duration::from_millis(100));
    let told = scene.end();
    if told.moves.is_empty() {
        return Done::Skipped("10 s of fragmentation did not make the kernel compact".to_owned());
    }
    let is_by = |who: fn(&Value) -> bool| told.moves.iter().any(|m| who(&m["by"]));
    if is_by(|by| by["tid"] == tid()) {
        return Done::Skipped("the filling of the pool compacted already".to_owned());
    }
    if is_by(|by| by["comm"] == "khugepaged") {
        panic_any(Again("khugepaged compacted for itself".to_owned()));
    }
    only_compaction(&told).by_name("migration", "kcompactd");
    told.by_event("compaction, proactive");
    Done::Passed
}
