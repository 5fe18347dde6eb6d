//! What a watch delivers: all that happened or a count of what was lost, from the first instruction on.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    panic::panic_any,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use libtest_mimic::Trial;
use object::{Object as _, ObjectSection as _};
use serde_json::Value;

use crate::{
    Again, Done, WhenDone,
    harness::{self, address},
    machine::Setting,
    target::{PAGE, PAGES, Target, va},
    trial,
    watch::watch,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("what_finds_no_room_is_counted_and_told", a_full_ring),
        trial(
            "a_ring_that_is_full_at_the_end_is_told_all_the_same",
            a_full_ring_at_the_end,
        ),
        trial("an_exec_that_found_no_room_is_found", an_exec_without_room),
        trial("faults_that_perf_leaves_out_are_counted", left_out_by_perf),
        trial(
            "what_the_kernel_skipped_is_counted_and_found_all_the_same",
            skipped_by_the_kernel,
        ),
        trial("a_command_is_watched_from_its_exec_on", a_command),
    ]
}

/// While v2p is stopped nobody empties the ring.
fn a_full_ring() -> Done {
    const TIMES: u64 = 4000;
    // Where there are two nodes, balancing makes faults of its own.
    let _unbalanced = Setting::change("/proc/sys/kernel/numa_balancing", "0");
    let _at_rest = Setting::change("/proc/sys/vm/compaction_proactiveness", "0");
    let mut target = Target::start();
    target.stay_on_first_cpu();
    // Told of one page alone, or the test would have to hold a million records; all events come all the same.
    let range = format!("{:#x}..{:#x}", va(0), va(1));
    let watching = watch(&target, &[&range]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(watching.pid()).unwrap()).unwrap();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    signal(rustix::process::Signal::STOP);
    target.churn(va(0), PAGES, TIMES);
    signal(rustix::process::Signal::CONT);
    let (records, status) = watching.interrupt_losing();
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

/// Where v2p is the slower one the ring is full again when it is told to end, and has no room for its closing marker.
fn a_full_ring_at_the_end() -> Done {
    let mut target = Target::start();
    target.stay_on_first_cpu();
    let mut watch = harness::v2p()
        .args(["watch", "--json", "--faults", "--pid"])
        .args([
            target.pid().to_string(),
            format!("{:#x}..{:#x}", va(0), va(1)),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&watch);
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    let said = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut said = said.map_while(Result::ok);
    let start = said.next().unwrap();
    assert!(start.contains(r#""type":"start""#), "{start}");
    signal(rustix::process::Signal::STOP);
    target.discard(va(0), 1, 200_000);
    let (done, mut is_told) = (AtomicBool::new(false), false);
    // Read as it comes, and not kept.
    let (mut newest, mut last) = (0, String::new());
    thread::scope(|scope| {
        let _ends = WhenDone(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // The one is told, which takes v2p long, and the other fills the ring meanwhile.
                target.churn(va(0), 1, 1000);
                target.discard(va(0), 1, 50_000);
            }
        });
        signal(rustix::process::Signal::CONT);
        for line in said {
            if !is_told && line.contains(r#""type":"lost""#) {
                signal(rustix::process::Signal::INT);
                is_told = true;
            }
            let after = line.split_once(r#""seq":"#).map_or("", |(_, rest)| rest);
            let number = after.split(',').next().and_then(|n| n.parse::<u64>().ok());
            newest = newest.max(number.unwrap_or(0));
            last = line;
        }
    });
    let output = watch.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && is_told, "{errors}");
    assert!(!errors.contains("marker"), "{errors}");
    let end: Value = serde_json::from_str(&last).unwrap();
    let count = |name: &str| end[name].as_u64().unwrap();
    // Of v2p's own, which have numbers too, a full lane puts one into the ring for every 64 faults.
    let known = count("events") + count("lost");
    assert!(known + known / 64 + 4 > newest, "of {newest}: {end}");
    Done::Passed
}

/// A full ring with an exec after it: the loss is told, and what comes then is of the new program.
fn an_exec_without_room() -> Done {
    let mut target = Target::start();
    target.tell("write", 3);
    let range = format!("{:#x}..{:#x}", va(0), va(PAGES));
    let mut watching = watch(&target, &["--faults", &range]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(watching.pid()).unwrap()).unwrap();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    signal(rustix::process::Signal::STOP);
    // More than the ring has room for: each is an event in it, and nothing moves.
    target.discard(va(0), 1, 200_000);
    target.execute();
    signal(rustix::process::Signal::CONT);
    watching.wait_for(|r| r["cause"] == "exec" && address(&r["va"]) == va(3));
    let pfn = target.tell("write", 3);
    let brought = watching.wait_for(|r| r["type"] == "move" && r["to"]["pfn"] == pfn);
    assert_eq!(address(&brought["va"]), va(3), "{brought:#}");
    assert_eq!(brought["from"]["state"], "absent", "{brought:#}");
    let (records, status) = watching.interrupt_losing();
    assert!(status.success());
    let fault = records
        .iter()
        .find(|r| r["type"] == "fault" && r["pfn"] == pfn);
    assert!(fault.is_some(), "the new program's faults are told: {pfn}");
    Done::Passed
}

/// Perf counts a fault but runs no program while a call on an eBPF map is under way on that CPU: here that of a thread which
/// the target, by its priority, interrupts.
fn left_out_by_perf() -> Done {
    const ROUNDS: u64 = 50;
    const TIMES: u64 = 4;
    let _unbalanced = Setting::change("/proc/sys/kernel/numa_balancing", "0");
    let mut target = Target::start();
    interrupt_others(&mut target);
    let range = format!("{:#x}..{:#x}", va(0), va(1));
    let watching = watch(&target, &[&range]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = WhenDone(&done);
        scope.spawn(|| read_a_map_until(&done));
        for _ in 0..ROUNDS {
            target.churn(va(0), PAGES, TIMES);
        }
    });
    let (records, status) = watching.interrupt_losing();
    assert!(status.success());
    let end = records.last().unwrap();
    let count = |name: &str| end[name].as_u64().unwrap();
    let all = ROUNDS * TIMES * (PAGES + 1);
    // What is left out has no address: it may have been one of the target's few on other pages.
    let told = count("events") + count("lost");
    assert!((all..all + PAGES).contains(&told), "{all}: {end}");
    if count("lost") == 0 {
        return Done::Skipped("no call on an eBPF map was interrupted on this kernel".to_owned());
    }
    Done::Passed
}

/// Has it run on the first CPU, and at once whenever it wants to, whoever runs there.
fn interrupt_others(target: &mut Target) {
    target.stay_on_first_cpu();
    // Priority 1 (struct sched_param).
    let one = target.scratch(&[1]);
    let fifo = u64::try_from(libc::SCHED_FIFO).unwrap();
    target.must(libc::SYS_sched_setscheduler, &[0, fifo, one]);
}

/// Where hooks run with preemption on (7.x), the kernel skips one of the target's that interrupts a stranger within the same hook: a page that went or
/// came without an event. It is counted, and what is told of the pages has no cause that was not seen.
fn skipped_by_the_kernel() -> Done {
    const ROUNDS: u64 = 1000;
    let _unbalanced = Setting::change("/proc/sys/kernel/numa_balancing", "0");
    let (mut target, mut stranger) = (Target::start(), Target::start());
    interrupt_others(&mut target);
    stranger.stay_on_first_cpu();
    let watching = watch(&target, &[]);
    let (done, mut frames) = (AtomicBool::new(false), Vec::new());
    thread::scope(|scope| {
        let _ends = WhenDone(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                stranger.churn(va(5), 1, 1000);
            }
        });
        for _ in 0..ROUNDS {
            frames.push(target.tell("write", 5));
            target.discard(va(5), 1, 1);
        }
    });
    frames.push(target.tell("write", 5));
    let (records, said) = watching.interrupt_skipped();
    let Some(said) = said else {
        return Done::Skipped("the kernel skipped no hook".to_owned());
    };
    let end = records.last().unwrap();
    assert!(end["lost"].as_u64() > Some(0), "{said}: {end}");
    let moves = records.iter().filter(|r| r["type"] == "move");
    let of_it: Vec<_> = moves.filter(|r| address(&r["va"]) == va(5)).collect();
    let mut now = Value::Null;
    for one in &of_it {
        let cause = one["cause"].as_str().unwrap();
        assert!(
            ["first-touch", "discard", "unknown"].contains(&cause),
            "{one:#}"
        );
        // Each goes on from where the one before led to; all frames were the page's.
        assert_eq!(one["from"]["pfn"], now, "{one:#}");
        now = one["to"]["pfn"].clone();
        let was_there = now.as_u64().is_none_or(|pfn| frames.contains(&pfn));
        assert!(was_there, "{one:#}");
    }
    assert_eq!(now.as_u64(), frames.last().copied(), "{:#?}", of_it.last());
    Done::Passed
}

