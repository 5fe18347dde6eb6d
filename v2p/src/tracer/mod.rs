//! The hooks and the ring: what the programs report of one address space.

mod hooks;
mod order;
mod threads;

use std::{
    ops::Range,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use v2p_common::{
    control::{Control, Word},
    event::{Event, Exec},
};

use hooks::{Hooks, MIGRATIONS, REASONS, REMAPS, REMOVALS};
use order::Order;

use crate::{
    bpf::{Lanes, Programs, Ring, SharedControl},
    exit::Failure,
    kernel::now_ns,
    process::Process,
};

/// How long a marker of our own may take to come out of the ring.
const MARKER_PATIENCE: Duration = Duration::from_secs(10);

/// What stands in for a grace period, and how long a marker is waited for at a time.
const PAUSE: Duration = Duration::from_millis(20);

/// The address of no `mm_struct`.
const NO_MM: u64 = u64::MAX;

/// A hook that could not be made live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The hook.
    pub hook: String,
    /// The kernel's reason.
    pub why: String,
}

/// Live hooks on one address space.
pub struct Tracer {
    control: Rc<SharedControl>,
    ring: Ring,
    lanes: Lanes,
    order: Order,
    hooks: Hooks,
    /// Faults that perf counted and told no program of: known once [`Self::stop_faults`] was called.
    faults_left_out: u64,
    /// Since when all hooks are live.
    live_ns: u64,
}

/// Which hooks are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Migrations, faults and the end: what can move a page of our own behind our back.
    Migrations,
    /// Everything that changes what lies behind a page.
    All,
}

/// What is traced.
#[derive(Clone, Debug)]
pub struct Target {
    /// Kernel address of its `mm_struct`; 0: that of its next exec.
    pub mm: u64,
    /// The addresses.
    pub range: Range<u64>,
    /// Whether the new address space is to be traced after an exec.
    pub follow_exec: bool,
    /// Whether the children of the process are traced too, and theirs. Programs of a layout with
    /// [`follow`](v2p_common::layout::KernelLayout::follow) alone do it.
    pub follow_forks: bool,
    /// Whether the kind of access is asked for that each fault came of: every process then pays for two tracepoints.
    pub access: bool,
}

/// What was lost, so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loss {
    /// Events for which the ring had no room.
    pub ring: u64,
    /// Times that the kernel skipped a program that tells events; `None`: this kernel does not tell.
    pub skipped: Option<u64>,
    /// Times that it skipped one that tells none itself, but what others tell is the poorer for it.
    pub helping: u64,
}

impl Loss {
    /// Events that were lost since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        let skipped = match (self.skipped, earlier.skipped) {
            (Some(now), Some(then)) => now.saturating_sub(then),
            _ => 0,
        };
        self.ring.saturating_sub(earlier.ring) + skipped
    }

    /// Whether the kernel skipped anything since `earlier`.
    #[must_use]
    pub fn is_skipped_since(self, earlier: Self) -> bool {
        (self.skipped, self.helping) != (earlier.skipped, earlier.helping)
    }
}

/// Makes every hook of a watch live for a moment, on no address space at all, to see which of them this kernel takes:
/// those that are live, and those that are not.
///
/// # Errors
/// Where our own process cannot be held.
pub fn try_hooks(programs: &mut Programs) -> Result<(Vec<String>, Vec<Missing>)> {
    programs.control().target.mm.set(NO_MM);
    let mut hooks = Hooks::of_a_watch(programs, &Process::open(std::process::id())?, false);
    hooks.access(programs);
    hooks.forks(programs);
    programs.take_hooks_off();
    Ok((hooks.live, hooks.missing))
}

