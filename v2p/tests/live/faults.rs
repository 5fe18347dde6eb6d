//! The faults that `v2p watch --faults` shows.

use std::{path::PathBuf, time::Duration};

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::{
    bpf::{FaultKind, Programs},
    carrier::Carrier,
    common::{VirtAddr, event::Event},
    kernel,
    process::{Pagemap, Process},
    tracer::{self, Tracer, Wanted},
    translate::Both,
};

use crate::{
    Done,
    harness::{PATIENCE, address},
    target::{PAGES, Target, va},
    trial,
    watch::{end_of, of_kind, watch},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "every_first_touch_is_a_fault_with_the_frame_it_brought",
            first_touches,
        ),
        trial("faults_of_every_thread_are_told", every_thread),
        trial("a_fault_says_what_the_cpu_wanted", accesses),
        trial("faults_are_told_on_where_an_exec_gave_other_rights", setuid),
        trial(
            "an_exec_that_gives_other_rights_takes_no_more_descriptors",
            setuid_again,
        ),
        trial(
            "a_fault_is_told_once_though_a_thread_is_attached_twice",
            attached_twice,
        ),
    ]
}

fn first_touches() -> Done {
    let mut target = Target::start();
    let watching = watch(&target, &["--faults"]);
    let truth: Vec<_> = (0..PAGES)
        .map(|i| (va(i), target.tell("write", i)))
        .collect();
    let (records, status) = watching.interrupt();
    let faults = of_kind(&records, "fault");
    let seen: Vec<_> = faults
        .iter()
        .map(|f| (address(&f["va"]), f["pfn"].as_u64().unwrap()))
        .collect();
    assert_eq!(seen, truth);
    assert!(faults.iter().all(|f| f["major"] == false));
    let numbers: Vec<_> = records
        .iter()
        .filter(|r| r["type"] == "fault")
        .map(|r| r["seq"].as_u64())
        .collect();
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "every event has a number of its own: {numbers:?}"
    );
    let moves = of_kind(&records, "move");
    assert_eq!(moves.len(), truth.len(), "{moves:?}");
    for (one, (va, pfn)) in moves.iter().zip(&truth) {
        assert_eq!(
            (address(&one["va"]), &one["cause"]),
            (*va, &Value::from("first-touch"))
        );
        assert_eq!(
            (&one["from"]["state"], &one["to"]["pfn"]),
            (&Value::from("absent"), &Value::from(*pfn))
        );
        assert_eq!(one["by"]["tid"], target.pid());
        assert_eq!(one["proof"], "event");
    }
    assert_eq!(end_of(&records)["why"], "signal");
    assert!(status.success());
    Done::Passed
}

/// What is not known is null, and never another kind.
fn accesses() -> Done {
    let mut target = Target::start();
    let watching = watch(&target, &["--faults"]);
    let kind = |i: u64| if i.is_multiple_of(2) { "read" } else { "write" };
    for i in 0..PAGES {
        target.tell(kind(i), i);
    }
    let (records, _) = watching.interrupt();
    let faults = of_kind(&records, "fault");
    assert_eq!(faults.len() as u64, PAGES);
    let mut known = [0; 2];
    for fault in faults {
        let i = (address(&fault["va"]) - va(0)) / 4096;
        let access = &fault["access"];
        assert!(access == kind(i) || access.is_null(), "{i}: {fault}");
        known[usize::from(kind(i) == "write")] += u64::from(!access.is_null());
    }
    assert!(known.iter().all(|n| *n > PAGES / 4), "{known:?}");
    Done::Passed
}

