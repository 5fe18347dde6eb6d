//! `v2p watch --follow`: children, theirs, and what they execute.

mod exec;

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::{
    common::{VirtAddr, control::PLACES},
    process::Pagemap,
};

use crate::{
    Done,
    harness::{Watching, address},
    target::{PAGES, Target, va},
    trial,
    watch::watch,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "follow_tells_a_write_in_a_child_as_its_own_copy",
            cow_in_child,
        ),
        trial(
            "follow_tells_a_write_in_the_parent_and_leaves_the_child_its_page",
            cow_in_parent,
        ),
        trial("follow_goes_on_to_a_grandchild", grandchild),
        trial(
            "follow_goes_on_where_a_child_executes_a_program",
            exec::fork_and_exec,
        ),
        trial(
            "follow_begins_with_its_exec_for_a_child_of_vfork",
            exec::vfork_and_exec,
        ),
        trial(
            "follow_finds_an_exec_of_a_child_that_found_no_room",
            exec::exec_without_room,
        ),
        trial(
            "follow_tells_a_child_that_ends_at_once_by_its_events",
            ends_at_once,
        ),
        trial(
            "follow_tells_a_migration_of_a_shared_page_of_both",
            migration,
        ),
        trial("without_follow_no_child_is_told", not_followed),
        trial("follow_tells_where_more_children_are_than_places", too_many),
        trial("follow_ends_with_the_last_of_the_family", the_last),
    ]
}

/// The frame of page `i` of a process.
fn frame(pid: u32, i: u64) -> u64 {
    let word = Pagemap::of(pid).unwrap().word(VirtAddr(va(i)));
    word.unwrap().unwrap().pfn().map_or(0, |pfn| pfn.0)
}

/// Moves of page `i` of process `pid`: cause, from, to. All of them told by events.
fn moves_of(records: &[Value], pid: u32, i: u64) -> Vec<(String, u64, u64)> {
    let holds = |m: &&Value| {
        if m["type"] != "move" || m["pid"] != pid {
            return false;
        }
        let (first, pages) = (address(&m["va"]), m["pages"].as_u64().unwrap());
        (first..first + 4096 * pages).contains(&va(i))
    };
    let moves = records.iter().filter(holds).map(|m| {
        assert_eq!(m["proof"], "event", "{m:#}");
        let inside = (va(i) - address(&m["va"])) / 4096;
        let pfn = |state: &Value| state["pfn"].as_u64().map_or(0, |pfn| pfn + inside);
        let cause = m["cause"].as_str().unwrap().to_owned();
        (cause, pfn(&m["from"]), pfn(&m["to"]))
    });
    moves.collect()
}

