//! What a watch delivers: all that happened or a count of what was lost, from the first instruction on.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    Done, harness,
    machine::Setting,
    target::{PAGES, Target, va},
    trial,
    watch::watch,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("what_finds_no_room_is_counted_and_told", a_full_ring),
        trial("a_command_is_watched_from_its_exec_on", a_command),
    ]
}

/// While v2p is stopped nobody empties the ring.
fn a_full_ring() -> Done {
    const TIMES: u64 = 4000;
    // Where there are two nodes, balancing makes faults of its own.
    let _unbalanced = Setting::change("/proc/sys/kernel/numa_balancing", "0");
    let mut target = Target::start();
    // Told of one page alone, or the test would have to hold a million records; all events come all the same.
    let range = format!("{:#x}..{:#x}", va(0), va(1));
    let watching = watch(&target, &[&range]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(watching.pid()).unwrap()).unwrap();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    signal(rustix::process::Signal::STOP);
    target.churn(va(0), PAGES, TIMES);
    signal(rustix::process::Signal::CONT);
    let (records, status) = watching.interrupt();
    assert!(status.success());
    let end = records.last().unwrap();
    let count = |name: &str| end[name].as_u64().unwrap();
    assert!(count("lost") > 0, "{end}");
    let told: u64 = records
        .iter()
        .filter(|r| r["type"] == "lost")
        .map(|r| r["events"].as_u64().unwrap())
        .sum();
    assert_eq!(told, count("lost"), "told when it is known: {end}");
    // A fault a page and one look a madvise, and nothing else: what came and what was lost is all of it.
    assert_eq!(
        count("events") + count("lost"),
        TIMES * (PAGES + 1),
        "{end}"
    );
    Done::Passed
}

fn a_command() -> Done {
    // Guests have no other program: itself, with an argument that it refuses.
    let program = harness::v2p().get_program().to_str().unwrap().to_owned();
    let output = harness::run(&["watch", "--json", "--faults", "--", &program, "--nonsense"]);
    let records: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(output.status.success());
    let (start, end) = (&records[0], records.last().unwrap());
    assert_eq!(
        (&start["type"], &end["type"]),
        (&"start".into(), &"end".into())
    );
    assert_eq!(
        (&end["status"], &end["why"]),
        (&2.into(), &"target-exited".into())
    );
    assert_eq!(end["lost"], 0, "{end}");
    let first = records
        .iter()
        .find(|r| r["type"] == "fault")
        .expect("a fault");
    assert_eq!(first["tid"], start["pid"]);
    let nothing = harness::run(&["watch", "--", "/nowhere/at/all"]);
    assert_eq!(nothing.status.code(), Some(2));
    Done::Passed
}
