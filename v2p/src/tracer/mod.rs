//! The hooks and the ring: what the programs report of one address space.

mod hooks;

use std::{ops::Range, rc::Rc, time::Duration};

use anyhow::{Context as _, Result, bail};
use v2p_common::event::Event;

use hooks::Hooks;

use crate::{
    bpf::{Programs, Ring, SharedControl},
    process::Process,
};

/// How long a marker of our own may take to come out of the ring.
const MARKER_PATIENCE: Duration = Duration::from_secs(10);

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
    hooks: Hooks,
    settled: bool,
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
}

/// What was lost, so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loss {
    /// Events for which the ring had no room.
    pub ring: u64,
    /// Times that the kernel skipped a program; `None`: this kernel does not tell.
    pub skipped: Option<u64>,
}

impl Loss {
    /// What was lost since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        let skipped = match (self.skipped, earlier.skipped) {
            (Some(now), Some(then)) => now.saturating_sub(then),
            _ => 0,
        };
        self.ring.saturating_sub(earlier.ring) + skipped
    }
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
        let ring = programs.take_ring()?;
        let mut hooks = match wanted {
            Wanted::Migrations => Hooks::of_migrations(programs, process),
            Wanted::All => Hooks::of_a_watch(programs, process),
        };
        match hooks.first_error.take() {
            Some(error) if hooks.live.is_empty() => Err(error),
            _ => Ok(Self {
                control,
                ring,
                hooks,
                settled: false,
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
        let remap = self.hooks.has("remap_range") || self.hooks.has("remap_control");
        let removals = ["zap_range", "unmap_one"];
        remap && removals.iter().all(|program| self.hooks.has(program)) && self.watches_migration()
    }

    /// Whether migrations of base pages are seen.
    pub fn watches_migration(&self) -> bool {
        ["set_migration_pte", "remove_migration_pte"]
            .iter()
            .all(|program| self.hooks.has(program))
    }

    /// Whether the last [`Self::take_until`] could wait for programs that were still running.
    pub const fn is_settled(&self) -> bool {
        self.settled
    }

    /// The events that are in the ring now, oldest first.
    ///
    /// # Errors
    /// Where a record is no event.
    pub fn take(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.ring.drain(|bytes| {
            events.push(Event::from_bytes(bytes).context("the event ring")?);
            Ok(())
        })?;
        Ok(events)
    }

    /// Waits until there may be events.
    ///
    /// # Errors
    /// Where the ring cannot be polled.
    pub async fn readable(&mut self) -> Result<()> {
        self.ring.readable().await
    }

    /// All events up to the marker `cookie`, which [`crate::carrier::Carrier::mark`] gave. First waits
    /// until every program that was running has committed its record.
    ///
    /// # Errors
    /// Where the marker does not come: it was lost, as others may have been.
    pub async fn take_until(&mut self, cookie: u64) -> Result<Vec<Event>> {
        self.settled = settle();
        let mut events = self.take()?;
        let is_marker = |e: &Event| matches!(e, Event::Marker(m) if m.number == cookie);
        let wait = async {
            while !events.iter().any(is_marker) {
                self.ring.readable().await?;
                events.extend(self.take()?);
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(MARKER_PATIENCE, wait).await {
            Ok(done) => done?,
            Err(_) => bail!("the marker did not come out of the event ring"),
        }
        Ok(events)
    }

    /// What was lost so far.
    pub fn loss(&self, programs: &Programs) -> Loss {
        Loss {
            ring: self.control.account.lost.get(),
            skipped: programs.recursion_misses(),
        }
    }
}

/// Waits for a grace period (kernel/sched/membarrier.c: MEMBARRIER_CMD_GLOBAL is synchronize_rcu), after
/// which programs that had started before have finished. Refused with nohz_full; then the
/// marker alone orders the events, a program still running on another CPU may be missed, and it is false.
fn settle() -> bool {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes two integers and no memory.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 }
}
