//! The kernel needs the memory, or the place that a page lies in.

use std::{
    fs, io,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::common::pagemap::PagemapState;

use super::{
    group::Group,
    scene::{FIRST_SPECIAL, Scene},
};
use crate::{
    Again, Done,
    machine::{Setting, free_memory, only_in_guests, swap_on_zram, two_nodes},
    target::{BASE, PAGE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);
const MPOL_BIND: u64 = 2;
const MAP_PRIVATE_ANONYMOUS_FIXED: u64 = 0x2 | 0x20 | 0x10;
/// Where a target has the memory that there is no room for.
const MORE: u64 = 0x6900_0000_0000;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_direct_reclaim", direct_reclaim),
        trial("mechanism_kswapd", kswapd),
        trial("mechanism_damon", damon),
        trial("mechanism_damon_pageout", damon_pageout),
        trial(
            "mechanism_damon_pageout_by_address",
            damon_pageout_by_address,
        ),
    ]
}

fn direct_reclaim() -> Done {
    const ROOM: u64 = 1 << 20;
    if let Err(reason) = swap_on_zram() {
        return Done::Skipped(reason);
    }
    let group = match Group::new("memory") {
        Ok(group) => group,
        Err(skipped) => return skipped,
    };
    let mut scene = Scene::new(&[ALL], |target| {
        // What was there before stays with the group that it was taken from.
        group.take(target);
        target.fill(BASE, PAGES);
    });
    group.set("memory.max", &ROOM.to_string());
    scene.act(|target| {
        let arguments = [MORE, ROOM, 3, MAP_PRIVATE_ANONYMOUS_FIXED, u64::MAX, 0];
        target.must(libc::SYS_mmap, &arguments);
        target.fill(MORE, ROOM / PAGE);
    });
    group.no_limit();
    let told = scene.end();
    let out = (0..PAGES).filter(|i| !told.causes_of(va(*i)).is_empty());
    let out: Vec<_> = out.collect();
    assert!(!out.is_empty(), "twice the room was used");
    for i in out {
        assert_eq!(told.causes_of(va(i)), ["swap-out"], "{:#?}", told.moves);
    }
    told.proven("direct reclaim");
    Done::Passed
}

/// The kernel's own reclaimer, which comes when a zone has less free memory than it should have.
fn kswapd() -> Done {
    const MADV_COLD: u64 = 20;
    const HUGE: u64 = 2 << 20;
    if let Err(reason) = swap_on_zram() {
        return Done::Skipped(reason);
    }
    let sysctl = |name: &str, value: &str| Setting::change(&format!("/proc/sys/vm/{name}"), value);
    let _anonymous = sysctl("swappiness", "200");
    // Most of what is free goes into a pool of huge pages, which asks for no reclaim. What stays is less than each
    // node is to keep below.
    let (total, free) = free_memory();
    let pages = free.saturating_sub(total / 8) / HUGE;
    let before = fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    let pages = pages + before.trim().parse::<u64>().unwrap_or(0);
    let _taken = sysctl("nr_hugepages", &pages.to_string());
    let scene = Scene::new(&[ALL], |target| {
        target.fill(BASE, PAGES);
        // The next to be taken.
        target.must(libc::SYS_madvise, &[BASE, PAGES * PAGE, MADV_COLD]);
    });
    // Three tenths of each zone are to be free.
    let _much = sysctl("watermark_scale_factor", "3000");
    let gone = || (0..PAGES).any(|i| scene.target.frame(i) == 0);
    let began = Instant::now();
    let mut more = Vec::new();
    while !gone() && began.elapsed() < Duration::from_secs(10) {
        // Who takes memory wakes it.
        more.push(vec![1u8; 1 << 20]);
        thread::sleep(Duration::from_millis(100));
    }
    drop((_much, _taken, more));
    thread::sleep(Duration::from_millis(300));
    let told = scene.end();
    let out = told.moves.iter().filter(|m| m["cause"] == "swap-out");
    if out.count() == 0 {
        return Done::Skipped("kswapd did not take it in 10 s".to_owned());
    }
    told.uncompacted();
    assert!(
        told.moves.iter().all(|m| m["cause"] == "swap-out"),
        "{:#?}",
        told.moves
    );
    // Who wants memory reclaims it, where kswapd is not as quick (khugepaged, seen on 6.12).
    let by_another = |m: &Value| {
        let comm = m["by"]["comm"].as_str();
        comm.is_some_and(|comm| !comm.starts_with("kswapd"))
    };
    if told.moves.iter().any(by_another) {
        std::panic::panic_any(Again("another reclaimed it".to_owned()));
    }
    told.by_name("swap-out", "kswapd").proven("kswapd");
    Done::Passed
}

/// DAMON at work, until dropped.
struct Damon {
    _statistics: Option<Setting>,
}

impl Damon {
    const ADMIN: &str = "/sys/kernel/mm/damon/admin/kdamonds";

