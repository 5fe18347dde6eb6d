//! Ends that are none: of a thread, of an old address space.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    panic::panic_any,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    Again, Done, WhenDone,
    harness::{self, Watching, address},
    target::{BASE, PAGE, Target, va},
    trial,
    watch::watch,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an_exec_while_somebody_reads_is_not_the_end",
            exec_while_read,
        ),
        trial(
            "an_exec_before_the_watch_is_live_is_not_the_end",
            exec_before_live,
        ),
        trial("an_exec_in_another_pid_namespace_is_followed", exec_inside),
        trial(
            "a_process_whose_main_thread_has_ended_is_watched",
            without_main_thread,
        ),
        trial(
            "another_process_with_the_number_of_one_that_ended_is_not_told",
            another_with_its_number,
        ),
    ]
}

/// include/uapi/linux/sched.h.
const CLONE_NEWPID: u64 = 0x2000_0000;
const EXECS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Who reads of a process holds its address space meanwhile, and gives it up last where the process executes another program in
/// between.
fn exec_while_read() -> Done {
    let mut target = Target::start();
    target.tell("write", 5);
    let pagemap = format!("/proc/{}/pagemap", target.pid());
    let over = AtomicBool::new(false);
    let (records, frames) = thread::scope(|scope| {
        // As long a reading as it takes from the new address space to the event that tells the exec: some microseconds.
        let read = || {
            let mut words = vec![0; 1 << 14];
            while !over.load(Ordering::Relaxed) {
                let Ok(file) = File::open(&pagemap) else {
                    continue;
                };
                // Of an address space that is gone nothing is read.
                while matches!(file.read_at(&mut words, BASE / PAGE * 8), Ok(1..)) {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        };
        let _ends = WhenDone(&over);
        scope.spawn(read);
        let watching = watch(&target, &["--faults"]);
        let mut frames = Vec::new();
        for _ in 0..EXECS {
            target.execute();
            frames.push(target.tell("write", 5));
        }
        over.store(true, Ordering::Relaxed);
        (watching.interrupt().0, frames)
    });
    let end = records.last().expect("records");
    assert_eq!(end["why"], "signal");
    if end["lost"] != 0 {
        panic_any(Again("events were lost at an exec, and told".to_owned()));
    }
    let of_the_page = |kind: &str| {
        let is_it = |r: &&Value| r["type"] == kind && address(&r["va"]) == va(5);
        records.iter().filter(is_it).cloned().collect::<Vec<_>>()
    };
    let faults = of_the_page("fault");
    let told: Vec<_> = faults.iter().map(|f| f["pfn"].as_u64().unwrap()).collect();
    assert_eq!(told, frames);
    let moves = of_the_page("move");
    let causes: Vec<_> = moves.iter().map(|m| m["cause"].as_str().unwrap()).collect();
    let expected: Vec<_> = (0..EXECS).flat_map(|_| ["exec", "first-touch"]).collect();
    assert_eq!(causes, expected);
    Done::Passed
}

/// What became of page 5: each cause, and the frame that it brought.
fn story(records: &[Value]) -> Vec<(&str, Option<u64>)> {
    let moves = records
        .iter()
        .filter(|r| r["type"] == "move" && address(&r["va"]) == va(5));
    moves
        .map(|m| (m["cause"].as_str().unwrap(), m["to"]["pfn"].as_u64()))
        .collect()
}

/// At every stage of the start of a watch.
fn exec_before_live() -> Done {
    let whole = {
        let target = Target::start();
        let start = Instant::now();
        drop(watch(&target, &[]));
        start.elapsed()
    };
    for percent in [10, 30, 50, 60, 70, 80, 90] {
        let mut target = Target::start();
        let pid = target.pid().to_string();
        let watching = thread::scope(|scope| {
            let watching = scope.spawn(|| Watching::start(&["--pid", &pid]));
            thread::sleep(whole * percent / 100);
            target.execute();
            watching.join().unwrap()
        });
        let frame = target.tell("write", 5);
        let (records, status) = watching.interrupt();
        assert!(status.success());
        assert_eq!(
            story(&records),
            [("first-touch", Some(frame))],
            "{percent} %"
        );
    }
    Done::Passed
}

/// Its number there is another.
fn exec_inside() -> Done {
    let mut target = Target::start();
    target.must(libc::SYS_unshare, &[CLONE_NEWPID]);
    let inside = u32::try_from(target.order("start 1")).unwrap();
    let status = fs::read_to_string(format!("/proc/{inside}/status")).unwrap();
    assert!(
        status.contains(&format!("NSpid:\t{inside}\t1\n")),
        "{status}"
    );
    target.order("have-started 5");
    let watching = Watching::start(&["--pid", &inside.to_string()]);
    target.order("execute-started -");
    let frame = target.order("have-started 5");
    let (records, status) = watching.interrupt();
    target.order("stop-started -");
    assert!(status.success());
    assert_eq!(
        story(&records),
        [("exec", None), ("first-touch", Some(frame))]
    );
    Done::Passed
}

/// /proc has its memory at the other threads.
fn without_main_thread() -> Done {
    let mut target = Target::start();
    target.tell("write", 4);
    target.tell("leave", 0);
    let deadline = Instant::now() + PATIENCE;
    let maps = format!("/proc/{}/maps", target.pid());
    while fs::read(&maps).is_ok_and(|mappings| !mappings.is_empty()) {
        assert!(Instant::now() < deadline, "the main thread has not ended");
    }
    let pid = target.pid().to_string();
    let watching = watch(&target, &["--for", "0.3"]);
    let (records, status) = watching.finish();
    assert!(status.success());
    let hooks = &records[0]["hooks"];
    let has = |hook: &str| hooks.as_array().unwrap().iter().any(|h| h == hook);
    assert!(has("page-faults-min") && has("page-faults-maj"), "{hooks}");
    assert_eq!(records.last().unwrap()["why"], "duration", "{records:?}");
    // What it has is there to be written to, were it allowed.
    let output = harness::run(&["doctor", "--pid", &pid, "--addr", &format!("{:#x}", va(4))]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("nothing mapped"), "{errors}");
    assert!(!output.stdout.is_empty());
    Done::Passed
}

/// While v2p does nothing, the process that it watches ends and another one gets its number.
fn another_with_its_number() -> Done {
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    if !Path::new(LAST).exists() {
        return Done::Skipped(format!("no {LAST} on this kernel"));
    }
    for more in [&[][..], &["--follow"]] {
        let mut target = Target::start();
        let number = target.pid();
        let old = target.tell("write", 5);
        let watching = watch(&target, &[&["--faults"], more].concat());
        let v2p = Pid::from_raw(watching.pid().cast_signed()).unwrap();
        kill_process(v2p, Signal::STOP).unwrap();
        target.kill();
        // Others may be started in between.
        let again = || {
            fs::write(LAST, (number - 1).to_string()).unwrap();
            Some(Target::start()).filter(|target| target.pid() == number)
        };
        let stranger = (0..100).find_map(|_| again());
        kill_process(v2p, Signal::CONT).unwrap();
        // A thread of the kernel's that took it first keeps it.
        let mut stranger = stranger
            .unwrap_or_else(|| panic_any(Again(format!("somebody else got number {number}"))));
        let new = stranger.tell("write", 5);
        let (records, status) = watching.finish();
        assert_eq!(status.code(), Some(0));
        assert_eq!(records.last().unwrap()["why"], "target-exited");
        assert_eq!(stranger.frame(5), new);
        let pages = records.iter().filter(|r| r["va"].is_string());
        let story: Vec<_> = pages
            .filter(|r| address(&r["va"]) == va(5))
            .map(|r| (&r["cause"], &r["from"]["pfn"], &r["to"]["state"]))
            .collect();
        let end = (&"exit".into(), &old.into(), &"absent".into());
        assert_eq!(story, [end], "{more:?}");
        assert!(
            records
                .iter()
                .all(|r| r["to"]["pfn"] != new && r["pfn"] != new)
        );
    }
    Done::Passed
}