impl Tracer {
    /// Makes the hooks live for `target`, an address space of `process`.
    /// Nothing that happens after this returns is unseen by the hooks in [`Self::live`].
    ///
    /// # Errors
    /// Where not one hook could be made live, with the first reason.
    pub fn start(
        programs: &mut Programs,
        process: &Process,
        target: &Target,
        wanted: Wanted,
    ) -> Result<Self> {
        let control = programs.control();
        control.target.start.set(target.range.start);
        control.target.end.set(target.range.end);
        control.target.mm.set(target.mm);
        let followed = if target.follow_exec { process.pid } else { 0 };
        control.target.pid.set(u64::from(followed));
        control
            .target
            .started
            .set(process.started_ns().unwrap_or(0));
        let (ring, lanes) = (programs.take_ring()?, programs.take_lanes()?);
        let mut hooks = match wanted {
            Wanted::Migrations => Hooks::of_migrations(programs, process),
            Wanted::All => Hooks::of_a_watch(programs, process, target.access),
        };
        // The last ones: a child that is entered has inherited the others.
        if target.follow_forks && !hooks.forks(programs) {
            let why = hooks
                .missing
                .last()
                .map(|m| format!("{}: {}", m.hook, m.why));
            let what = format!("children cannot be followed: {}", why.unwrap_or_default());
            return Err(Failure::unsupported(what).into());
        }
        match hooks.first_error.take() {
            Some(error) if hooks.live.is_empty() => Err(error),
            _ => Ok(Self {
                control,
                ring,
                lanes,
                order: Order::default(),
                hooks,
                live_ns: now_ns(),
                faults_left_out: 0,
            }),
        }
    }

    /// Hooks that are live.
    pub fn live(&self) -> &[String] {
        &self.hooks.live
    }

    /// Hooks that are not, and why.
    pub fn missing(&self) -> &[Missing] {
        &self.hooks.missing
    }

    /// Whether everything that takes a page away is seen as it happens, so that between two events a page stays
    /// what it was.
    pub fn sees_removals(&self) -> bool {
        self.has_any(&REMAPS) && self.has_all(&REMOVALS) && self.watches_migration()
    }

    /// Whether the reasons of migrations are told.
    pub fn tells_reasons(&self) -> bool {
        self.has_any(&REASONS)
    }

    /// Whether migrations of base pages are seen.
    pub fn watches_migration(&self) -> bool {
        self.has_all(&MIGRATIONS)
    }

    fn has_any(&self, programs: &[&str]) -> bool {
        programs.iter().any(|program| self.hooks.has(program))
    }

    fn has_all(&self, programs: &[&str]) -> bool {
        programs.iter().all(|program| self.hooks.has(program))
    }

    /// The events that there are now, oldest first. Some may be kept for the next time, since one that is older may be missing.
    ///
    /// # Errors
    /// Where a record is no event.
    pub fn take(&mut self) -> Result<Vec<Event>> {
        // Ring and lanes are read one after the other.
        let upto = self.control.account.seq.get();
        let mut events = self.order.take_kept();
        self.lanes.drain(|fault| events.push(Event::Fault(fault)));
        self.ring.drain(|bytes| {
            events.push(Event::from_bytes(bytes).context("the event ring")?);
            Ok(())
        })?;
        Ok(self.order.told(events, upto, self.lost()))
    }

    /// Whether faults are told.
    pub const fn hears_faults(&self) -> bool {
        self.hooks.hears_faults()
    }

    /// Whether all hooks were live when this was executed.
    pub const fn was_live(&self, exec: &Exec) -> bool {
        exec.header.t_ns >= self.live_ns
    }

    /// Attaches what tells of faults to all threads of `process` once more. A fault that two events tell of is one.
    ///
    /// # Errors
    /// Exit code 3, with the kernel's reason.
    pub fn attach_faults_again(&self, programs: &mut Programs, process: &Process) -> Result<()> {
        self.hooks.attach_faults_again(programs, process)
    }

    /// Whether the programs report of the address space `mm` now.
    pub fn traces(&self, mm: u64) -> bool {
        let places = &self.control.family.places;
        self.control.target.mm.get() == mm || places.iter().any(|place| place.mm.get() == mm)
    }

    /// Has the programs report of `mm` as the target's in the place of `before`, or where that has ended: the process had executed another program
    /// before the hooks were live, or no event told of it. False: they report of another by now.
    pub fn overtake(&self, before: u64, mm: u64) -> bool {
        let target = &self.control.target.mm;
        exchange(target, before, mm) || exchange(target, 0, mm)
    }

