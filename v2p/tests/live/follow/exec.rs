//! A child that executes a program.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{followed, forks, gone, moves_of, only_of};
use crate::{
    Done,
    harness::address,
    target::{PAGES, Target, va},
    watch::watch,
};

pub(super) fn fork_and_exec() -> Done {
    let mut target = Target::start();
    let before = target.tell("write", 5);
    let watching = followed(&target);
    let child = target.order("start 1");
    let new = target.order("have-started 7");
    target.order("stop-started -");
    let (records, _) = watching.interrupt();
    let child = u32::try_from(child).unwrap();
    only_of(&records, &[target.pid(), child]);
    let [fork] = forks(&records)[..] else {
        panic!("{records:#?}")
    };
    assert_eq!((&fork["pid"], fork.get("shares")), (&child.into(), None));
    // What it had of its parent went with the exec.
    let exec = ("exec".to_owned(), before, 0);
    assert_eq!(moves_of(&records, child, 5), [exec]);
    let moved = moves_of(&records, child, 7);
    assert_eq!(moved[0], ("first-touch".to_owned(), 0, new), "{moved:?}");
    assert_eq!((moved.len(), moved[1].1), (2, new), "{moved:?}");
    assert_eq!(gone(&records), [u64::from(child)]);
    assert_eq!(moves_of(&records, target.pid(), 5), []);
    Done::Passed
}

/// A full ring with an exec of a child after it: the loss is told, and what comes then is of the new program.
pub(super) fn exec_without_room() -> Done {
    let mut target = Target::start();
    let range = format!("{:#x}..{:#x}", va(0), va(PAGES));
    let mut watching = watch(&target, &["--follow", "--faults", &range]);
    let child = target.order("start 1");
    let old = target.order("have-started 7");
    let is_there = |pfn| move |r: &Value| r["type"] == "move" && r["to"]["pfn"] == pfn;
    watching.wait_for(is_there(old));
    let v2p = Pid::from_raw(watching.pid().cast_signed()).unwrap();
    kill_process(v2p, Signal::STOP).unwrap();
    // More than the ring has room for: each is an event in it, and nothing moves.
    target.discard(va(0), 1, 200_000);
    target.order("execute-started -");
    kill_process(v2p, Signal::CONT).unwrap();
    watching.wait_for(|r| r["cause"] == "exec" && address(&r["va"]) == va(7));
    let new = target.order("have-started 7");
    let brought = watching.wait_for(is_there(new));
    assert_eq!(brought["pid"], child, "{brought:#}");
    assert_eq!(address(&brought["va"]), va(7), "{brought:#}");
    assert_eq!(brought["from"]["state"], "absent", "{brought:#}");
    target.order("stop-started -");
    let (records, status) = watching.interrupt_losing();
    assert!(status.success());
    let fault = |r: &&Value| r["type"] == "fault" && r["pfn"] == new && r["pid"] == child;
    assert!(records.iter().any(|r| fault(&r)), "{new}");
    Done::Passed
}

pub(super) fn vfork_and_exec() -> Done {
    let mut target = Target::start();
    target.tell("write", 5);
    let watching = followed(&target);
    let child = target.order("start 0");
    let new = target.order("have-started 7");
    target.order("stop-started -");
    let own = target.tell("write", 8);
    let (records, _) = watching.interrupt();
    let child = u32::try_from(child).unwrap();
    only_of(&records, &[target.pid(), child]);
    let [fork] = forks(&records)[..] else {
        panic!("{records:#?}")
    };
    assert_eq!(
        (&fork["pid"], &fork["shares"]),
        (&child.into(), &true.into())
    );
    assert_eq!(
        moves_of(&records, child, 5),
        [],
        "it never had pages of its own there"
    );
    assert_eq!(
        moves_of(&records, child, 7)[0],
        ("first-touch".to_owned(), 0, new)
    );
    assert_eq!(
        moves_of(&records, target.pid(), 8),
        [("first-touch".to_owned(), 0, own)]
    );
    assert_eq!(gone(&records), [u64::from(child)]);
    Done::Passed
}
