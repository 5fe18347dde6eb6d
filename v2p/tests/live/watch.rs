//! `v2p watch` on a running kernel.

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
    harness::{self, Watching, address},
    target::{PAGES, Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_watch_gives_up_raw_io", raw_io_is_given_up),
        trial(
            "every_first_touch_is_a_fault_with_the_frame_it_brought",
            first_touches,
        ),
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
        trial("faults_of_every_thread_are_told", every_thread),
        trial("a_fault_says_what_the_cpu_wanted", accesses),
        trial("faults_are_told_on_where_an_exec_gave_other_rights", setuid),
        trial(
            "a_fault_is_told_once_though_a_thread_is_attached_twice",
            attached_twice,
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
fn of_kind<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let ours = va(0)..va(PAGES);
    let is_it = |r: &&Value| r["type"] == kind && ours.contains(&address(&r["va"]));
    records.iter().filter(is_it).collect()
}

fn end_of(records: &[Value]) -> &Value {
    let end = records.last().expect("records");
    assert_eq!(end["type"], "end", "{records:?}");
    assert_eq!(end["lost"], 0, "{end}");
    end
}

pub(crate) fn watch(target: &Target, more: &[&str]) -> Watching {
    let pid = target.pid().to_string();
    Watching::start(&[&["--pid", &pid], more].concat())
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

/// The kernel takes perf events off a process that executes a setuid program.
fn setuid() -> Done {
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
    let mut target = Target::of(nobody);
    let is_set = std::fs::read_to_string(format!("/proc/{}/status", target.pid()));
    let is_set = is_set.unwrap().contains("Uid:\t65534\t0\t0\t0");
    if !is_set {
        std::fs::remove_dir_all(&folder).unwrap();
        return Done::Skipped(format!("{} is mounted nosuid", folder.display()));
    }
    let watching = watch(&target, &["--faults"]);
    target.tell("write", 1);
    target.execute();
    let truth: Vec<_> = (5..25)
        .map(|i| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            (i, target.tell("write", i))
        })
        .collect();
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

fn a_migration() -> Done {
    let mut target = Target::start();
    let before = target.tell("place", 5);
    let watching = watch(&target, &[]);
    let after = match target.move_page(5) {
        Ok(after) => after,
        Err(reason) => return Done::Skipped(reason),
    };
    let (records, _) = watching.interrupt();
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
    let mut programs = Programs::load(kernel::layout::learn().unwrap().layout).unwrap();
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
        .attach_faults(FaultKind::Minor, target.pid())
        .unwrap();
    (0..8).for_each(|i| _ = target.tell("write", i));
    let cookie = carrier.mark().unwrap();
    let events = runtime.block_on(tracer.take_until(cookie)).unwrap();
    let fault = |event: &Event| match event {
        Event::Fault(fault) => Some(fault.va),
        _ => None,
    };
    let faults: Vec<_> = events.iter().filter_map(fault).collect();
    let expected: Vec<_> = (0..8).map(va).collect();
    assert_eq!(faults, expected);
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
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    Done::Passed
}
