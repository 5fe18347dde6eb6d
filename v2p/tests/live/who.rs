//! `v2p who` on a running kernel: whose a frame is, and what it is where it is nobody's.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::{guard::Pin, page::OwnPage, process::Pagemap};

use crate::{
    Done, WhenDone,
    harness::{self, address},
    machine::{Setting, two_nodes},
    memory::{HUGE, HUGE_BASE},
    midway::move_pages,
    target::{PAGE, PAGES, Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("who_finds_every_process_that_maps_a_frame", who),
        trial("who_finds_all_that_share_a_frame_since_a_fork", shared),
        trial("who_finds_a_page_inside_a_huge_one", inside_a_huge_page),
        trial("who_finds_the_zero_page_where_it_is_mapped", who_of_zero),
        trial("who_says_what_a_page_of_the_pool_is", in_the_pool),
        trial("who_keeps_little_of_what_it_finds", many),
        trial("who_finds_a_page_that_is_moved_in_vain", moved_in_vain),
    ]
}

/// The records that tell of mappings, and the exit code.
fn mappings(pfn: u64) -> (Vec<Value>, Option<i32>) {
    let output = harness::run(&["who", "--json", &format!("pfn:{pfn}")]);
    let text = String::from_utf8_lossy(&output.stdout);
    let records = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let of_mappings = |record: &Value| record["type"] == "mapping";
    (records.filter(of_mappings).collect(), output.status.code())
}