    /// Has the programs report of the address space `mm` no more, where it ended and they were not told.
    pub fn leave(&self, programs: &mut Programs, mm: u64) {
        let Control { target, family, .. } = &**self.control;
        exchange(&target.mm, mm, 0);
        let place = || family.places.iter().find(|place| place.mm.get() == mm);
        // A program may be about it too.
        if let Some(place) = place()
            && exchange(&place.mm, mm, 0)
        {
            // SAFETY: an aligned word of the map, which all sides only add to atomically.
            unsafe { AtomicU64::from_ptr(place.wanted.as_ptr()) }.fetch_sub(1, Ordering::SeqCst);
        }
        programs.unfollow(mm, || place().is_some());
    }

    /// The target's process has ended: its number may be another's soon.
    pub fn target_ended(&self) {
        self.control.target.pid.set(0);
    }

    /// Takes the hooks on faults off, and counts those that no program was told of: at any address, and of children that have
    /// inherited the events. Not before, since to read the count of a thread that runs interrupts it.
    pub fn stop_faults(&mut self, programs: &mut Programs) {
        if let Some(counted) = programs.stop_faults() {
            settle();
            self.faults_left_out = counted.saturating_sub(self.lanes.runs());
        }
    }

    /// Waits until there may be events.
    ///
    /// # Errors
    /// Where the ring cannot be polled.
    pub async fn readable(&mut self) -> Result<()> {
        self.ring.readable().await
    }

    /// All events up to the marker `cookie`, which [`crate::carrier::Carrier::mark`] gave, and whether that came. First waits
    /// until every program that was running has committed its record. Where the marker was lost, as others may have been, these are
    /// the events that there are after ten seconds.
    ///
    /// # Errors
    /// Where a record is no event.
    pub async fn take_until(&mut self, cookie: u64) -> Result<(Vec<Event>, bool)> {
        settle();
        let mut events = self.take()?;
        let is_marker = |e: &Event| matches!(e, Event::Marker(m) if m.number == cookie);
        let wait = async {
            while !events.iter().any(is_marker) {
                // What was kept comes though nobody wakes us.
                let ready = tokio::time::timeout(PAUSE, self.ring.readable()).await;
                ready.unwrap_or(Ok(()))?;
                events.extend(self.take()?);
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(MARKER_PATIENCE, wait).await {
            Ok(done) => done.map(|()| (events, true)),
            Err(_) => {
                events.extend(self.take()?);
                Ok((events, false))
            }
        }
    }

    /// Events for which there was no room, so far.
    pub fn lost(&self) -> u64 {
        self.control.account.lost.get()
    }

    /// What was lost so far.
    pub fn loss(&self, programs: &Programs) -> Loss {
        let skipped = programs.recursion_misses();
        Loss {
            ring: self.lost(),
            skipped: skipped.map(|(told, _)| told + self.faults_left_out),
            helping: skipped.map_or(0, |(_, helping)| helping),
        }
    }

    /// What the kernel skipped so far: the programs, and how often.
    pub fn skipped(&self, programs: &Programs) -> Vec<(String, u64)> {
        let mut skipped = programs.skipped();
        if self.faults_left_out > 0 {
            skipped.push(("page faults, by perf,".to_owned(), self.faults_left_out));
        }
        skipped
    }
}

/// Waits for a grace period (kernel/sched/membarrier.c: MEMBARRIER_CMD_GLOBAL is synchronize_rcu), after which programs that had
/// started before have finished. The kernel refuses that with nohz_full; then a pause stands in for it: a program runs for
/// some microseconds.
fn settle() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes two integers and no memory.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 };
    if !waited {
        std::thread::sleep(PAUSE);
    }
}

/// Puts `after` where `before` is. False: something else is there.
fn exchange(word: &Word, before: u64, after: u64) -> bool {
    // SAFETY: an aligned word of the map, which all sides read and write whole.
    let word = unsafe { AtomicU64::from_ptr(word.as_ptr()) };
    let (order, failed) = (Ordering::SeqCst, Ordering::SeqCst);
    word.compare_exchange(before, after, order, failed).is_ok()
}
