//! What changes while it is read: a target that ends or executes another program, processes that come and go, pages that move.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader, Read as _},
    panic::panic_any,
    process::{Child, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use serde_json::Value;
use v2p::{
    common::VirtAddr,
    process::{Pagemap, maps::Mapping},
    state::PageState,
    translate::{Page, Route, Translator, Verdict},
};

use crate::{
    Again, Done, WhenDone,
    harness::{self, PATIENCE},
    machine::{self, Setting},
    memory::{HUGE, HUGE_BASE},
    target::{PAGE, PAGES, Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_target_that_ends_half_way_is_said", ends),
        trial(
            "a_target_that_executes_another_program_half_way_is_said",
            executes,
        ),
        trial(
            "a_borrower_of_memory_that_executes_half_way_is_said",
            borrower_executes,
        ),
        trial("who_leaves_out_what_ends_half_way", who_among_others),
        trial("memory_is_found_where_threads_come_and_go", a_relay),
        trial("a_bar_is_shown_to_a_person_who_waits", a_bar),
        trial(
            "a_small_page_in_migration_is_told",
            small_pages_in_migration,
        ),
        trial("a_huge_page_in_migration_is_told", a_huge_page_in_migration),
        trial(
            "a_hugetlb_page_in_migration_is_told",
            a_hugetlb_page_in_migration,
        ),
    ]
}

/// In a TiB: each has a page, and is read with the rest of its page table.
const PLACES: u64 = 200;

/// A translation that has said its first line and waits, since nobody reads more: what is left is more than a pipe holds.
struct Halfway {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    start: u64,
}

impl Halfway {
    /// Of `pid`, which has the memory of `target`.
    fn of(pid: u32, target: &mut Target, route: &str, stderr: Stdio) -> Self {
        let start = target.tell("reserve", PLACES);
        let range = format!("{start:#x}+1024G");
        let pid = pid.to_string();
        let json: &[&str] = if route == "text" {
            &[]
        } else {
            &["--json", "--route", route]
        };
        let mut child = harness::v2p()
            .args(["translate", "--each", "--pid", &pid, &range])
            .args(json)
            .env("TERM", "xterm")
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::with_capacity(512, child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        Self {
            child,
            stdout,
            start,
        }
    }

    /// Lets it go on; gives the lines after the first, and how it ended.
    fn finish(mut self) -> (Vec<String>, Output) {
        let lines = self.stdout.by_ref().lines().map(Result::unwrap).collect();
        (lines, self.child.wait_with_output().unwrap())
    }
}

/// Half way through what `whose` says, `change` is done: what was said before stands, the rest is an error.
fn assert_cut_off(whose: impl Fn(&mut Target) -> u32, change: impl Fn(&mut Target), says: &str) {
    for route in ["walk", "both"] {
        let mut target = Target::start();
        let pid = whose(&mut target);
        let halfway = Halfway::of(pid, &mut target, route, Stdio::piped());
        let start = halfway.start;
        change(&mut target);
        let (lines, output) = halfway.finish();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            errors,
            format!("v2p: translate: process {pid} {says} during the reading\n")
        );
        assert_eq!(output.status.code(), Some(1), "{errors}");
        // As the target has written them.
        let written = (0..PLACES).map(|i| i * ((1 << 40) / PLACES) / PAGE * PAGE);
        let written: HashSet<u64> = written.collect();
        for line in &lines {
            let run: Value = serde_json::from_str(line).unwrap();
            // Nothing of another program, and no end that would say that all was read.
            assert_eq!(run["type"], "run", "{line}");
            let at = harness::address(&run["va"]) - start;
            assert!(at < 1 << 40, "{line}");
            // What lies between two of them is absent.
            assert!(written.contains(&at) || run["state"] == "absent", "{line}");
            assert_ne!(run["verdict"], "disagree", "{line}");
        }
    }
}

fn ends() -> Done {
    assert_cut_off(|target| target.pid(), Target::kill, "ended");
    Done::Passed
}

fn executes() -> Done {
    let says = "executed another program";
    assert_cut_off(|target| target.pid(), Target::execute, says);
    Done::Passed
}

/// What it had is there still: it is its parent's.
fn borrower_executes() -> Done {
    let borrower = |target: &mut Target| u32::try_from(target.tell("lend", 0)).unwrap();
    let executes = |target: &mut Target| assert_eq!(target.tell("have-borrower-execute", 0), 0);
    assert_cut_off(borrower, executes, "executed another program");
    Done::Passed
}

fn who_among_others() -> Done {
    let mut target = Target::start();
    let pfn = format!("pfn:{}", target.tell("write", 6));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = WhenDone(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(harness::run(&["--version"]).status.success());
            }
        });
        for _ in 0..5 {
            let output = harness::run(&["who", "--json", &pfn]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let whole = output.stderr.is_empty() && text.lines().count() == 2;
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(whole && output.status.success(), "{text}{errors}");
            let mapping: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
            assert_eq!(mapping["pid"], target.pid(), "{text}");
        }
    });
    Done::Passed
}