fn who() -> Done {
    let mut target = Target::start();
    let _other = Target::start();
    let pfn = target.tell("write", 6);
    let output = harness::run(&[
        "who",
        "--json",
        &format!("pfn:{pfn}"),
        &format!("{:#x}", pfn * 4096 + 5),
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    let records: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(records.len(), 2, "one mapping and the end: {text}");
    let mapping = &records[0];
    assert_eq!(
        (&mapping["pfn"], &mapping["pid"]),
        (&Value::from(pfn), &Value::from(target.pid()))
    );
    assert_eq!(
        (address(&mapping["va"]), &mapping["page_size"]),
        (va(6), &Value::from(4096))
    );
    assert!(
        mapping["comm"].as_str().unwrap().starts_with("live"),
        "{mapping}"
    );
    let end = &records[1];
    assert_eq!(
        (&end["type"], &end["mappings"]),
        (&Value::from("end"), &Value::from(1))
    );
    assert!(
        end["processes"].as_u64() >= Some(3)
            && end["flags"]
                .as_array()
                .unwrap()
                .contains(&Value::from("anon"))
    );

    // The frame of the real-mode area, and one that no machine has.
    for nobody in ["0x1000", "pfn:1099511627775"] {
        let output = harness::run(&["who", nobody]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("no process maps it"), "{text}");
    }
    Done::Passed
}

/// Every process has it at other places; the target, where it was read alone.
fn who_of_zero() -> Done {
    let mut target = Target::start();
    target.tell("read", 9);
    let Some(zero) = v2p::page::zero_pfn().unwrap() else {
        return Done::Skipped("the zero page's frame is not known here".to_owned());
    };
    let output = harness::run(&["who", "--json", &format!("pfn:{zero}")]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ours: Vec<_> = records
        .filter(|r| r["type"] == "mapping" && r["pid"] == target.pid())
        .map(|r| address(&r["va"]))
        .filter(|at| (va(0)..va(PAGES)).contains(at))
        .collect();
    assert_eq!(ours, [va(9)], "{text}");
    Done::Passed
}

/// A child has the frame at the same address, until one of them writes.
fn shared() -> Done {
    let mut target = Target::start();
    let pfn = target.tell("write", 7);
    let child = target.fork();
    let (records, code) = mappings(pfn);
    let mut pids: Vec<_> = records.iter().map(|r| r["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    let mut both = [u64::from(target.pid()), u64::from(child)];
    both.sort_unstable();
    assert_eq!((pids, code), (both.to_vec(), Some(0)), "{records:#?}");
    assert!(records.iter().all(|r| address(&r["va"]) == va(7)));
    target.have_child_write(va(7));
    let (records, _) = mappings(pfn);
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["pid"], target.pid());
    Done::Passed
}

fn inside_a_huge_page() -> Done {
    let mut target = Target::start();
    if target.tell("thp", 0) == 0 {
        return Done::Skipped("this kernel gave no huge page".to_owned());
    }
    let place = HUGE_BASE + 77 * PAGE;
    let pfn = target.word(place).pfn().unwrap().0;
    let (records, code) = mappings(pfn);
    assert_eq!((records.len(), code), (1, Some(0)), "{records:#?}");
    assert_eq!(address(&records[0]["va"]), place);
    assert_eq!(records[0]["page_size"], HUGE);
    Done::Passed
}

/// That who says of a bad frame whose page was in it, and how that `went`.
pub(crate) fn assert_was_its(target: &Target, pfn: u64, va: u64, went: &str) {
    let said = in_words(pfn);
    let whose = format!("process {} (live", target.pid());
    let where_ = format!("had it at {va:#x}, {went}");
    assert!(said.contains(&whose) && said.contains(&where_), "{said}");
}

/// Each page is told, and the memory that it takes does not grow with them.
fn many() -> Done {
    const MANY: u64 = 200_000;
    const AT: u64 = 0x6500_0000_0000;
    const POPULATE_READ: u64 = 22;
    const NO_HUGE_PAGES: u64 = 15;
    let Some(zero) = v2p::page::zero_pfn().unwrap() else {
        return Done::Skipped("the zero page's frame is not known here".to_owned());
    };
    let mut target = Target::start();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let arguments = [AT, MANY * PAGE, 3, flags.unsigned_abs().into(), u64::MAX, 0];
    assert_eq!(target.must(libc::SYS_mmap, &arguments), AT);
    // A kernel without huge pages does not know it.
    target.call(libc::SYS_madvise, &[AT, MANY * PAGE, NO_HUGE_PAGES]);
    target.must(libc::SYS_madvise, &[AT, MANY * PAGE, POPULATE_READ]);
    let peak = |pfn: u64| {
        let mut who = harness::v2p()
            .args(["who", "--json", &format!("pfn:{pfn}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut next = AT;
        for line in BufReader::new(who.stdout.take().unwrap()).lines() {
            let record: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if record["pid"] == target.pid() && address(&record["va"]) == next {
                next += PAGE;
            }
        }
        let (status, peak) = harness::wait_for_peak(who);
        assert!(status.code().is_some_and(|code| code <= 1), "{status}");
        (peak, (next - AT) / PAGE)
    };
    let (without, none) = peak(1 << 39);
    let (with, all) = peak(zero.0);
    assert_eq!((none, all), (0, MANY));
    assert!(
        with < without + 16 * 1024,
        "{with} KiB, and {without} without any"
    );
    Done::Passed
}

/// Its entry is one of a migration time and again, which fails each time, since the page is pinned: it stays in its frame.
fn moved_in_vain() -> Done {
    if let Err(why) = two_nodes() {
        return Done::Skipped(why);
    }
    let page = OwnPage::new().unwrap();
    let va = page.va();
    let _pin = match Pin::new(va, 4096) {
        Ok(pin) => pin,
        Err(why) => return Done::Skipped(why),
    };
    let pagemap = Pagemap::of_self().unwrap();
    let pfn = pagemap.word(va).unwrap().unwrap().pfn().unwrap().0;
    let (this, over) = (std::process::id(), AtomicBool::new(false));
    thread::scope(|scope| {
        let _ends = WhenDone(&over);
        scope.spawn(|| {
            for node in [0, 1].into_iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                move_pages(this, &[va.0], node);
            }
        });
        for _ in 0..20 {
            let (found, code) = mappings(pfn);
            assert_eq!((found.len(), code), (1, Some(0)), "{found:#?}");
            assert_eq!(address(&found[0]["va"]), va.0);
        }
    });
    Done::Passed
}

/// What it says in words of a frame that nobody maps.
fn in_words(pfn: u64) -> String {
    let output = harness::run(&["who", &format!("pfn:{pfn}")]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

fn in_the_pool() -> Done {
    let Some(_pool) = Setting::change("/proc/sys/vm/nr_hugepages", "4") else {
        return Done::Skipped("this kernel has no hugetlb".to_owned());
    };
    let mut target = Target::start();
    if target.tell("hugetlb", 0) == 0 {
        return Done::Skipped("this kernel gave no hugetlb page".to_owned());
    }
    let first = target.word(HUGE_BASE).pfn().unwrap().0;
    assert_eq!(mappings(first + 5).0.len(), 1);
    target.end();
    for pfn in [first, first + 5] {
        let text = in_words(pfn);
        assert!(text.contains("a huge page of the pool"), "{text}");
    }
    Done::Passed
}
