//! The hooks and the ring: what the programs report of one address space.

use std::{ops::Range, rc::Rc, time::Duration};

use anyhow::{Context as _, Result, bail};
use v2p_common::event::Event;

use crate::{
    bpf::{FaultKind, Programs, Ring, SharedControl},
    process::Process,
};

/// Raw-tracepoint programs and the tracepoints that they hang on.
const TRACEPOINTS: [(&str, &str); 5] = [
    ("set_migration_pte", "set_migration_pte"),
    ("remove_migration_pte", "remove_migration_pte"),
    ("set_migration_pmd", "set_migration_pmd"),
    ("remove_migration_pmd", "remove_migration_pmd"),
    ("exit_mmap", "exit_mmap"),
];

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
    /// Hooks that are live.
    pub live: Vec<String>,
    /// Hooks that are not, and why.
    pub missing: Vec<Missing>,
    settled: bool,
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
    /// Makes the hooks live for the address space `mm` of `process`, for the addresses in `range`.
    /// Nothing that happens after this returns is unseen by the hooks in `live`.
    ///
    /// # Errors
    /// Where not one hook could be made live, with the first reason.
    pub fn start(
        programs: &mut Programs,
        process: &Process,
        mm: u64,
        range: Range<u64>,
    ) -> Result<Self> {
        let control = programs.control();
        control.target.start.set(range.start);
        control.target.end.set(range.end);
        control.target.mm.set(mm);
        let mut tracer = Self {
            control,
            ring: programs.take_ring()?,
            live: Vec::new(),
            missing: Vec::new(),
            settled: false,
        };
        let mut first_error = None;
        for (program, tracepoint) in TRACEPOINTS {
            let attached = programs.attach_tracepoint(program, tracepoint);
            tracer.note(tracepoint, attached, &mut first_error);
        }
        for (kind, name) in [
            (FaultKind::Minor, "page-faults-min"),
            (FaultKind::Major, "page-faults-maj"),
        ] {
            let attached = attach_to_all_threads(programs, process, kind);
            tracer.note(name, attached, &mut first_error);
        }
        match first_error {
            Some(error) if tracer.live.is_empty() => Err(error),
            _ => Ok(tracer),
        }
    }

    fn note(&mut self, hook: &str, attached: Result<()>, first_error: &mut Option<anyhow::Error>) {
        match attached {
            Ok(()) => self.live.push(hook.to_owned()),
            Err(e) => {
                self.missing.push(Missing {
                    hook: hook.to_owned(),
                    why: format!("{e:#}"),
                });
                first_error.get_or_insert(e);
            }
        }
    }

    /// Whether migrations of base pages are seen.
    pub fn watches_migration(&self) -> bool {
        ["set_migration_pte", "remove_migration_pte"]
            .iter()
            .all(|hook| self.live.iter().any(|live| live == hook))
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
        let is_marker = |e: &Event| matches!(e, Event::Marker(m) if m.cookie == cookie);
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

/// Threads may start threads while we attach: new ones inherit the event from those that have it, the
/// rest are found by looking again until nothing is new.
fn attach_to_all_threads(
    programs: &mut Programs,
    process: &Process,
    kind: FaultKind,
) -> Result<()> {
    let mut done = Vec::new();
    loop {
        let new: Vec<_> = process
            .threads()
            .into_iter()
            .filter(|t| !done.contains(t))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for tid in new {
            let attached = programs.attach_faults(kind, tid);
            // A thread that ended meanwhile needs no hook.
            if attached.is_err() && process.threads().contains(&tid) {
                return attached;
            }
            done.push(tid);
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