/// No thread of it lives long, and the main one does not.
fn a_relay() -> Done {
    let mut target = Target::start();
    let pfn = target.tell("write", 6);
    assert_eq!(target.tell("leave-to-a-relay", 0), 1);
    let pid = target.pid().to_string();
    for _ in 0..10 {
        let output = harness::run(&[
            "translate",
            "--json",
            "--pid",
            &pid,
            &format!("{:#x}", va(6)),
        ]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let run: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(run["pfn"], pfn, "{text}");
        let output = harness::run(&["who", "--json", &format!("pfn:{pfn}")]);
        assert!(output.status.success(), "{output:?}");
    }
    Done::Passed
}

fn a_bar() -> Done {
    let (master, slave) = match harness::terminal() {
        Ok(pair) => pair,
        Err(reason) => return Done::Skipped(reason),
    };
    // It takes more than a second since nobody reads what it says.
    let wait = || thread::sleep(Duration::from_millis(1100));
    let mut target = Target::start();
    let halfway = Halfway::of(target.pid(), &mut target, "text", slave.into());
    // All the while, as a terminal does: it holds few bars that nobody has seen.
    let person = thread::spawn(move || {
        let mut shown = Vec::new();
        // Its end is an error: nobody has the other side any more.
        let _ = std::fs::File::from(master).read_to_end(&mut shown);
        shown
    });
    wait();
    assert!(halfway.finish().1.status.success());
    let shown = person.join().unwrap();
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains('%') && shown.contains(" of about "),
        "{shown:?}"
    );

    for route in ["text", "both"] {
        let mut target = Target::start();
        let halfway = Halfway::of(target.pid(), &mut target, route, Stdio::piped());
        wait();
        let output = halfway.finish().1;
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "no bar, since nobody looks"
        );
    }
    Done::Passed
}

/// Moves the pages at `addresses` of process `pid` to `node`: move_pages(2).
pub(crate) fn move_pages(pid: u32, addresses: &[u64], node: i32) {
    let nodes = vec![node; addresses.len()];
    let mut status = vec![0i32; addresses.len()];
    let (count, how) = (addresses.len(), 1 << 1); // MPOL_MF_MOVE
    // SAFETY: the three arrays have as many elements as the count says, and outlive the call. What does not move stays.
    unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            pid,
            count,
            addresses.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            how,
        )
    };
}

