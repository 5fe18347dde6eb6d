//! The lives of those that are watched: an exec, a fork, an end.

use anyhow::Result;
use v2p_common::event::{Event, Exec, Fork};

use super::{
    Session, State,
    family::{Gone, PATIENCE},
    losses::lose,
    space::Space,
};
use crate::{
    exit,
    kernel::now_ns,
    process::Process,
    record::{Comm, Record},
};

impl Session<'_> {
    /// A process has another address space.
    pub(super) fn executed(&mut self, exec: &Exec, state: &mut State<'_>) -> Result<()> {
        let Some(at) = state.family.executed(exec) else {
            // Of somebody of whom nobody was told: the loss of that was, and nobody keeps a ledger.
            if self.follow && exec.header.mm != 0 && state.family.find(exec.header.mm).is_none() {
                self.tracer.leave(self.programs, exec.header.mm);
            }
            return Ok(());
        };
        let is_told = |space: &Space| space.knows(exec);
        if !state.family.spaces.get(at).is_some_and(is_told) {
            self.apply(&Event::Exec(*exec), at, state)?;
        }
        if self.follow && exec.header.mm == 0 {
            state.family.dropped(exec.pid);
            self.unheard(exec.pid);
            return state.report.tell(Record::Gone {
                seq: Some(exec.header.seq),
                t_ns: exec.header.t_ns,
                pid: exec.pid,
                why: "no-room",
            });
        }
        if exec.unheard != 0 {
            self.hear_again(exec, state)?;
        }
        let State { family, report, .. } = state;
        let target = self.ended.get_ref();
        if let Some(e) = family.entered(at, exec, target) {
            // Of one that has ended since, its events tell.
            if exit::code(&e) != exit::NO {
                report.output.say(&format!(
                    "v2p: watch: the process executed a program whose pages we may not read: {e:#}"
                ));
            }
        }
        Ok(())
    }

    /// Nobody waits for the faults of process `pid` any more.
    fn unheard(&mut self, pid: u32) {
        self.programs
            .fault_events_left(pid, self.programs.fault_events());
    }

    /// Attaches what tells of faults anew, and tells what was lost since the exec.
    fn hear_again(&mut self, exec: &Exec, state: &mut State<'_>) -> Result<()> {
        let process = Process::open(exec.pid).ok();
        // Held before that is asked, else it might be another with its number.
        let process = process.filter(|_| state.family.lives(exec.pid, self.ended.get_ref()));
        let attached = match &process {
            Some(process) => self.tracer.attach_faults_again(self.programs, process),
            None => Ok(()),
        };
        if !self.tracer.hears_faults() || !self.tracer.was_live(exec) {
            return Ok(());
        }
        let lost = process.and_then(|process| faults_since(&process, exec));
        let many = match (attached, lost) {
            (Err(e), _) => format!("its faults are not told any more: {e:#}"),
            (Ok(()), Some(lost)) => format!("{lost} faults at most are not told"),
            (Ok(()), None) => "it ended, and its faults are not told".to_owned(),
        };
        state.report.output.say(&format!(
            "v2p: watch: process {} got other rights by an exec, for which the kernel takes off what tells of faults: {many}",
            exec.pid
        ));
        // Some at least, for a program to start.
        lose(lost.unwrap_or(1), state)
    }

    /// Whether the child of a fork is followed; `None`: it is none of ours.
    fn is_followed(&mut self, fork: &Fork, state: &State<'_>) -> Option<bool> {
        let Fork {
            header, child_mm, ..
        } = fork;
        if state.family.find(header.mm).is_some() {
            return Some(*child_mm != 0);
        }
        // The end of an address space was not told, and a stranger has its place in memory now; or one of ours executed a program, and that was not
        // told. The child has nobody who keeps a ledger.
        if ![0, header.mm].contains(child_mm) {
            self.tracer.leave(self.programs, *child_mm);
        }
        state.family.has(fork.parent).then_some(false)
    }

    /// A process started another one.
    pub(super) fn forked(&mut self, fork: &Fork, state: &mut State<'_>) -> Result<()> {
        let header = &fork.header;
        let Some(followed) = self.is_followed(fork, state) else {
            return Ok(());
        };
        state.report.tell(Record::Fork {
            seq: header.seq,
            t_ns: header.t_ns,
            pid: fork.pid,
            parent: fork.parent,
            comm: Comm(header.comm),
            shares: fork.child_mm == header.mm,
            followed,
        })?;
        if followed {
            let Fork { parent, pid, .. } = *fork;
            self.programs.fault_events_inherited(parent, pid);
        }
        let early = state.family.forked(fork, &self.tracer);
        for event in early {
            if let Some(at) = state.family.find(fork.child_mm) {
                self.apply(&event, at, state)?;
            }
        }
        // At once, before there is more that it may have done.
        let State {
            family, scanner, ..
        } = state;
        match family.find(fork.child_mm) {
            Some(at) if fork.child_mm != header.mm => {
                let child = family.spaces.get_mut(at);
                child.map_or(Ok(()), |child| child.read(self.ranges, scanner))
            }
            _ => Ok(()),
        }
    }

    /// Tells what the end of an address space made, where only the end of the watch shows what that was.
    pub(super) fn settle_gone(&self, state: &mut State<'_>) -> Result<()> {
        // Those of processes that are followed and have ended were told with them.
        let has_ended = !self.follow && self.ended.get_ref().has_ended();
        let State { family, report, .. } = state;
        for at in 0..family.spaces.len() {
            let shown = family.spaces.get(at).and_then(|space| family.shown(space));
            if let Some(space) = family.spaces.get_mut(at) {
                space.settle_gone(has_ended, (report, shown))?;
            }
        }
        Ok(())
    }

    /// Looks which of those that are followed have ended without a word.
    pub(super) fn look_after(&mut self, state: &mut State<'_>) -> Result<()> {
        self.look(state);
        self.tell_gone(state, PATIENCE)
    }

    /// Finds who has ended; that alone makes nobody be told as gone.
    pub(super) fn look(&self, state: &mut State<'_>) {
        if !self.follow {
            return;
        }
        let target = self.ended.get_ref();
        if target.has_ended() {
            self.tracer.target_ended();
        }
        state.family.look(target);
    }

    /// Tells who is gone: by its events, or found ended more often than `patience`.
    pub(super) fn tell_gone(&mut self, state: &mut State<'_>, patience: u32) -> Result<()> {
        if !self.follow {
            return Ok(());
        }
        for Gone { pid, end, left } in state.family.take_gone(patience) {
            self.unheard(pid);
            let now = now_ns();
            if let Some(mut space) = left {
                // Another of them may have its address by now.
                if space.gone.is_none() && state.family.find(space.mm).is_none() {
                    self.tracer.leave(self.programs, space.mm);
                }
                space.settle_gone(true, (&mut state.report, Some(pid)))?;
            }
            state.report.tell(Record::Gone {
                seq: end.map(|(seq, _)| seq),
                t_ns: end.map_or(now, |(_, t_ns)| t_ns),
                pid,
                why: "ended",
            })?;
        }
        Ok(())
    }
}

/// Faults that a process has taken since this exec. `None`: it has ended, and its number may be another's.
fn faults_since(process: &Process, exec: &Exec) -> Option<u64> {
    let faults = process.faults()?;
    (!process.has_ended()).then(|| faults.saturating_sub(exec.faults))
}
