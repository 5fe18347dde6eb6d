//! Who is watched: the target, and its descendants where they are followed; which address space each has.

use std::{collections::VecDeque, path::Path};

use v2p_common::event::{Event, Exec, Fork, Number};

use super::{names::Names, space::Space};
use crate::{
    ledger::Ledger,
    process::{Pagemap, Process, copied_by_fork},
    tracer::Tracer,
};

/// Events that came before the address space that they are about was told of; more are dropped, the oldest first.
const EARLY: usize = 4096;

/// And by how much, in nanoseconds: numbers and times are given one after the other.
const EARLY_NS: u64 = 10_000_000;

/// How often a process that has ended is looked at before it is believed without an event, while events come.
pub(super) const PATIENCE: u32 = 3;

/// A process that is followed.
pub(super) struct Member {
    pub(super) pid: u32,
    /// Its address space, by [`Space::id`].
    space: u64,
    /// None: it was gone before it could be held.
    held: Option<Process>,
    /// Whether it is the target itself, which somebody else holds.
    is_target: bool,
    /// The event that told its end, by number and time.
    end: Option<(u64, u64)>,
    /// How often it was found ended since.
    found: u32,
}

/// All of them. Where nobody is followed: one member and one address space.
pub(super) struct Family {
    follows: bool,
    pub(super) spaces: Vec<Space>,
    members: Vec<Member>,
    early: VecDeque<Event>,
    next: u64,
}

/// A member that is no more, and how that is known.
pub(super) struct Gone {
    pub(super) pid: u32,
    pub(super) end: Option<(u64, u64)>,
    /// Its address space, where nobody told the end of that, or what made it.
    pub(super) left: Option<Space>,
}

impl Member {
    /// Whether it has ended, as far as is known: the number of one that could not be held may be another's.
    fn has_ended(&self, target: &Process) -> bool {
        match &self.held {
            _ if self.is_target => target.has_ended(),
            Some(process) => process.has_ended(),
            None => !Path::new(&format!("/proc/{}", self.pid)).exists(),
        }
    }
}

impl Family {
    /// The target alone.
    pub(super) fn new(target: Space, follows: bool) -> Self {
        let member = Member {
            pid: target.pid,
            space: target.id,
            held: None,
            is_target: true,
            end: None,
            found: 0,
        };
        Self {
            follows,
            next: target.id + 1,
            spaces: vec![target],
            members: vec![member],
            early: VecDeque::new(),
        }
    }

