//! What tells of page faults: perf's software events, each of one thread and of those that it starts, with a program on it.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::Result;
use aya::{
    programs::{PerfEvent, Program, ProgramError},
    sys::SyscallError,
};
use perf_event::{Builder, Counter, events::Software};

use super::{Programs, refused::unsupported};

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

/// One that is attached.
struct Attached<C> {
    kind: FaultKind,
    counter: C,
    /// The processes that it may tell of: that of its thread, and those that were started since by one of them, which inherit it. They lose it
    /// where it is closed (perf_event_release_kernel, kernel/events/core.c, 6.1 to 7.3).
    of: Vec<u32>,
}

/// Process `parent` has started `child`, which inherits what that has. Of a parent that nobody knows it may be any.
fn started<C>(all: &mut [Attached<C>], parent: u32, child: u32) {
    let is_known = all.iter().any(|one| one.of.contains(&parent));
    for one in all {
        if !is_known || one.of.contains(&parent) {
            one.of.push(child);
        }
    }
}

/// Of the first `among`, none tells of process `pid` any more. Gives those that tell of nobody now.
fn left<C>(all: &mut Vec<Attached<C>>, among: usize, pid: u32) -> Vec<Attached<C>> {
    for one in all.iter_mut().take(among) {
        one.of.retain(|of| *of != pid);
    }
    all.extract_if(.., |one| one.of.is_empty()).collect()
}

/// The events that are live. Held here, and not as links, since their counts say how often the kernel left the program out:
/// perf counts, but runs none, while an eBPF program of perf's kind or a call on an eBPF map is under way on that CPU
/// (bpf_prog_active, bpf_overflow_handler in kernel/events/core.c, 6.1 to 7.3).
#[derive(Default)]
pub(super) struct FaultEvents {
    counters: Vec<Attached<Counter>>,
    /// What those counted that were taken off.
    counted: u64,
    /// Whether a thread may have inherited one before there was a program on it. A child that was forked in those microseconds may
    /// have too, which nobody sees: its faults are counted as left out.
    inherited_early: bool,
}

impl FaultEvents {
    /// Has `program` told of the faults of thread `tid` of process `pid`, and of those that it starts.
    ///
    /// # Errors
    /// The kernel's; also where the thread has ended.
    pub(super) fn attach(
        &mut self,
        program: &mut PerfEvent,
        kind: FaultKind,
        (pid, tid): (u32, u32),
    ) -> Result<(), ProgramError> {
        if program.fd().is_err() {
            program.load()?;
        }
        let program = program.fd()?.as_fd().as_raw_fd();
        let opened = self.open(program, kind, (pid, tid));
        opened.map_err(|io_error| {
            ProgramError::SyscallError(SyscallError {
                call: "perf_event_open",
                io_error,
            })
        })
    }

    fn open(&mut self, program: i32, kind: FaultKind, (pid, tid): (u32, u32)) -> io::Result<()> {
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
        let of = vec![pid];
        self.counters.push(Attached { kind, counter, of });
        Ok(())
    }

    /// Takes off what is of no use any more, and keeps what it counted.
    fn close(&mut self, attached: impl IntoIterator<Item = Attached<Counter>>) {
        for Attached {
            kind, mut counter, ..
        } in attached
        {
            // What cannot be stopped or read has counted nothing that anybody waits for.
            if counter.disable().is_ok() && kind != FaultKind::Begins {
                self.counted += counter.read().unwrap_or(0);
            }
        }
    }

    /// Stops all: no program runs that was not under way before. How many faults were to be told; `None`: not known,
    /// since some may have counted before there was a program on them.
    fn stop(&mut self) -> Option<u64> {
        let mut sum = self.counted;
        for Attached { kind, counter, .. } in &mut self.counters {
            counter.disable().ok()?;
            if *kind != FaultKind::Begins {
                sum += counter.read().ok()?;
            }
        }
        (!self.inherited_early).then_some(sum)
    }
}