/// A target whose program gives it other rights; or why there is none. Its folder is to be removed.
fn setuid_target() -> Result<(Target, PathBuf), String> {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt as _};
    let folder = std::env::temp_dir().join(format!("v2p-setuid-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mode = |path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    mode(folder.clone(), 0o755).unwrap();
    let program = folder.join("live");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    mode(program.clone(), 0o4755).unwrap();
    let mut nobody = std::process::Command::new(&program);
    nobody.uid(65534).current_dir("/");
    let target = Target::of(nobody);
    let is_set = std::fs::read_to_string(format!("/proc/{}/status", target.pid()));
    let is_set = is_set.unwrap().contains("Uid:\t65534\t0\t0\t0");
    if !is_set {
        std::fs::remove_dir_all(&folder).unwrap();
        return Err(format!("{} is mounted nosuid", folder.display()));
    }
    Ok((target, folder))
}

/// Within it v2p attaches anew, or some times that.
const SOON: Duration = Duration::from_millis(200);

/// Whether it is the fault that brought one of these pages its frame.
fn is_fault_of(record: &Value, pages: &[(u64, u64)]) -> bool {
    let is_one = |&(i, pfn): &(u64, u64)| address(&record["va"]) == va(i) && record["pfn"] == pfn;
    record["type"] == "fault" && pages.iter().any(is_one)
}

/// The kernel takes perf events off a process that executes a setuid program; those that are attached anew are all that there are then.
fn setuid_again() -> Done {
    let (mut target, folder) = match setuid_target() {
        Ok(found) => found,
        Err(reason) => return Done::Skipped(reason),
    };
    for follow in [false, true] {
        let more = ["--faults", "--follow"];
        let mut watching = watch(&target, &more[..1 + usize::from(follow)]);
        let place = format!("/proc/{}/fd", watching.pid());
        let events = || {
            let files = std::fs::read_dir(&place).unwrap().flatten();
            let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
            let is_event = |link: &PathBuf| link.to_string_lossy().contains("perf_event");
            links.filter(is_event).count()
        };
        // Two at a time at most, of as many threads as there are.
        let mut most = 0;
        for i in 0..6 {
            target.execute();
            // From some moment on they are told again, sooner or later: by those that were attached anew.
            let mut written = Vec::new();
            let is_heard = |i| {
                written.push((i, target.tell("write", i)));
                let is_told = |r: &Value| is_fault_of(r, &written);
                let patience = if i + 1 < PAGES { SOON } else { PATIENCE };
                watching.comes_within(patience, is_told).is_some()
            };
            assert!((0..PAGES).any(is_heard), "{i}");
            match i {
                0 => most = 2 * events(),
                _ => assert!(events() <= most, "{i}: {} of {most}", events()),
            }
        }
        assert!(most > 0);
        let (_, status) = watching.interrupt_losing();
        assert!(status.success());
    }
    std::fs::remove_dir_all(&folder).unwrap();
    Done::Passed
}

fn setuid() -> Done {
    let (mut target, folder) = match setuid_target() {
        Ok(found) => found,
        Err(reason) => return Done::Skipped(reason),
    };
    let mut watching = watch(&target, &["--faults"]);
    target.tell("write", 1);
    target.execute();
    let (mut truth, mut after) = (Vec::new(), 0);
    for i in 5..PAGES {
        truth.push((i, target.tell("write", i)));
        // Soon after the exec, or where v2p has to wait for a CPU somewhat later; and some more.
        let is_told = |r: &Value| is_fault_of(r, &truth);
        after += u64::from(after > 0 || watching.comes_within(SOON, is_told).is_some());
        if after > 5 {
            break;
        }
    }
    let (records, _) = watching.interrupt();
    std::fs::remove_dir_all(&folder).unwrap();
    let faults = of_kind(&records, "fault");
    let frame = |i: u64| {
        let fault = faults.iter().find(|f| address(&f["va"]) == va(i))?;
        fault["pfn"].as_u64()
    };
    assert!(frame(1).is_some(), "{records:?}");
    // From some moment on, soon, all of them; those until then are counted.
    let told: Vec<_> = truth.iter().map(|&(i, _)| frame(i)).collect();
    let unheard = told.iter().take_while(|pfn| pfn.is_none()).count();
    assert!(unheard < told.len(), "{records:?}");
    for (&(i, pfn), told) in truth.iter().zip(&told).skip(unheard) {
        assert_eq!(*told, Some(pfn), "{i}: {records:?}");
    }
    let end = records.last().unwrap();
    let lost = end["lost"].as_u64().unwrap();
    // Its start alone is dozens, before anybody can attach anything.
    assert!(lost > unheard as u64, "{end}");
    Done::Passed
}

fn every_thread() -> Done {
    let mut target = Target::start();
    let watching = watch(&target, &["--faults"]);
    let truth = [
        target.tell("write", 1),
        target.tell("worker", 2),
        target.tell("thread", 3),
    ];
    let (records, _) = watching.interrupt();
    let faults = of_kind(&records, "fault");
    let seen: Vec<_> = faults
        .iter()
        .map(|f| (address(&f["va"]), f["pfn"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [(va(1), truth[0]), (va(2), truth[1]), (va(3), truth[2])]
    );
    let threads: Vec<_> = faults.iter().map(|f| f["tid"].as_u64().unwrap()).collect();
    assert_eq!(threads[0], u64::from(target.pid()));
    assert!(
        threads[1] != threads[0] && threads[2] != threads[0] && threads[1] != threads[2],
        "{threads:?}"
    );
    end_of(&records);
    Done::Passed
}

fn attached_twice() -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let mut target = Target::start();
    let mut programs = Programs::load(&kernel::layout::learn().unwrap()).unwrap();
    let mut carrier = Carrier::new(&mut programs).unwrap();
    v2p::direct_map::learn(&mut carrier).unwrap();
    let pagemap = Pagemap::of(target.pid()).unwrap();
    let mm = Both::ask(&mut carrier, &pagemap, VirtAddr(4096))
        .unwrap()
        .unwrap()
        .walk
        .mm;
    let process = Process::open(target.pid()).unwrap();
    let traced = tracer::Target {
        mm,
        range: va(0)..va(PAGES),
        follow_exec: false,
        follow_forks: false,
        access: false,
    };
    let mut tracer = Tracer::start(&mut programs, &process, &traced, Wanted::Migrations).unwrap();
    programs
        .attach_faults(FaultKind::Minor, (target.pid(), target.pid()))
        .unwrap();
    (0..8).for_each(|i| _ = target.tell("write", i));
    let cookie = carrier.mark().unwrap();
    let (events, came) = runtime.block_on(tracer.take_until(cookie)).unwrap();
    assert!(came);
    let fault = |event: &Event| match event {
        Event::Fault(fault) => Some(fault.va),
        _ => None,
    };
    let faults: Vec<_> = events.iter().filter_map(fault).collect();
    let expected: Vec<_> = (0..8).map(va).collect();
    assert_eq!(faults, expected);
    Done::Passed
}
