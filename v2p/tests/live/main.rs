//! Tests against a running kernel, as root: this machine's own, and those of the lab's guests, where
//! `cargo xtask test` runs this same program.
//!
//! What a kernel cannot show is skipped with its reason. The lab says in V2P_LAB_DEVMEM what
//! /dev/mem is expected to answer there: `open`, or the id of the check that denies.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod badly;
mod burst;
mod commanded;
mod contest;
mod copies;
mod deeds;
mod delivery;
mod demo;
mod doctor;
mod ends;
mod examples;
mod exchange;
mod faults;
mod follow;
mod goes;
mod harness;
mod input;
mod kin;
mod leavings;
mod machine;
mod many;
mod map;
mod mechanism;
mod memory;
mod midway;
mod secret;
mod signals;
mod soak;
mod states;
mod stepped;
mod target;
mod threads;
mod top;
mod trace;
mod translate;
mod trouble;
mod user;
mod walk;
mod watch;
mod who;
mod write;

use std::{
    panic,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Completion, Trial};

fn main() {
    if let Some(kind) = std::env::var_os(target::KIND) {
        match kind.to_str() {
            Some("stopper") => write::stop_and_wait(),
            Some("stop-once") => write::stop_once(),
            Some("storm") => write::storm::run(),
            Some("top-panics") => top::panic_in_view(),
            Some("soak") => soak::run(),
            _ => target::run(&kind),
        }
        return;
    }
    // Whoever started us may ignore some (nohup, a shell's background), and what is ignored is inherited.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the default action needs no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    keep_memory();
    let mut arguments = Arguments::from_args();
    // They move pages of the whole machine, and would move each other's.
    arguments.test_threads = Some(1);
    let families = [
        ("demo", demo::trials()),
        ("doctor", doctor::trials()),
        ("boot", doctor::trials_of_a_boot()),
        ("watch", watch::trials()),
        ("watch", faults::trials()),
        ("watch", ends::trials()),
        ("watch", badly::trials()),
        ("watch", contest::trials()),
        ("follow", follow::trials()),
        ("delivery", delivery::trials()),
        ("burst", burst::trials()),
        ("leavings", leavings::trials()),
        ("mechanism", mechanism::trials()),
        ("walk", walk::trials()),
        ("translate", translate::trials()),
        ("translate", many::trials()),
        ("translate", exchange::trials()),
        ("translate", who::trials()),
        ("map", map::trials()),
        ("top", top::trials()),
        ("trace", trace::trials()),
        ("examples", examples::trials()),
        ("states", states::trials()),
        ("states", goes::trials()),
        ("states", copies::trials()),
        ("states", user::trials()),
        ("midway", midway::trials()),
        ("input", input::trials()),
        ("trouble", trouble::trials()),
        ("signals", signals::trials()),
        ("signals", commanded::trials()),
        ("write", write::trials()),
        ("storm", write::storm::trials()),
        ("soak", soak::trials()),
    ];
    let named = |(family, trials): (&str, Vec<Trial>)| {
        let family = family.to_owned();
        trials
            .into_iter()
            .map(move |trial| trial.with_kind(family.clone()))
    };
    let trials = families.into_iter().flat_map(named).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// What this program gives back to the kernel runs the hooks of a watch, and where v2p does the same on that CPU 7.x may skip them.
fn keep_memory() {
    for (what, bytes) in [
        (libc::M_MMAP_THRESHOLD, 32 << 20),
        (libc::M_TRIM_THRESHOLD, i32::MAX),
    ] {
        // SAFETY: two numbers, and no memory.
        unsafe { libc::mallopt(what, bytes) };
    }
}

/// A test that takes longer is told: they are what a run of all tests waits for.
const SLOW: Duration = Duration::from_secs(5);

/// Says so to the thread that waits for it, also where a test fails half way.
struct WhenDone<'a>(&'a AtomicBool);

impl Drop for WhenDone<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How a test ends that did not fail.
enum Done {
    Passed,
    Skipped(String),
}

/// How often a test is done at most that is to be done again.
const TIMES: u32 = 8;

/// A test, which is skipped without root, and done again where [`Again`] says so, some times.
fn trial(name: &'static str, test: fn() -> Done) -> Trial {
    let some_times = move || {
        let mut times = 0;
        loop {
            let what = match panic::catch_unwind(test) {
                Ok(done) => return done,
                Err(what) => what,
            };
            times += 1;
            match what.downcast::<Again>() {
                Ok(again) if times < TIMES => eprintln!("{name}: again: {}", again.0),
                Ok(again) => panic!("{}", again.0),
                Err(what) => panic::resume_unwind(what),
            }
        }
    };
    make(name, some_times, true)
}

/// The payload of a panic where the same is to be done again, and why: the kernel skipped a hook of the watch, which was told (7.x runs
/// hooks with preemption on, and skips one that another process's is in on that CPU); or the machine did to the pages what the test
/// was to do, or moved them when nothing was to move.
struct Again(String);

/// A test that is not.
fn trial_for_all(name: &str, test: fn() -> Done) -> Trial {
    make(name, test, false)
}

fn make(name: &str, test: impl FnOnce() -> Done + Send + 'static, wants_root: bool) -> Trial {
    let told = name.to_owned();
    Trial::ignorable_test(name, move || {
        let ignored = |reason: String| Completion::Ignored {
            reason: Some(reason),
        };
        if wants_root && !rustix::process::geteuid().is_root() {
            return Ok(ignored("it needs root".to_owned()));
        }
        let start = Instant::now();
        let done = test();
        let took = start.elapsed();
        if took > SLOW {
            // stdout has libtest's lines, which others read.
            eprintln!("slow: {:.1} s: {told}", took.as_secs_f64());
        }
        match done {
            Done::Passed => Ok(Completion::Completed),
            Done::Skipped(reason) => Ok(ignored(reason)),
        }
    })
}