    /// Does `action` to whatever lies in `range`, of physical memory or of process `pid`; `node`: where it is to go.
    fn doing(
        action: &str,
        range: &Range<u64>,
        pid: Option<u32>,
        node: Option<u64>,
    ) -> io::Result<Self> {
        let set = |name: &str, value: &str| {
            fs::write(format!("{}/{name}", Self::ADMIN), value)
                .map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))
        };
        let context = |name: &str, value: &str| set(&format!("0/contexts/0/{name}"), value);
        // From 6.17 on the kernel may have one at work already, and has no more than one kind at a time.
        let statistics = Setting::change("/sys/module/damon_stat/parameters/enabled", "N");
        let this = Self {
            _statistics: statistics,
        };
        set("nr_kdamonds", "1")?;
        set("0/contexts/nr_contexts", "1")?;
        context("operations", pid.map_or("paddr", |_| "fvaddr"))?;
        context("monitoring_attrs/intervals/sample_us", "5000")?;
        context("monitoring_attrs/intervals/aggr_us", "50000")?;
        context("monitoring_attrs/intervals/update_us", "100000")?;
        context("targets/nr_targets", "1")?;
        if let Some(pid) = pid {
            context("targets/0/pid_target", &pid.to_string())?;
        }
        context("targets/0/regions/nr_regions", "1")?;
        context("targets/0/regions/0/start", &range.start.to_string())?;
        context("targets/0/regions/0/end", &range.end.to_string())?;
        context("schemes/nr_schemes", "1")?;
        context("schemes/0/action", action)?;
        if let Some(node) = node {
            context("schemes/0/target_nid", &node.to_string())?;
        }
        for what in ["sz", "nr_accesses", "age"] {
            let most = u32::MAX.to_string();
            context(&format!("schemes/0/access_pattern/{what}/min"), "0")?;
            context(&format!("schemes/0/access_pattern/{what}/max"), &most)?;
        }
        set("0/state", "on")?;
        Ok(this)
    }
}

impl Drop for Damon {
    fn drop(&mut self) {
        // Off already, or about to be thrown away with the guest.
        let _ = fs::write(format!("{}/0/state", Self::ADMIN), "off");
        let _ = fs::write(format!("{}/nr_kdamonds", Self::ADMIN), "0");
    }
}

fn damon() -> Done {
    if let Err(reason) = only_in_guests("moves pages of others too") {
        return Done::Skipped(reason);
    }
    if let Err(reason) = two_nodes() {
        return Done::Skipped(reason);
    }
    let scene = Scene::new(&[ALL], |target| {
        let place = target.scratch(&[1]);
        target.must(libc::SYS_mbind, &[va(3), PAGE, MPOL_BIND, place, 64, 0]);
        target.fill(va(3), 1);
        // The policy would have it moved back.
        target.must(libc::SYS_mbind, &[va(3), PAGE, 0, 0, 0, 0]);
    });
    // A page that was just written may be in a batch of a CPU, which this drains (mm/compaction.c). It may move the page too, and
    // more than once.
    let _ = fs::write("/proc/sys/vm/compact_memory", "1");
    let frame = scene.target.frame(3);
    let start = (frame * PAGE) & !(16 * PAGE - 1);
    let at_work = match Damon::doing("migrate_cold", &(start..start + 16 * PAGE), None, Some(1)) {
        Ok(at_work) => at_work,
        Err(e) => return Done::Skipped(format!("DAMON: {e}")),
    };
    let began = Instant::now();
    // On its way it has none.
    let moved = || ![frame, 0].contains(&scene.target.frame(3));
    while !moved() && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(100));
    }
    let moved = moved();
    drop(at_work);
    thread::sleep(Duration::from_millis(300));
    let told = scene.end();
    if !moved {
        return Done::Skipped("DAMON did not move it in 10 s".to_owned());
    }
    // Nor does kcompactd, which the draining may have woken, ask whether DAMON was there before.
    if told.moves.last().is_some_and(|m| m["reason"] != "damon") {
        told.uncompacted();
    }
    let (last, earlier) = told.moves.split_last().unwrap();
    let drained = |m: &Value| m["cause"] == "migration" && m["reason"] == "compaction";
    assert!(earlier.iter().all(drained), "{:#?}", told.moves);
    assert_eq!(
        (&last["cause"], &last["reason"]),
        (&"migration".into(), &"damon".into())
    );
    let comm = last["by"]["comm"].as_str().unwrap();
    assert!(comm.starts_with("kdamond"), "{last:#}");
    told.by_event("DAMON");
    Done::Passed
}

fn damon_pageout() -> Done {
    paged_out("DAMON's page-out", |target| {
        let start = (target.frame(3) * PAGE) & !(16 * PAGE - 1);
        (start..start + 16 * PAGE, None)
    })
}

/// As if the process had advised it, but by DAMON's thread.
fn damon_pageout_by_address() -> Done {
    paged_out("DAMON's page-out, by address", |target| {
        (BASE..BASE + 16 * PAGE, Some(target.pid()))
    })
}

/// DAMON is told to page out what `place` names, and does.
fn paged_out(mechanism: &str, place: impl Fn(&Target) -> (Range<u64>, Option<u32>)) -> Done {
    if let Err(reason) = swap_on_zram() {
        return Done::Skipped(reason);
    }
    let scene = Scene::new(&[ALL], |target| target.fill(va(3), 1));
    // As above.
    let _ = fs::write("/proc/sys/vm/compact_memory", "1");
    let (range, pid) = place(&scene.target);
    let at_work = match Damon::doing("pageout", &range, pid, None) {
        Ok(at_work) => at_work,
        Err(e) => return Done::Skipped(format!("DAMON: {e}")),
    };
    let began = Instant::now();
    // In swap: an entry of a migration has no frame either.
    let gone = || {
        let state = scene.target.word(va(3)).state();
        matches!(state, PagemapState::SwapEntry { kind, .. } if kind < FIRST_SPECIAL)
    };
    while !gone() && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(100));
    }
    let gone = gone();
    drop(at_work);
    thread::sleep(Duration::from_millis(300));
    let told = scene.end();
    if !gone {
        return Done::Skipped("DAMON did not take it in 10 s".to_owned());
    }
    // Draining may have moved it before.
    let causes = told.causes_of(va(3));
    assert_eq!(causes.last().unwrap(), "swap-out", "{:#?}", told.moves);
    told.by_name("swap-out", "kdamond").proven(mechanism);
    Done::Passed
}