impl Programs {
    /// Attaches the program for `kind` of faults to thread `tid` of process `pid`, and to those that it starts.
    ///
    /// # Errors
    /// Exit code 3, with the kernel's reason; also where the thread has ended.
    pub fn attach_faults(&mut self, kind: FaultKind, (pid, tid): (u32, u32)) -> Result<()> {
        let program = match self.ebpf.program_mut(kind.program()) {
            Some(Program::PerfEvent(p)) => p,
            _ => anyhow::bail!("the eBPF object has no program {}", kind.program()),
        };
        let attached = self.faults.attach(program, kind, (pid, tid));
        attached.map_err(|e| {
            unsupported(
                &format!("{}: cannot be attached to thread {tid}", kind.program()),
                &e,
            )
        })
    }

    /// How many events of [`Self::attach_faults`] there are.
    pub const fn fault_events(&self) -> usize {
        self.faults.counters.len()
    }

    /// Takes those off again that came after the first `kept`, and what was inherited from them.
    pub fn drop_fault_events(&mut self, kept: usize) {
        let at = kept.min(self.fault_events());
        let dropped = self.faults.counters.split_off(at);
        self.faults.close(dropped);
    }

    /// Process `parent`, which the events tell of, has started `child`.
    pub fn fault_events_inherited(&mut self, parent: u32, child: u32) {
        started(&mut self.faults.counters, parent, child);
    }

    /// Process `pid` has ended, or has others: the first `among` do not tell of it any more. Those that tell of nobody now are closed, or there
    /// would be some more for each program that gives other rights.
    pub fn fault_events_left(&mut self, pid: u32, among: usize) {
        let dropped = left(&mut self.faults.counters, among, pid);
        self.faults.close(dropped);
    }

    /// To be said where threads were started while [`Self::attach_faults`] was at work.
    pub const fn threads_came(&mut self) {
        self.faults.inherited_early = true;
    }

    /// Takes the programs for faults off. How many faults perf counted for them; `None`: not known.
    pub fn stop_faults(&mut self) -> Option<u64> {
        self.faults.stop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pids: &[u32]) -> Attached<()> {
        Attached {
            kind: FaultKind::Minor,
            counter: (),
            of: pids.to_vec(),
        }
    }

    fn pids(all: &[Attached<()>]) -> Vec<&[u32]> {
        all.iter().map(|one| one.of.as_slice()).collect()
    }

    #[test]
    fn an_event_is_closed_once_all_who_inherited_it_have_gone() {
        let mut all = vec![of(&[1]), of(&[2])];
        started(&mut all, 1, 3);
        assert_eq!(pids(&all), [&[1, 3][..], &[2]]);
        // A grandchild has what its parent inherited, and is there when that and the first are not.
        started(&mut all, 3, 4);
        for pid in [1, 3] {
            assert!(left(&mut all, 2, pid).is_empty());
        }
        assert_eq!(pids(&left(&mut all, 2, 4)), [&[] as &[u32]]);
        assert_eq!(pids(&all), [&[2][..]]);
    }

    #[test]
    fn what_is_attached_anew_takes_the_place_of_what_was_there_for_that_process_alone() {
        let mut all = vec![of(&[1]), of(&[1])];
        started(&mut all, 1, 2);
        all.push(of(&[1]));
        assert!(left(&mut all, 2, 1).is_empty());
        assert_eq!(pids(&all), [&[2][..], &[2], &[1]]);
        assert_eq!(left(&mut all, 3, 2).len(), 2);
        assert_eq!(pids(&all), [&[1][..]]);
    }

    #[test]
    fn a_child_of_nobody_knows_whom_may_have_any() {
        let mut all = vec![of(&[1]), of(&[2])];
        started(&mut all, 7, 8);
        assert_eq!(pids(&all), [&[1, 8][..], &[2, 8]]);
    }
}
