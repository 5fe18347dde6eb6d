//! What tells of page faults: perf's software events, each of one thread and of those that it starts, with a program on it.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    programs::{PerfEvent, ProgramError},
    sys::SyscallError,
};
use perf_event::{Builder, Counter, events::Software};

/// A page-fault program: which faults it is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// All, as they come. What it finds is told with the fault.
    Begins,
    /// No I/O was waited for.
    Minor,
    /// The page came from disk or swap.
    Major,
}

impl FaultKind {
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Begins => "fault_begins",
            Self::Minor => "fault_minor",
            Self::Major => "fault_major",
        }
    }

    /// Whether a hook of this name is such an event, of which each thread has one.
    pub fn is_hook(name: &str) -> bool {
        [Self::Begins, Self::Minor, Self::Major]
            .iter()
            .any(|kind| kind.event_name() == name)
    }

    /// The name of its event.
    pub const fn event_name(self) -> &'static str {
        match self {
            Self::Begins => "page-faults",
            Self::Minor => "page-faults-min",
            Self::Major => "page-faults-maj",
        }
    }

    const fn event(self) -> Software {
        match self {
            Self::Begins => Software::PAGE_FAULTS,
            Self::Minor => Software::PAGE_FAULTS_MIN,
            Self::Major => Software::PAGE_FAULTS_MAJ,
        }
    }
}

/// The events that are live. Held here, and not as links, since their counts say how often the kernel left the program out:
/// perf counts, but runs none, while an eBPF program of perf's kind or a call on an eBPF map is under way on that CPU
/// (bpf_prog_active, bpf_overflow_handler in kernel/events/core.c, 6.1 to 7.3).
#[derive(Default)]
pub(super) struct FaultEvents {
    counters: Vec<(FaultKind, Counter)>,
    /// What those counted that were taken off.
    counted: u64,
    /// Whether a thread may have inherited one before there was a program on it. A child that was forked in those microseconds may
    /// have too, which nobody sees: its faults are counted as left out.
    inherited_early: bool,
}

impl FaultEvents {
    /// Has `program` told of the faults of thread `tid`, and of those that it starts.
    ///
    /// # Errors
    /// The kernel's; also where the thread has ended.
    pub(super) fn attach(
        &mut self,
        program: &mut PerfEvent,
        kind: FaultKind,
        tid: u32,
    ) -> Result<(), ProgramError> {
        if program.fd().is_err() {
            program.load()?;
        }
        let program = program.fd()?.as_fd().as_raw_fd();
        let opened = self.open(program, kind, tid);
        opened.map_err(|io_error| {
            ProgramError::SyscallError(SyscallError {
                call: "perf_event_open",
                io_error,
            })
        })
    }

    fn open(&mut self, program: i32, kind: FaultKind, tid: u32) -> io::Result<()> {
        let tid = libc::pid_t::try_from(tid).map_err(io::Error::other)?;
        let mut counter = Builder::new(kind.event())
            .observe_pid(tid)
            .any_cpu()
            .inherit(true)
            // Faults of the kernel on the thread's memory, too.
            .include_kernel()
            .include_hv()
            .sample_period(1)
            .build()?;
        counter.set_bpf(program)?;
        counter.enable()?;
        self.counters.push((kind, counter));
        Ok(())
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.counters.len()
    }

    /// Takes all but the first `kept` off, and with them those that children and threads inherited.
    pub(super) fn keep(&mut self, kept: usize) {
        let at = kept.min(self.counters.len());
        for (kind, mut counter) in self.counters.drain(at..) {
            // What cannot be stopped or read has counted nothing that anybody waits for.
            if counter.disable().is_ok() && kind != FaultKind::Begins {
                self.counted += counter.read().unwrap_or(0);
            }
        }
    }

    /// To be said where threads were started while events were attached.
    pub(super) const fn may_be_inherited_early(&mut self) {
        self.inherited_early = true;
    }

    /// Stops all: no program runs that was not under way before. How many faults were to be told; `None`: not known,
    /// since some may have counted before there was a program on them.
    pub(super) fn stop(&mut self) -> Option<u64> {
        let mut sum = self.counted;
        for (kind, counter) in &mut self.counters {
            counter.disable().ok()?;
            if *kind != FaultKind::Begins {
                sum += counter.read().ok()?;
            }
        }
        (!self.inherited_early).then_some(sum)
    }
}