/// On the first CPU: most of the time it is within a call on a map, which copies a large value.
fn read_a_map_until(done: &AtomicBool) {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
    const BPF_MAP_TYPE_ARRAY: u64 = 2;
    const VALUE: usize = 4 << 20;
    let bpf = |command: libc::c_int, attributes: &[u64]| {
        // SAFETY: as long as is said; what the kernel writes lies where the attributes say, and is that long.
        unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                attributes.as_ptr(),
                size_of_val(attributes),
            )
        }
    };
    let mut first = rustix::thread::CpuSet::new();
    first.set(0);
    rustix::thread::sched_setaffinity(None, &first).unwrap();
    // union bpf_attr: type, bytes of a key, of a value, entries; then descriptor, key, value.
    let halves = |low: u64, high: u64| low | high << 32;
    let map = bpf(
        BPF_MAP_CREATE,
        &[halves(BPF_MAP_TYPE_ARRAY, 4), halves(VALUE as u64, 1)],
    );
    assert!(map >= 0, "{}", std::io::Error::last_os_error());
    let (key, mut value) = (0u32, vec![0u8; VALUE]);
    while !done.load(Ordering::Relaxed) {
        let place = value.as_mut_ptr() as u64;
        let found = bpf(
            BPF_MAP_LOOKUP_ELEM,
            &[map as u64, &raw const key as u64, place, 0],
        );
        assert_eq!(found, 0, "{}", std::io::Error::last_os_error());
    }
    // SAFETY: a descriptor of our own, used nowhere else.
    unsafe { libc::close(i32::try_from(map).unwrap()) };
}

/// Where the first instruction of a program lies in its file's pages: its loader's, where it has one.
fn first_instruction(program: &str) -> u64 {
    let bytes = fs::read(program).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    match elf.section_by_name(".interp") {
        Some(loader) => {
            let path = loader.data().unwrap();
            first_instruction(str::from_utf8(path).unwrap().trim_end_matches('\0'))
        }
        None => elf.entry(),
    }
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
    let begins = first_instruction(&program) % PAGE;
    let at = |r: &Value| address(&r["va"]) % PAGE;
    // What a fault was for is not known where its thread went to another CPU amid it.
    let fetched = records.iter().find(|r| {
        r["access"] == "exec" || r["type"] == "fault" && r["access"].is_null() && at(r) == begins
    });
    let fetched = fetched.expect("an instruction");
    if fetched["access"].is_null() {
        panic_any(Again(format!("not known what for: {fetched}")));
    }
    assert_eq!(at(fetched), begins);
    let nothing = harness::run(&["watch", "--", "/nowhere/at/all"]);
    assert_eq!(nothing.status.code(), Some(2));
    Done::Passed
}
