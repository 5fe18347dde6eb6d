//! `v2p watch` on a running kernel.

use std::panic::panic_any;

use crate::{
    Again, Done,
    harness::{self, Watching, address},
    target::{PAGES, Target, va},
    trial,
};
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_watch_gives_up_raw_io", raw_io_is_given_up),
        trial(
            "the_zero_page_and_what_replaces_it_are_told_apart",
            the_zero_page,
        ),
        trial(
            "a_migration_is_one_move_from_the_old_frame_to_the_new",
            a_migration,
        ),
        trial(
            "a_stranger_at_the_same_address_is_not_mistaken_for_the_target",
            a_stranger,
        ),
        trial(
            "the_end_of_the_target_ends_the_watch",
            the_end_of_the_target,
        ),
        trial("a_target_that_ends_takes_its_pages_with_it", a_zombie),
        trial("a_watch_ends_after_its_time", a_watch_ends),
        trial(
            "a_watch_whose_clock_is_set_forward_is_told_all_the_same",
            in_a_time_namespace,
        ),
        trial("a_range_limits_what_is_told", a_range),
        trial("the_text_is_aligned_and_has_no_colours_in_a_pipe", the_text),
        trial(
            "a_reader_that_goes_away_ends_it_quietly",
            a_reader_that_goes,
        ),
    ]
}

/// Records of a kind for the pages of the target's own mapping.
pub(crate) fn of_kind<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let ours = va(0)..va(PAGES);
    let is_it = |r: &&Value| r["type"] == kind && ours.contains(&address(&r["va"]));
    records.iter().filter(is_it).collect()
}

pub(crate) fn end_of(records: &[Value]) -> &Value {
    let end = records.last().expect("records");
    assert_eq!(end["type"], "end", "{records:?}");
    assert_eq!(end["lost"], 0, "{end}");
    end
}

pub(crate) fn watch(target: &Target, more: &[&str]) -> Watching {
    let pid = target.pid().to_string();
    Watching::start(&[&["--pid", &pid], more].concat())
}

fn the_zero_page() -> Done {
    let mut target = Target::start();
    let watching = watch(&target, &[]);
    target.tell("read", 3);
    let pfn = target.tell("write", 3);
    let (records, _) = watching.interrupt();
    assert!(
        of_kind(&records, "fault").is_empty(),
        "faults are told only when asked for"
    );
    let moves = of_kind(&records, "move");
    let story: Vec<_> = moves
        .iter()
        .map(|m| (&m["cause"], &m["to"]["state"]))
        .collect();
    let word = Value::from;
    assert_eq!(
        story,
        [
            (&word("first-touch"), &word("zero")),
            (&word("zero-fill"), &word("present"))
        ]
    );
    assert_eq!(moves[1]["to"]["pfn"], pfn);
    Done::Passed
}

/// The programs' clock is not: by ours alone all that they tell would be older than the watch.
fn in_a_time_namespace() -> Done {
    /// include/uapi/linux/sched.h.
    const CLONE_NEWTIME: libc::c_int = 0x80;
    let mut target = Target::start();
    let apart = || {
        // SAFETY: of this thread, which ends soon, and only for those that it starts.
        if unsafe { libc::unshare(CLONE_NEWTIME) } != 0 {
            let error = std::io::Error::last_os_error();
            return Done::Skipped(format!("this kernel has no time namespaces: {error}"));
        }
        let tid = rustix::thread::gettid().as_raw_nonzero();
        let forward = "monotonic 100000 0\nboottime 200000 0";
        std::fs::write(format!("/proc/{tid}/timens_offsets"), forward).unwrap();
        // Not by vfork, which is how it is started (copy_namespaces, kernel/nsproxy.c, 6.1).
        if let Err(e) = harness::v2p().arg("--version").output() {
            return Done::Skipped(format!("nothing starts in a time namespace here: {e}"));
        }
        let watching = watch(&target, &[]);
        let pfn = target.tell("write", 3);
        let (records, _) = watching.interrupt();
        let moves = of_kind(&records, "move");
        assert_eq!(moves.len(), 1, "{records:?}");
        assert_eq!(moves[0]["proof"], "event", "{moves:?}");
        assert_eq!(moves[0]["to"]["pfn"], pfn, "{moves:?}");
        Done::Passed
    };
    std::thread::scope(|scope| scope.spawn(apart).join())
        .unwrap_or_else(|what| std::panic::resume_unwind(what))
}

fn a_migration() -> Done {
    let mut target = Target::start();
    let before = target.tell("place", 5);
    let watching = watch(&target, &[]);
    let after = match target.move_page(5) {
        Ok(after) => after,
        Err(reason) => return Done::Skipped(reason),
    };
    let (records, _) = watching.interrupt();
    let now = target.frame(5);
    if now != after {
        panic_any(Again(format!("not at rest: in {after}, then in {now}")));
    }
    assert_ne!(before, after);
    let moves: Vec<_> = of_kind(&records, "move")
        .into_iter()
        .filter(|m| address(&m["va"]) == va(5))
        .collect();
    // Compaction may take more than one turn at it; the chain must be whole.
    let mut pfn = before;
    for one in &moves {
        assert_eq!(
            (&one["cause"], &one["proof"]),
            (&Value::from("migration"), &Value::from("event")),
            "{one:#}"
        );
        assert_eq!(one["from"]["pfn"], pfn, "{moves:?}");
        pfn = one["to"]["pfn"].as_u64().unwrap();
    }
    assert_eq!(pfn, after, "{moves:?}");
    assert!(!moves.is_empty());
    end_of(&records);
    Done::Passed
}

