//! A movement made on purpose in a target, while a stranger at the same addresses makes it too; what the watch told is held
//! against what pagemap says before and after.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use serde_json::Value;
use v2p::{
    common::{
        PAGE_SIZE, Pfn, VirtAddr,
        pagemap::{PagemapState, PagemapWord},
    },
    process::{FrameFlags, Pagemap, frame_flags},
};

use crate::{
    Again,
    harness::{Watching, address},
    target::Target,
};

/// A number of pages from an address on.
pub(crate) type Area = (u64, u64);

/// What lies behind a page, as v2p writes it: the state, and its frame or place.
type State = (String, Option<u64>);

/// The target, the stranger, and what is watched.
pub(crate) struct Scene {
    pub(crate) target: Target,
    stranger: Target,
    areas: Vec<Area>,
    pid: u32,
    watching: Option<Watching>,
    before: BTreeMap<u64, State>,
}

/// What the watch told of the areas.
pub(crate) struct Told {
    pub(crate) moves: Vec<Value>,
    /// Those that were shown.
    pub(crate) faults: Vec<Value>,
    pub(crate) pid: u32,
    /// Whether the hooks on functions were live.
    pub(crate) functions: bool,
    /// Whether a hook was live that tells of pages that come with the one that was touched.
    pub(crate) neighbours: bool,
    causes: BTreeMap<u64, Vec<String>>,
}

impl Scene {
    /// Both, which have done `prepare`, with the watch on the target's `areas` begun.
    pub(crate) fn new(areas: &[Area], prepare: impl FnMut(&mut Target)) -> Self {
        Self::with(&[], areas, prepare, |target| target.pid())
    }

    /// The same, with faults shown.
    pub(crate) fn showing_faults(areas: &[Area], prepare: impl FnMut(&mut Target)) -> Self {
        Self::with(&["--faults"], areas, prepare, |target| target.pid())
    }

    /// The same as [`Self::new`], with the watch on the process that `who` names.
    pub(crate) fn of(
        areas: &[Area],
        prepare: impl FnMut(&mut Target),
        who: impl FnOnce(&mut Target) -> u32,
    ) -> Self {
        Self::with(&[], areas, prepare, who)
    }

    fn with(
        options: &[&str],
        areas: &[Area],
        mut prepare: impl FnMut(&mut Target),
        who: impl FnOnce(&mut Target) -> u32,
    ) -> Self {
        let (mut target, mut stranger) = (Target::start(), Target::start());
        prepare(&mut target);
        prepare(&mut stranger);
        let pid = who(&mut target);
        let mut arguments = vec!["--pid".to_owned(), pid.to_string()];
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        arguments.extend(
            areas
                .iter()
                .map(|(start, pages)| format!("{start:#x}..{:#x}", start + pages * PAGE_SIZE)),
        );
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let before = states(pid, areas);
        let watching = Watching::start(&arguments);
        at_rest(&before, &states(pid, areas));
        Self {
            target,
            stranger,
            areas: areas.to_vec(),
            pid,
            watching: Some(watching),
            before,
        }
    }

    /// Has both do it at the same time; gives what the target answered.
    pub(crate) fn act<T>(&mut self, deed: impl Fn(&mut Target) -> T + Sync) -> T {
        let Self {
            target, stranger, ..
        } = self;
        thread::scope(|scope| {
            let other = scope.spawn(|| _ = deed(stranger));
            let done = deed(target);
            if let Err(what) = other.join() {
                std::panic::resume_unwind(what);
            }
            done
        })
    }

    /// Waits until `pages` pages were told as moved for this cause.
    pub(crate) fn wait_for(&mut self, cause: &str, pages: u64) {
        let mut told = 0;
        let watching = self.watching.as_mut().unwrap();
        watching.wait_for(|r| {
            if r["type"] == "move" && r["cause"] == cause {
                told += r["pages"].as_u64().unwrap();
            }
            told >= pages
        });
    }

    /// Ends the watch, and holds what it told against the truth: for each page the moves follow each other from
    /// what was there before to what is there now.
    pub(crate) fn end(mut self) -> Told {
        let after = states(self.pid, &self.areas);
        let (records, status) = self.watching.take().unwrap().interrupt();
        assert!(status.success());
        at_rest(&after, &states(self.pid, &self.areas));
        self.told(&records, &after)
    }

    /// The same, where the target itself ends: nothing is there then.
    pub(crate) fn end_with_target(mut self) -> Told {
        self.target.end_unreaped();
        let (records, _) = self.watching.take().unwrap().finish();
        self.told(&records, &BTreeMap::new())
    }

