//! A long watch: what it holds in memory stays the same, what it tells and what it lost is all that happened by the target's
//! own count, and where its moves end is where the pages are.
//!
//! V2P_SOAK_SECONDS says how long; `cargo xtask soak` sets it. Two watches at a time: of a storm, whose every move is followed, and of a
//! target that does one thing faster than it can be told, while v2p is stopped now and then, so that much is lost and none uncounted.

mod storm;
mod tally;

use std::{
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use rustix::process::Signal;
use v2p::{common::VirtAddr, process::Pagemap};

use self::{
    storm::Storm,
    tally::{Reader, State},
};
use crate::{
    Done, harness, leavings,
    machine::{self, Setting},
    target::{PAGE, PAGES, Target, va},
    trial,
};

pub(crate) use storm::run;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a_long_watch_stays_small_and_true", soak)]
}

const SECONDS: &str = "V2P_SOAK_SECONDS";
/// What the memory of a watch may grow by, once it runs; and what it may be, with a full ring in it.
const MORE_KIB: u64 = 1024;
const MOST_KIB: u64 = 64 << 10;

fn seconds() -> f64 {
    std::env::var(SECONDS).map_or(20.0, |s| s.parse().unwrap())
}

fn soak() -> Done {
    if let Err(reason) = machine::two_nodes() {
        return Done::Skipped(reason);
    }
    let swaps = machine::swap_on_zram();
    // What the kernel would do of its own accord, and the targets would not count.
    let _quiet = [
        Setting::change("/proc/sys/kernel/numa_balancing", "0"),
        Setting::change("/proc/sys/vm/compaction_proactiveness", "0"),
    ];
    println!(
        "soak: Linux {}, {} s{}",
        v2p::kernel::release(),
        seconds(),
        swaps
            .as_ref()
            .err()
            .map_or_else(String::new, |why| format!("; no page-out: {why}"))
    );
    let mut storm = Storm::start(swaps.is_ok());
    let mut churned = Churned::start();
    let stormy = Watched::start(storm.pid(), &["--faults", &storm::range()]);
    // Told of one page alone, all events come all the same.
    let flooded = Watched::start(churned.target.pid(), &[&churned.range]);
    let mut memory = [Memory::of("storm", &stormy), Memory::of("flood", &flooded)];
    storm.begin();
    let (start, length) = (Instant::now(), Duration::from_secs_f64(seconds()));
    // In one of twenty v2p is stopped.
    while start.elapsed() < length || churned.rounds < 20 {
        churned.round(&flooded);
        if start.elapsed() > length / 5 {
            memory.iter_mut().for_each(Memory::sample);
        }
    }
    let truth = storm.end();
    let told = stormy.finish();
    let lost = churned.compare(flooded);
    told.compare(&truth);
    memory.iter().for_each(Memory::compare);
    same_places(&told.places, storm.pid());
    assert!(lost > 0, "v2p was stopped, and lost nothing");
    Done::Passed
}

/// A running watch and who reads what it says.
struct Watched {
    child: Child,
    reader: Reader,
}

impl Watched {
    fn start(pid: u32, more: &[&str]) -> Self {
        let mut child = harness::v2p()
            .args(["watch", "--json", "--pid", &pid.to_string()])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = Reader::of(child.stdout.take().unwrap());
        Self { child, reader }
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn finish(mut self) -> tally::Tally {
        self.signal(Signal::INT);
        let tally = self.reader.finish();
        assert!(self.child.wait().unwrap().success());
        tally
    }
}

/// A target that writes to its pages and throws them away: a fault a page and a look a time, and nothing else.
struct Churned {
    target: Target,
    range: String,
    times: u64,
    rounds: u64,
}

impl Churned {
    /// What it needs for that is in its memory already.
    fn start() -> Self {
        let mut target = Target::start();
        // So that one lane has all its faults, and overflows.
        target.stay_on_first_cpu();
        (0..3).for_each(|_| target.churn(va(0), PAGES, 10));
        Self {
            target,
            range: format!("{:#x}..{:#x}", va(0), va(1)),
            times: 0,
            rounds: 0,
        }
    }

    fn round(&mut self, watched: &Watched) {
        self.rounds += 1;
        let times = if self.rounds.is_multiple_of(20) {
            watched.signal(Signal::STOP);
            self.churn(4000);
            watched.signal(Signal::CONT);
            4000
        } else {
            self.churn(50);
            50
        };
        self.times += times;
        thread::sleep(Duration::from_millis(100));
    }

    fn churn(&mut self, times: u64) {
        self.target.churn(va(0), PAGES, times);
    }

    /// What came and what was lost is all that it did; gives what was lost.
    fn compare(&self, watched: Watched) -> u64 {
        let end = watched.finish().end;
        let count = |name: &str| end[name].as_u64().unwrap();
        let (events, lost) = (count("events"), count("lost"));
        let truth = self.times * (PAGES + 1);
        println!("soak: flood: {events} events told + {lost} lost; the target counted {truth}");
        assert_eq!(events + lost, truth, "{end}");
        lost
    }
}

/// What a watch has resident of its own, in KiB, from when it runs on. What a full ring holds is read at once, and given back.
struct Memory {
    name: &'static str,
    pid: u32,
    samples: Vec<u64>,
}

impl Memory {
    fn of(name: &'static str, watched: &Watched) -> Self {
        Self {
            name,
            pid: watched.child.id(),
            samples: Vec::new(),
        }
    }

    fn sample(&mut self) {
        self.samples.push(leavings::resident(self.pid) >> 10);
    }

    /// What it comes back to is the same in the second half as in the first.
    fn compare(&self) {
        let Self { name, samples, .. } = self;
        let (first, second) = samples.split_at(samples.len() / 2);
        let least = |samples: &[u64]| samples.iter().min().copied().unwrap();
        let (before, after) = (least(first), least(second));
        let most = samples.iter().max().unwrap();
        println!(
            "soak: {name}: RssAnon at least {before} KiB in the first half, {after} KiB in the second, at most {most} KiB; {} samples",
            samples.len()
        );
        assert!(after <= before + MORE_KIB, "{name}: it grew");
        assert!(*most <= MOST_KIB, "{name}: it is large");
    }
}

/// The storm is over, and its pages are where the last moves said.
fn same_places(places: &tally::Places, pid: u32) {
    let (pagemap, mut wrong) = (Pagemap::of(pid).unwrap(), 0);
    for va in (0..storm::PAGES).map(|i| storm::START + i * PAGE) {
        let word = pagemap.word(VirtAddr(va)).unwrap().unwrap();
        let is = State::of_word(word);
        let told = places.get(&va).copied().unwrap_or(State::Absent);
        if is != told {
            println!("soak: {va:#x} is {is:?}, and was told to be {told:?}");
            wrong += 1;
        }
    }
    println!(
        "soak: in the end {} of {} pages are not where the moves say",
        wrong,
        storm::PAGES
    );
    assert_eq!(wrong, 0);
}