    /// Whose address space it is, as records say it: only where there may be several.
    pub(super) fn shown(&self, space: &Space) -> Option<u32> {
        self.follows.then_some(space.pid)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where the address space is that an event is about.
    pub(super) fn find(&self, mm: u64) -> Option<usize> {
        match self.follows {
            false => self
                .spaces
                .first()
                .filter(|space| [mm, space.mm].contains(&0) || space.mm == mm)
                .map(|_| 0),
            // The newest: an older one at the same address has ended without a word.
            true => self.spaces.iter().rposition(|s| s.mm == mm && mm != 0),
        }
    }

    /// Keeps an event whose address space nobody has told of yet: it may come a moment before the fork.
    pub(super) fn too_early(&mut self, event: &Event) {
        let mm = event.header().mm;
        if let Event::MmGone(_) = event {
            // Another may have its address next.
            self.early.retain(|event| event.header().mm != mm);
        } else if self.follows && mm != 0 {
            if self.early.len() == EARLY {
                self.early.pop_front();
            }
            self.early.push_back(*event);
        }
    }

    /// A process was started; gives what came too early about its address space.
    pub(super) fn forked(&mut self, fork: &Fork, tracer: &Tracer) -> Vec<Event> {
        let Some(parent) = self.find(fork.header.mm) else {
            return Vec::new();
        };
        if fork.child_mm == 0 {
            return Vec::new();
        }
        let shares = fork.child_mm == fork.header.mm;
        let held = Process::open(fork.pid).ok();
        let held = held.filter(|process| process.was_started_at(fork.started_ns) == Some(true));
        let space = match self.spaces.get(parent) {
            Some(parent) if shares => parent.id,
            Some(parent) => {
                let space = child_of(parent, self.next, fork, held.as_ref(), tracer);
                self.next += 1;
                self.spaces.push(space);
                self.next - 1
            }
            None => return Vec::new(),
        };
        self.members.push(Member {
            pid: fork.pid,
            space,
            held,
            is_target: false,
            end: None,
            found: 0,
        });
        let early = std::mem::take(&mut self.early).into_iter();
        let (ours, others): (VecDeque<_>, VecDeque<_>) =
            early.partition(|event| event.header().mm == fork.child_mm);
        self.early = others;
        // Nothing happened to it before: what is older is of another that was at its address.
        let since = fork.header.t_ns.saturating_sub(EARLY_NS);
        let ours = ours
            .into_iter()
            .filter(|event| event.header().t_ns >= since);
        if shares { Vec::new() } else { ours.collect() }
    }

    /// A process executed a program; gives where its address space is now. It is the same place, where nobody else shares the old
    /// one. `None`: the process is not known, or there is no place in the programs for the new one.
    pub(super) fn executed(&mut self, exec: &Exec) -> Option<usize> {
        if !self.follows {
            return self.find(0);
        }
        let number = self.members.iter().position(|m| m.pid == exec.pid)?;
        let (pid, id) = self.members.get(number).map(|m| (m.pid, m.space))?;
        let heir = self.members.iter().find(|m| m.space == id && m.pid != pid);
        let heir = heir.map(|heir| heir.pid);
        let old = self.spaces.iter().position(|space| space.id == id);
        let at = match (old, heir) {
            (Some(at), None) => {
                // Whose it was, where it was shared, may be no more.
                self.spaces.get_mut(at)?.hand_over(pid);
                at
            }
            (other, heir) => {
                let like = self.spaces.get_mut(other?)?;
                if let Some(heir) = heir.filter(|_| like.pid == pid) {
                    like.hand_over(heir);
                }
                let (ledger, names) = (like.ledger.blank(), Names::new(pid, Vec::new()));
                let id = self.next;
                self.next += 1;
                self.spaces.push(Space::new((id, 0, pid), ledger, names));
                if let Some(member) = self.members.get_mut(number) {
                    member.space = id;
                }
                self.spaces.len() - 1
            }
        };
        Some(at)
    }

    /// Whether one of them has this number.
    pub(super) fn has(&self, pid: u32) -> bool {
        self.members.iter().any(|m| m.pid == pid)
    }

    /// Whether process `pid` is one of them, and the number was its own until now.
    pub(super) fn lives(&self, pid: u32, target: &Process) -> bool {
        lives(&self.members, pid, target)
    }

    /// The address space at `at` is the one that `exec` has made. Why it cannot be read, where that is so.
    pub(super) fn entered(
        &mut self,
        at: usize,
        exec: &Exec,
        target: &Process,
    ) -> Option<anyhow::Error> {
        let Self {
            spaces, members, ..
        } = self;
        let space = spaces.get_mut(at)?;
        space.executed(exec, || lives(members, exec.pid, target))
    }

    /// The address space at `at` has ended, and its moves are told.
    pub(super) fn ended_space(&mut self, at: usize) {
        if let Some(space) = self.spaces.get_mut(at).filter(|_| self.follows) {
            space.mm = 0;
        }
    }

    /// A process ends.
    pub(super) fn ended(&mut self, end: &Number) {
        let member = self
            .members
            .iter_mut()
            .find(|m| u64::from(m.pid) == end.number);
        if let Some(member) = member {
            member.end = Some((end.header.seq, end.header.t_ns));
        }
    }

    /// A process cannot be followed any more: it executed a program, and there is no place.
    pub(super) fn dropped(&mut self, pid: u32) {
        self.members.retain(|m| m.pid != pid);
        self.forget_spaces();
    }

    /// Looks which processes have ended, for whom no event says so: they may have been lost.
    pub(super) fn look(&mut self, target: &Process) {
        for member in &mut self.members {
            member.found += u32::from(member.has_ended(target));
        }
    }

    /// Takes out those that are no more. One whose end was told waits for that of its address space, unless others
    /// have that too; one for whom no event says so, until it was found ended more often than `patience`.
    pub(super) fn take_gone(&mut self, patience: u32) -> Vec<Gone> {
        let mut gone = Vec::new();
        let mut at = 0;
        while let Some(member) = self.members.get(at) {
            let shared = self
                .members
                .iter()
                .filter(|m| m.space == member.space)
                .count()
                > 1;
            let space = self.spaces.iter().position(|s| s.id == member.space);
            let lives = space.is_some_and(|at| self.spaces.get(at).is_some_and(|s| s.mm != 0));
            let is_over = member.end.is_some() && (shared || !lives) || member.found > patience;
            if !is_over {
                at += 1;
                continue;
            }
            let member = self.members.remove(at);
            let heir = self.members.iter().find(|m| m.space == member.space);
            if let Some(heir) = heir.map(|heir| heir.pid)
                && let Some(space) = space.and_then(|at| self.spaces.get_mut(at))
                && space.pid == member.pid
            {
                space.hand_over(heir);
            }
            let is_open = |at: &usize| self.spaces.get(*at).is_some_and(|s| s.gone.is_some());
            let left = space.filter(|at| !shared && (lives || is_open(at)));
            gone.push(Gone {
                pid: member.pid,
                end: member.end,
                left: left.map(|at| self.spaces.remove(at)),
            });
        }
        if !gone.is_empty() {
            self.forget_spaces();
        }
        gone
    }

    fn forget_spaces(&mut self) {
        let members = &self.members;
        self.spaces
            .retain(|space| members.iter().any(|m| m.space == space.id));
    }
}

fn lives(members: &[Member], pid: u32, target: &Process) -> bool {
    let member = members.iter().find(|m| m.pid == pid);
    member.is_some_and(|m| (m.is_target || m.held.is_some()) && !m.has_ended(target))
}

/// The address space of a child, as it is at the fork; what the parent has decides, until the child's own pagemap is read.
fn child_of(
    parent: &Space,
    id: u64,
    fork: &Fork,
    held: Option<&Process>,
    tracer: &Tracer,
) -> Space {
    let pid = fork.pid;
    // After an exec it would be another program's: then the programs have left the child's address space.
    let pagemap = held.and_then(|process| {
        let pagemap = Pagemap::of(pid).ok()?;
        (tracer.traces(fork.child_mm) && !process.has_ended()).then_some(pagemap)
    });
    // The parent's mappings, or where that executes another program or ends, the child's, which are a copy.
    let of_parent = parent
        .pagemap
        .as_ref()
        .and_then(|of| copied_by_fork(parent.pid, of));
    let copied = of_parent
        .filter(|_| tracer.traces(parent.mm))
        .or_else(|| copied_by_fork(pid, pagemap.as_ref()?));
    let mut ledger: Ledger = match &copied {
        Some(copied) => parent.ledger.forked(copied),
        None => parent.ledger.forked(&parent.names.writable()),
    };
    ledger.read_again(super::ALL);
    let names = parent.names.of_child(pid);
    Space {
        pagemap,
        fresh: true,
        ..Space::new((id, fork.child_mm, pid), ledger, names)
    }
}

#[cfg(test)]
mod tests;
