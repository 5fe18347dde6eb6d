//! What a watch says, followed as it comes: nothing is kept but counts and where each page is.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead as _, BufReader},
    process::ChildStdout,
    sync::mpsc::channel,
    thread::JoinHandle,
};

use serde_json::Value;
use v2p::common::pagemap::{PagemapState, PagemapWord};

use super::storm::COUNTED;
use crate::{
    harness::{PATIENCE, address},
    target::PAGE,
};

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Absent,
    Present(u64),
    Swapped { device: u64, offset: u64 },
}

impl State {
    pub(super) fn of_word(word: PagemapWord) -> Self {
        match word.state() {
            PagemapState::Absent => Self::Absent,
            PagemapState::Present(pfn) => Self::Present(pfn.0),
            PagemapState::SwapEntry { kind, offset } => Self::Swapped {
                device: u64::from(kind),
                offset,
            },
            other => panic!("{other:?}"),
        }
    }

    /// Of a record, `i` pages on.
    fn of_record(state: &Value, i: u64) -> Self {
        match state["state"].as_str().unwrap() {
            "absent" => Self::Absent,
            "present" => Self::Present(state["pfn"].as_u64().unwrap() + i),
            "swapped" => Self::Swapped {
                device: state["swap"]["device"].as_u64().unwrap(),
                offset: state["swap"]["offset"].as_u64().unwrap() + i,
            },
            other => panic!("{other}: {state}"),
        }
    }
}

/// By address; absent where there is none.
pub(super) type Places = HashMap<u64, State>;

/// What was said so far.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) places: Places,
    /// Pages that moved, by cause.
    moved: BTreeMap<String, u64>,
    reconciled: u64,
    faults: u64,
    lost: u64,
    /// Moves that do not start where the last one ended.
    broken: Vec<Value>,
    pub(super) end: Value,
}

impl Tally {
    fn take(&mut self, record: Value) {
        match record["type"].as_str().unwrap() {
            "fault" => self.faults += 1,
            "lost" => self.lost += record["events"].as_u64().unwrap(),
            "move" => self.follow(record),
            "end" => self.end = record,
            other => panic!("{other}"),
        }
    }

    fn follow(&mut self, record: Value) {
        let pages = record["pages"].as_u64().unwrap();
        let cause = record["cause"].as_str().unwrap().to_owned();
        *self.moved.entry(cause).or_default() += pages;
        self.reconciled += u64::from(record["proof"] != "event");
        let start = address(&record["va"]);
        let mut follows = true;
        for i in 0..pages {
            let from = State::of_record(&record["from"], i);
            let to = State::of_record(&record["to"], i);
            let was = self.places.insert(start + i * PAGE, to);
            follows &= was.unwrap_or(State::Absent) == from;
        }
        if !follows && self.broken.len() < 10 {
            self.broken.push(record);
        }
    }

    /// All that the target counted was told; or, where something was lost, no more than that is missing.
    pub(super) fn compare(&self, truth: &[u64]) {
        let count = |name: &str| self.end[name].as_u64().unwrap();
        assert_eq!((self.faults, self.lost), (count("faults"), count("lost")));
        assert_eq!(self.reconciled, count("reconciled"));
        println!(
            "soak: storm: {} events, {} moves told, {} lost, {} reconciled",
            count("events"),
            count("moves"),
            self.lost,
            self.reconciled
        );
        let told = |what: &str| match what {
            "faults" => self.faults,
            cause => self.moved.get(cause).copied().unwrap_or(0),
        };
        for (what, truth) in COUNTED.iter().zip(truth) {
            println!(
                "soak: storm: {what}: {} told, the target counted {truth}",
                told(what)
            );
        }
        for (what, truth) in COUNTED.iter().zip(truth) {
            let told = told(what);
            assert!(told <= *truth && *truth <= told + self.lost, "{what}");
        }
        let others = self.moved.keys().filter(|c| !COUNTED.contains(&c.as_str()));
        let others: Vec<_> = others.collect();
        assert!(others.is_empty() || self.lost > 0, "{others:?}");
        assert!(self.broken.is_empty(), "{:#?}", self.broken);
        assert!(self.reconciled <= self.lost, "{}", self.end);
    }
}

/// A thread that reads what a watch says.
pub(super) struct Reader(JoinHandle<Tally>);

impl Reader {
    /// Waits for the start record.
    pub(super) fn of(stdout: ChildStdout) -> Self {
        let (started, start) = channel();
        let read = move || {
            let mut tally = Tally::default();
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let record: Value = serde_json::from_str(&line).unwrap();
                if record["type"] == "start" {
                    started.send(()).unwrap();
                } else {
                    tally.take(record);
                }
            }
            tally
        };
        let reader = Self(std::thread::spawn(read));
        start.recv_timeout(PATIENCE).expect("a start record");
        reader
    }

    /// All that it said, to its end.
    pub(super) fn finish(self) -> Tally {
        self.0.join().unwrap()
    }
}