/// While the pages at `addresses` are moved between two nodes, to and fro, reads them by both routes until one was seen in
/// migration; gives that page. In every reading each page must be in a frame that it had, or leave one, and the routes must not disagree.
fn in_migration(target: &Target, addresses: &[u64]) -> Result<Page, String> {
    machine::two_nodes()?;
    let pagemap = Pagemap::of(target.pid()).unwrap();
    let (start, end) = (addresses[0], addresses[addresses.len() - 1] + PAGE);
    let mapping = Mapping {
        start,
        end,
        writable: true,
        name: String::new(),
    };
    let frames = Mutex::new(HashSet::new());
    let note = |frames: &mut HashSet<_>| {
        pagemap
            .words(VirtAddr(start), VirtAddr(end), |va, word| {
                frames.extend(word.pfn().map(|pfn| (va.0, pfn)));
            })
            .unwrap();
    };
    note(&mut frames.lock().unwrap());
    let mut translator = Translator::new(Route::Both).map_err(|e| format!("{e:#}"))?;
    let over = AtomicBool::new(false);
    let (mut named, mut met, mut readings) = (HashSet::new(), None, 0u64);
    thread::scope(|scope| {
        let _ends = WhenDone(&over);
        scope.spawn(|| {
            for node in [1, 0].into_iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                move_pages(target.pid(), addresses, node);
                note(&mut frames.lock().unwrap());
            }
        });
        let deadline = Instant::now() + PATIENCE / 2;
        while met.is_none() && Instant::now() < deadline {
            let each = &mut |page: Page, pages| {
                assert_ne!(page.verdict, Verdict::Disagree, "{page:x?}");
                match page.state {
                    PageState::Present { .. } => {}
                    PageState::Migrating { .. } => met = Some(page),
                    _ => panic!("{pages} of {page:x?}"),
                }
                named.extend(page.named_frame().map(|pfn| (page.va.0, pfn)));
                Ok(())
            };
            let read = translator.mapping(&pagemap, &mapping, each);
            assert!(matches!(read, Ok(true)), "{read:?}");
            readings += 1;
        }
    });
    let frames = frames.into_inner().unwrap();
    let unknown: Vec<_> = named.difference(&frames).collect();
    assert!(unknown.is_empty(), "{unknown:x?} in {readings} readings");
    let why = || {
        Again(format!(
            "no page was met in migration in {readings} readings"
        ))
    };
    Ok(met.unwrap_or_else(|| panic_any(why())))
}

fn done(found: Result<Page, String>, verdicts: &[Verdict]) -> Done {
    match found {
        Ok(page) => {
            assert!(verdicts.contains(&page.verdict), "{page:x?}");
            Done::Passed
        }
        Err(why) => Done::Skipped(why),
    }
}

fn small_pages_in_migration() -> Done {
    let mut target = Target::start();
    (0..PAGES).for_each(|i| _ = target.tell("write", i));
    let addresses: Vec<_> = (0..PAGES).map(va).collect();
    done(
        in_migration(&target, &addresses),
        &[Verdict::Agree, Verdict::Moved],
    )
}

fn a_huge_page_in_migration() -> Done {
    let mut target = Target::start();
    if target.tell("thp", 0) == 0 {
        return Done::Skipped("this kernel gave no transparent huge page".to_owned());
    }
    done(
        in_migration(&target, &huge_page()),
        &[Verdict::Agree, Verdict::Moved],
    )
}

fn a_hugetlb_page_in_migration() -> Done {
    let Some(_pool) = Setting::change("/proc/sys/vm/nr_hugepages", "8") else {
        return Done::Skipped("this kernel has no hugetlb".to_owned());
    };
    let mut target = Target::start();
    if target.tell("hugetlb", 0) == 0 {
        return Done::Skipped("this kernel gave no hugetlb page".to_owned());
    }
    // Where pagemap has no word for it, the walk alone can tell.
    let verdicts = [Verdict::Agree, Verdict::Moved, Verdict::Single];
    done(in_migration(&target, &huge_page()), &verdicts)
}

/// The first and the last page of the huge one: moving one moves all.
fn huge_page() -> [u64; 2] {
    [HUGE_BASE, HUGE_BASE + HUGE - PAGE]
}