/// Everything is told of one of these, nothing was lost, and no move of the targets' pages was found by comparing.
fn only_of(records: &[Value], pids: &[u32]) {
    let end = records.last().unwrap();
    assert_eq!(
        (&end["type"], &end["lost"]),
        (&"end".into(), &0.into()),
        "{end}"
    );
    for one in records
        .iter()
        .filter(|r| r["type"] == "move" || r["type"] == "fault")
    {
        let pid = one["pid"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap();
        assert!(pids.contains(&pid), "{pids:?}: {one:#}");
        let ours = (va(0)..va(PAGES)).contains(&address(&one["va"]));
        assert!(
            one["type"] == "fault" || !ours || one["proof"] == "event",
            "{one:#}"
        );
    }
}

fn forks(records: &[Value]) -> Vec<&Value> {
    records.iter().filter(|r| r["type"] == "fork").collect()
}

fn gone(records: &[Value]) -> Vec<u64> {
    let gone = records.iter().filter(|r| r["type"] == "gone");
    gone.map(|r| r["pid"].as_u64().unwrap()).collect()
}

fn followed(target: &Target) -> Watching {
    watch(target, &["--follow", "--faults"])
}

fn cow_in_child() -> Done {
    let (mut target, mut stranger) = (Target::start(), Target::start());
    for page in 3..6 {
        target.tell("write", page);
        stranger.tell("write", page);
    }
    let watching = followed(&target);
    let before = frame(target.pid(), 3);
    stranger.fork();
    stranger.have_child_write(va(3));
    let child = target.fork();
    target.have_child_write(va(3));
    target.have_child_write(va(9));
    let (copy, new) = (frame(child, 3), frame(child, 9));
    assert_eq!(frame(target.pid(), 3), before);
    let (records, status) = watching.interrupt();
    assert!(status.success());
    only_of(&records, &[target.pid(), child]);
    let [fork] = forks(&records)[..] else {
        panic!("{records:#?}")
    };
    assert_eq!(
        (&fork["pid"], &fork["parent"]),
        (&child.into(), &target.pid().into())
    );
    assert_eq!(
        (&fork["followed"], fork.get("shares")),
        (&true.into(), None)
    );
    let cow = |from, to| ("cow".to_owned(), from, to);
    assert_eq!(moves_of(&records, child, 3), [cow(before, copy)]);
    let first = ("first-touch".to_owned(), 0, new);
    assert_eq!(moves_of(&records, child, 9), [first]);
    // What nobody wrote to did not move, and the parent's own pages neither.
    for (pid, page) in [(child, 4), (target.pid(), 3), (target.pid(), 9)] {
        assert_eq!(moves_of(&records, pid, page), [], "{pid} {page}");
    }
    let faults = records
        .iter()
        .filter(|r| r["type"] == "fault" && r["pid"] == child);
    let at: Vec<_> = faults
        .map(|f| address(&f["va"]))
        .filter(|at| (va(0)..va(PAGES)).contains(at))
        .collect();
    assert_eq!(at, [va(3), va(9)]);
    Done::Passed
}

fn cow_in_parent() -> Done {
    let mut target = Target::start();
    // A page that is in the batch of another CPU is copied for the last one that has it, too.
    target.stay_on_first_cpu();
    let before = target.tell("write", 3);
    let watching = followed(&target);
    let child = target.fork();
    let after = target.tell("write", 3);
    target.have_child_write(va(3));
    assert_eq!(frame(child, 3), before, "the last one that has it keeps it");
    let (records, _) = watching.interrupt();
    only_of(&records, &[target.pid(), child]);
    let cow = ("cow".to_owned(), before, after);
    assert_eq!(moves_of(&records, target.pid(), 3), [cow]);
    assert_eq!(moves_of(&records, child, 3), []);
    Done::Passed
}

fn grandchild() -> Done {
    let mut target = Target::start();
    let before = target.tell("write", 3);
    let watching = followed(&target);
    let grandchild = target.fork_twice();
    target.have_child_write(va(3));
    let copy = frame(grandchild, 3);
    let (records, _) = watching.interrupt();
    let [first, second] = forks(&records)[..] else {
        panic!("{records:#?}")
    };
    assert_eq!(first["parent"], target.pid());
    assert_eq!(
        (&second["parent"], &second["pid"]),
        (&first["pid"], &grandchild.into())
    );
    let child = u32::try_from(first["pid"].as_u64().unwrap()).unwrap();
    only_of(&records, &[target.pid(), child, grandchild]);
    let cow = ("cow".to_owned(), before, copy);
    assert_eq!(moves_of(&records, grandchild, 3), [cow]);
    assert_eq!(moves_of(&records, child, 3), []);
    Done::Passed
}

fn ends_at_once() -> Done {
    let mut target = Target::start();
    let before: Vec<_> = (5..7).map(|i| target.tell("write", i)).collect();
    let watching = followed(&target);
    let children: Vec<_> = (0..20)
        .map(|_| u32::try_from(target.order(&format!("flash {}", va(6)))).unwrap())
        .collect();
    let (records, _) = watching.interrupt();
    only_of(&records, &[&[target.pid()], children.as_slice()].concat());
    assert_eq!(forks(&records).len(), children.len());
    for child in &children {
        let exit = ("exit".to_owned(), before[0], 0);
        assert_eq!(moves_of(&records, *child, 5), [exit]);
        let moved = moves_of(&records, *child, 6);
        let [(cow, from, copy), (exit, last, 0)] = &moved[..] else {
            panic!("{moved:?}")
        };
        assert_eq!(
            (cow.as_str(), *from, exit.as_str(), last),
            ("cow", before[1], "exit", copy)
        );
    }
    let children: Vec<_> = children.into_iter().map(u64::from).collect();
    // Two that end at once, on two CPUs, may do so in either order.
    let mut ended = gone(&records);
    ended.sort_unstable();
    assert_eq!(ended, children);
    // Each of them had it for a while; it was the parent's all the time.
    assert_eq!(moves_of(&records, target.pid(), 6), []);
    Done::Passed
}

fn migration() -> Done {
    let mut target = Target::start();
    let before = target.tell("place", 5);
    let watching = followed(&target);
    let child = target.fork();
    let after = match target.move_page(5) {
        Ok(after) if after != before => after,
        Ok(_) => return Done::Skipped("the page was not moved".into()),
        Err(reason) => return Done::Skipped(reason),
    };
    assert_eq!(frame(child, 5), after);
    let (records, _) = watching.interrupt();
    only_of(&records, &[target.pid(), child]);
    for pid in [target.pid(), child] {
        let mut pfn = before;
        for (cause, from, to) in moves_of(&records, pid, 5) {
            assert_eq!((cause.as_str(), from), ("migration", pfn));
            pfn = to;
        }
        assert_eq!(pfn, after, "{pid}: {records:#?}");
    }
    Done::Passed
}

fn not_followed() -> Done {
    let mut target = Target::start();
    target.tell("write", 3);
    let watching = watch(&target, &["--faults"]);
    target.fork();
    target.have_child_write(va(3));
    let own = target.tell("write", 8);
    let (records, _) = watching.interrupt();
    assert!(forks(&records).is_empty());
    assert!(
        records
            .iter()
            .all(|r| r["type"] == "start" || r.get("pid").is_none())
    );
    let told = |r: &&Value| r["type"] == "move" && (va(0)..va(PAGES)).contains(&address(&r["va"]));
    let moves: Vec<_> = records.iter().filter(told).collect();
    assert_eq!(
        (moves.len(), &moves[0]["to"]["pfn"]),
        (1, &own.into()),
        "{moves:#?}"
    );
    Done::Passed
}

fn too_many() -> Done {
    let many = PLACES as u64 + 6;
    let mut target = Target::start();
    target.tell("write", 3);
    let mut watching = followed(&target);
    target.order(&format!("many {many}"));
    // The places are given back, each when its address space has ended: while v2p reads that, a moment after the process.
    let mut left = PLACES;
    while left > 0 {
        watching.wait_for(|r| r["type"] == "gone");
        left -= 1;
    }
    target.order(&format!("many {PLACES}"));
    let (records, _) = watching.interrupt_losing();
    let refused: Vec<_> = forks(&records)
        .into_iter()
        .filter(|f| f["followed"] == false)
        .collect();
    // 7.x runs these hooks with preemption on, and skips one that another process's is in on that CPU: of so many that end at once
    // some events may be told as lost; the ends are found without them, at the latest when the watch ends.
    assert_eq!(refused.len(), 6);
    assert_eq!(forks(&records).len(), 2 * PLACES + 6);
    assert_eq!(gone(&records).len(), 2 * PLACES);
    Done::Passed
}

fn the_last() -> Done {
    let mut target = Target::start();
    let before = target.tell("write", 3);
    let watching = followed(&target);
    let child = target.fork();
    target.have_child_write(va(9));
    // The child ends when it sees that its parent has.
    target.end_unreaped();
    let (records, status) = watching.finish();
    assert!(status.success());
    assert_eq!(records.last().unwrap()["why"], "target-exited");
    only_of(&records, &[target.pid(), child]);
    let mut ended = gone(&records);
    ended.sort_unstable();
    let mut all = [u64::from(target.pid()), u64::from(child)];
    all.sort_unstable();
    assert_eq!(ended, all);
    for pid in [target.pid(), child] {
        assert_eq!(
            moves_of(&records, pid, 3),
            [("exit".to_owned(), before, 0)],
            "{pid}"
        );
    }
    Done::Passed
}