    fn told(&self, records: &[Value], after: &BTreeMap<u64, State>) -> Told {
        let end = records.last().unwrap();
        assert_eq!(end["type"], "end");
        if end["lost"] != 0 {
            std::panic::panic_any(Again("events were lost, and told".to_owned()));
        }
        let inside = |va: u64| {
            self.areas
                .iter()
                .any(|(start, pages)| (*start..start + pages * PAGE_SIZE).contains(&va))
        };
        let of_type = |kind: &str| -> Vec<Value> {
            records
                .iter()
                .filter(|r| r["type"] == kind && inside(address(&r["va"])))
                .cloned()
                .collect()
        };
        let (moves, faults) = (of_type("move"), of_type("fault"));
        let absent = || ("absent".to_owned(), None);
        let mut now = self.before.clone();
        let mut causes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for one in &moves {
            for i in 0..one["pages"].as_u64().unwrap() {
                let va = address(&one["va"]) + i * PAGE_SIZE;
                let known = now.get(&va).cloned().unwrap_or_else(absent);
                assert_eq!(
                    state(&one["from"], i),
                    known,
                    "{va:#x}: {one:#}\n{moves:#?}"
                );
                now.insert(va, state(&one["to"], i));
                let cause = one["cause"].as_str().unwrap().to_owned();
                causes.entry(va).or_default().push(cause);
            }
        }
        for (start, pages) in &self.areas {
            for va in (0..*pages).map(|i| start + i * PAGE_SIZE) {
                let told = now.get(&va).cloned().unwrap_or_else(absent);
                let truth = after.get(&va).cloned().unwrap_or_else(absent);
                assert_eq!(told, truth, "{va:#x} at the end: {moves:#?}");
            }
        }
        let start = records.iter().find(|r| r["type"] == "start").unwrap();
        let live = start["hooks"].as_array().unwrap();
        Told {
            moves,
            faults,
            pid: self.pid,
            functions: live.iter().any(|hook| hook == "try_to_unmap_one"),
            neighbours: ["set_pte_range", "do_set_pte", "mm_filemap_map_pages"]
                .iter()
                .any(|name| live.iter().any(|hook| hook == name)),
            causes,
        }
    }
}

impl Told {
    /// These causes, and no others, for every page of `area`; and no move of any other page.
    pub(crate) fn only(&self, area: Area, causes: &[&str]) -> &Self {
        self.just(area, causes);
        let range = area.0..area.0 + area.1 * PAGE_SIZE;
        let others: Vec<_> = self
            .causes
            .keys()
            .filter(|va| !range.contains(va))
            .collect();
        assert!(others.is_empty(), "{others:x?}: {:#?}", self.moves);
        self
    }

    /// These causes, and no others, for every page of `area`.
    pub(crate) fn just(&self, (start, pages): Area, causes: &[&str]) -> &Self {
        for va in (0..pages).map(|i| start + i * PAGE_SIZE) {
            assert_eq!(self.causes_of(va), causes, "{va:#x}: {:#?}", self.moves);
        }
        self
    }

    pub(crate) fn causes_of(&self, va: u64) -> &[String] {
        self.causes.get(&va).map_or(&[], Vec::as_slice)
    }

    /// No move at all.
    pub(crate) fn none(&self) -> &Self {
        assert!(self.moves.is_empty(), "{:#?}", self.moves);
        self
    }

    /// Every move of this cause was made by the thread `tid`, where an event told it.
    pub(crate) fn by(&self, cause: &str, tid: u32) -> &Self {
        for one in self.of_cause(cause).filter(|m| m["proof"] == "event") {
            assert_eq!(one["by"]["tid"], tid, "{one:#}");
        }
        self
    }

    /// Every move of this cause was made by a thread whose name begins so, where it is told by whom: with hooks on functions of some at least. A
    /// fault that finds a page replaced does not say.
    pub(crate) fn by_name(&self, cause: &str, name: &str) -> &Self {
        let mut named = false;
        for one in self.of_cause(cause) {
            if let Some(comm) = one["by"]["comm"].as_str() {
                assert!(comm.starts_with(name), "{one:#}");
                named = true;
            }
        }
        assert!(named || !self.functions, "{:#?}", self.moves);
        self
    }

    /// The page had one fault, of this kind.
    pub(crate) fn one_fault(&self, va: u64, major: bool) -> &Self {
        let of_page: Vec<_> = self
            .faults
            .iter()
            .filter(|f| address(&f["va"]) & !(PAGE_SIZE - 1) == va)
            .collect();
        assert!(
            of_page.len() == 1 && of_page[0]["major"] == major,
            "{:#?}",
            self.faults
        );
        self
    }

