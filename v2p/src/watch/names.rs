//! The names of mappings, for people.

use std::{
    ops::Range as Span,
    rc::Rc,
    time::{Duration, Instant},
};

use v2p_common::PAGE_SHIFT;

use crate::process::maps::{self, Mapping};

/// Mappings that come and go are looked up no oftener than this.
const REST: Duration = Duration::from_millis(100);

/// The mappings of a process, as of some time ago.
pub(super) struct Names {
    pid: u32,
    mappings: Vec<Mapping>,
    read: Instant,
    /// What was asked for last, as bytes of addresses: the next is mostly beside it.
    last: (Span<u64>, Rc<str>),
}

impl Names {
    pub(super) fn new(pid: u32, mappings: Vec<Mapping>) -> Self {
        Self {
            pid,
            mappings,
            read: Instant::now(),
            last: Default::default(),
        }
    }

    /// Those of a child, as a fork has copied them.
    pub(super) fn of_child(&self, pid: u32) -> Self {
        Self::new(pid, self.mappings.clone())
    }

    /// Asks process `pid` from now on, which has the same mappings.
    pub(super) const fn ask(&mut self, pid: u32) {
        self.pid = pid;
    }

    /// The pages of mappings that may be written to, by number.
    pub(super) fn writable(&self) -> Vec<Span<u64>> {
        let mappings = self.mappings.iter().filter(|m| m.writable);
        mappings
            .map(|m| m.start >> PAGE_SHIFT..m.end >> PAGE_SHIFT)
            .collect()
    }

    /// The pages of the stack, by number.
    pub(super) fn stack(&self) -> Option<Span<u64>> {
        let stack = self.mappings.iter().find(|m| m.name == "[stack]");
        stack.map(|m| m.start >> PAGE_SHIFT..m.end >> PAGE_SHIFT)
    }

    /// The mappings as they are now, where the process still has some.
    pub(super) fn update(&mut self) -> &[Mapping] {
        self.read = Instant::now();
        if let Ok(now) = maps::mappings(self.pid) {
            self.mappings = now;
            self.last = Default::default();
        }
        &self.mappings
    }

    /// The name of the mapping that holds an address; empty where it has none.
    pub(super) fn of(&mut self, va: u64) -> Rc<str> {
        if !self.last.0.contains(&va) {
            if self.find(va).is_none() && self.read.elapsed() > REST {
                self.update();
            }
            let Some(found) = self.find(va) else {
                return Rc::default();
            };
            self.last = (found.start..found.end, found.name.as_str().into());
        }
        Rc::clone(&self.last.1)
    }

    fn find(&self, va: u64) -> Option<&Mapping> {
        let after = self.mappings.partition_point(|m| m.end <= va);
        self.mappings.get(after).filter(|m| m.start <= va)
    }

    /// Whether there is a mapping at an address.
    pub(super) fn has(&self, va: u64) -> bool {
        self.find(va).is_some()
    }
}