fn a_stranger() -> Done {
    let mut target = Target::start();
    let mut stranger = Target::start();
    let ours = target.tell("write", 7);
    let before = stranger.tell("place", 8);
    let watching = watch(&target, &["--faults"]);
    stranger.tell("write", 6);
    stranger.tell("write", 7);
    let after = match stranger.move_page(8) {
        Ok(after) => after,
        Err(reason) => return Done::Skipped(reason),
    };
    assert_ne!(before, after);
    let (records, _) = watching.interrupt();
    assert!(of_kind(&records, "fault").is_empty(), "{records:?}");
    // Compaction may move the target's own page too; then that is told, and is the truth.
    let moves = of_kind(&records, "move");
    let mut pfn = ours;
    for one in moves {
        assert_eq!(
            (address(&one["va"]), one["from"]["pfn"].as_u64()),
            (va(7), Some(pfn)),
            "{one:#}"
        );
        pfn = one["to"]["pfn"].as_u64().unwrap();
    }
    assert_eq!(target.tell("read", 7), pfn);
    Done::Passed
}

fn the_end_of_the_target() -> Done {
    let mut target = Target::start();
    target.tell("write", 0);
    let watching = watch(&target, &[]);
    target.end();
    let (records, status) = watching.finish();
    assert_eq!(end_of(&records)["why"], "target-exited");
    assert_eq!(status.code(), Some(0));
    Done::Passed
}

/// What a watch cannot need, it cannot do by mistake.
fn raw_io_is_given_up() -> Done {
    const SYS_RAWIO: u64 = 1 << 17;
    const SYS_PTRACE: u64 = 1 << 19;
    let sets = |pid: u32| -> Vec<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
        };
        vec![set("CapEff:"), set("CapPrm:")]
    };
    let ours = sets(std::process::id());
    if ours[0] & (SYS_RAWIO | SYS_PTRACE) != SYS_RAWIO | SYS_PTRACE {
        return Done::Skipped("we have no CAP_SYS_RAWIO or CAP_SYS_PTRACE ourselves".into());
    }
    let mut target = Target::start();
    let watching = watch(&target, &[]);
    for set in sets(watching.pid()) {
        assert_eq!(set & SYS_RAWIO, 0, "{set:#x}");
        assert_eq!(set & SYS_PTRACE, SYS_PTRACE, "{set:#x}");
    }
    // It still sees what it is there for.
    let pfn = target.tell("write", 0);
    let (records, _) = watching.interrupt();
    assert_eq!(of_kind(&records, "move")[0]["to"]["pfn"], pfn);
    Done::Passed
}

/// A zombie has maps that are empty, and a pagemap that gives nothing.
fn a_zombie() -> Done {
    let mut target = Target::start();
    let before = target.tell("write", 0);
    let watching = watch(&target, &[&format!("{:#x}+64K", va(0))]);
    let pfn = target.tell("write", 1);
    target.end_unreaped();
    let (records, status) = watching.finish();
    let moves = of_kind(&records, "move");
    assert_eq!(moves[0]["to"]["pfn"], pfn);
    let exits = moves.get(1..).unwrap();
    assert!(
        exits
            .iter()
            .all(|m| m["cause"] == "exit" && m["proof"] == "event")
    );
    let gone: u64 = exits.iter().map(|m| m["pages"].as_u64().unwrap()).sum();
    assert_eq!((gone, &exits[0]["from"]["pfn"]), (2, &Value::from(before)));
    let end = end_of(&records);
    assert_eq!(
        (&end["why"], &end["reconciled"]),
        (&Value::from("target-exited"), &Value::from(0))
    );
    assert!(status.success());
    Done::Passed
}

fn a_watch_ends() -> Done {
    let target = Target::start();
    let (records, status) = watch(&target, &["--for", "0.2"]).finish();
    assert_eq!(end_of(&records)["why"], "duration");
    assert_eq!(status.code(), Some(0));
    Done::Passed
}

fn a_range() -> Done {
    let mut target = Target::start();
    let range = format!("{:#x}+8K", va(10));
    let watching = watch(&target, &["--faults", &range]);
    for i in 8..14 {
        target.tell("write", i);
    }
    let (records, _) = watching.interrupt();
    let faults: Vec<_> = records
        .iter()
        .filter(|r| r["type"] == "fault")
        .map(|r| address(&r["va"]))
        .collect();
    assert_eq!(faults, [va(10), va(11)]);
    assert!(
        records
            .iter()
            .filter(|r| r["type"] == "move")
            .all(|m| [va(10), va(11)].contains(&address(&m["va"])))
    );
    Done::Passed
}

fn the_text() -> Done {
    let target = Target::start();
    let output = harness::run(&["watch", "--for", "0.2", "--pid", &target.pid().to_string()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with(&format!("watching process {} on ", target.pid())),
        "{text}"
    );
    assert!(
        text.lines().last().unwrap().starts_with("end (duration): "),
        "{text}"
    );
    assert!(!text.contains('\x1b'));
    Done::Passed
}

fn a_reader_that_goes() -> Done {
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
    };
    let target = Target::start();
    let mut child = harness::v2p()
        .args(["watch", "--json", "--pid", &target.pid().to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("\"start\""));
    // The reader is gone now; the target is quiet, so only v2p itself can notice.
    let output = child.wait_with_output().unwrap();
    let output = harness::whole("watch", output);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    Done::Passed
}