    /// Every move of this cause has this reason.
    pub(crate) fn reason(&self, cause: &str, reason: &str) -> &Self {
        for one in self.of_cause(cause) {
            // It was seen once (built-6.12, 2026-11-27) that it was not there by the end, and not found out why: null is no wrong answer.
            if one["reason"].is_null() && one["proof"] == "event" {
                std::panic::panic_any(Again("the reason was not there".to_owned()));
            }
            assert_eq!(one["reason"], reason, "{one:#}");
        }
        self
    }

    /// Nobody compacted meanwhile: what is asked for in large pieces wakes the kernel's own thread, which goes on for a while.
    pub(crate) fn uncompacted(&self) -> &Self {
        // Whose migration it is the kernel says when a batch of them is over.
        let compacted = |m: &Value| {
            m["reason"] == "compaction" || m["cause"] == "migration" && m["reason"].is_null()
        };
        if self.moves.iter().any(compacted) {
            std::panic::panic_any(Again("the kernel compacted meanwhile".to_owned()));
        }
        self
    }

    fn of_cause<'a>(&'a self, cause: &'a str) -> impl Iterator<Item = &'a Value> {
        self.moves.iter().filter(move |m| m["cause"] == cause)
    }

    /// Says how it was told, for the matrix; where the hooks on functions are live, by events alone.
    pub(crate) fn proven(&self, mechanism: &str) {
        self.told_as(mechanism, self.functions);
    }

    /// The same where an event is had on every kernel.
    pub(crate) fn by_event(&self, mechanism: &str) {
        self.told_as(mechanism, true);
    }

    /// The same where some pages come along with another, of which alone an event tells.
    pub(crate) fn in_part(&self, mechanism: &str) {
        self.told_as(mechanism, false);
    }

    /// Says how it was told, by events alone where it must be so.
    pub(crate) fn told_as(&self, mechanism: &str, must_be_events: bool) {
        let proofs: BTreeSet<_> = self
            .moves
            .iter()
            .filter_map(|m| m["proof"].as_str())
            .collect();
        if must_be_events {
            let compared = self.moves.iter().find(|m| m["proof"] != "event");
            assert!(compared.is_none(), "{compared:#?}");
        }
        let proofs: Vec<_> = proofs.into_iter().collect();
        let told = if proofs.is_empty() {
            "no move".to_owned()
        } else {
            proofs.join(", ")
        };
        println!("matrix: {mechanism}: {told}");
    }
}

fn at_rest(before: &BTreeMap<u64, State>, after: &BTreeMap<u64, State>) {
    let other = before
        .iter()
        .find(|(va, state)| after.get(va) != Some(state));
    let other = other.or_else(|| after.iter().find(|(va, _)| !before.contains_key(va)));
    if let Some((va, was)) = other {
        let what = format!("not at rest: {va:#x}: {was:?}, then {:?}", after.get(va));
        std::panic::panic_any(Again(what));
    }
}

/// A state of v2p's, `i` pages on.
fn state(one: &Value, i: u64) -> State {
    let name = one["state"].as_str().unwrap().to_owned();
    let place = one["pfn"]
        .as_u64()
        .or_else(|| Some(one["swap"]["offset"].as_u64()? << 5 | one["swap"]["device"].as_u64()?));
    (
        name,
        place.map(|place| {
            if one["pfn"].is_u64() {
                place + i
            } else {
                place + (i << 5)
            }
        }),
    )
}

/// Whether it is a page of zeros that all share.
fn is_zero(pfn: Pfn) -> bool {
    frame_flags(pfn).unwrap().has(FrameFlags::ZERO_PAGE)
}

/// Types of swap entries from here on are no swap areas; guests have one or two of those.
pub(crate) const FIRST_SPECIAL: u8 = 23;

/// What pagemap says of pages that are not absent.
fn states(pid: u32, areas: &[Area]) -> BTreeMap<u64, State> {
    let pagemap = Pagemap::of(pid).unwrap();
    let mut states = BTreeMap::new();
    for (start, pages) in areas {
        let end = VirtAddr(start + pages * PAGE_SIZE);
        let each = |va: VirtAddr, word: PagemapWord| {
            let state = match word.state() {
                PagemapState::Absent => return,
                PagemapState::Present(pfn) if is_zero(pfn) => ("zero", None),
                PagemapState::Present(pfn) => ("present", Some(pfn.0)),
                // Type 31 is a marker: of poison, or of a guard region.
                PagemapState::SwapEntry { kind: 31, .. } => ("poisoned", None),
                PagemapState::SwapEntry { kind, offset } if kind < FIRST_SPECIAL => {
                    ("swapped", Some(offset << 5 | u64::from(kind)))
                }
                PagemapState::SwapEntry { .. } => ("poisoned", None),
                other => panic!("{other:?}"),
            };
            states.insert(va.0, (state.0.to_owned(), state.1));
        };
        assert!(pagemap.words(VirtAddr(*start), end, each).unwrap());
    }
    states
}
