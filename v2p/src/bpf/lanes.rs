//! The lanes of faults, as user space reads them.

use std::{
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

use anyhow::Result;
use v2p_common::{
    control::Word,
    event::Fault,
    lane::{Lane, Slot},
};

use super::shared::MappedArray;

/// Slots of all lanes together, where each has [`FEWEST`] at least.
const SLOTS: usize = 1 << 18;

/// Slots of a lane, at least.
const FEWEST: usize = 1 << 12;

/// The program is told after so many slots that they are free again.
const TELL_AFTER: u64 = 1 << 10;

/// How many lanes of how many slots, a power of two, `cpus` CPUs have.
pub(super) const fn sizes(cpus: usize) -> (usize, usize) {
    let share = SLOTS / if cpus == 0 { 1 } else { cpus };
    let slots = if share > FEWEST { share } else { FEWEST };
    (cpus, 1 << slots.ilog2())
}

/// The lanes.
pub struct Lanes {
    lanes: MappedArray,
    slots: MappedArray,
    count: usize,
    len: usize,
}

impl Lanes {
    /// `count` lanes of `len` slots.
    pub(super) const fn new(
        lanes: MappedArray,
        slots: MappedArray,
        (count, len): (usize, usize),
    ) -> Self {
        Self {
            lanes,
            slots,
            count,
            len,
        }
    }

    /// Hands every fault that is there to `each`, lane by lane.
    pub fn drain(&mut self, mut each: impl FnMut(Fault)) {
        for cpu in 0..self.count {
            let lane = self.lane(cpu);
            let (mut read, written) = (lane.read.get(), lane.written.get());
            // What was written before the position must not be read before it.
            fence(Ordering::Acquire);
            let free = |upto: u64, read: &Word| {
                fence(Ordering::Release);
                read.set(upto);
            };
            while read != written {
                // SAFETY: a slot of this lane, which the program does not write before it is free again.
                each(unsafe { self.slot(cpu, read).read_volatile() }.fault());
                read = read.wrapping_add(1);
                if read % TELL_AFTER == 0 {
                    free(read, &lane.read);
                }
            }
            free(read, &lane.read);
        }
    }

    /// Times that a program was run for a fault, so far.
    pub fn runs(&self) -> u64 {
        (0..self.count).map(|cpu| self.lane(cpu).runs.get()).sum()
    }

    fn lane(&self, cpu: usize) -> &Lane {
        // SAFETY: one of `count` lanes, which are mapped as long as self; each field is a `Word`.
        unsafe { self.lanes.start().cast::<Lane>().add(cpu).as_ref() }
    }

    fn slot(&self, cpu: usize, number: u64) -> NonNull<Slot> {
        #[expect(clippy::cast_possible_truncation, reason = "of a usize, and smaller")]
        let inside = (number & (self.len as u64 - 1)) as usize;
        // SAFETY: below count * len, which is how many are mapped.
        unsafe {
            self.slots
                .start()
                .cast::<Slot>()
                .add(cpu * self.len + inside)
        }
    }
}

/// How many CPUs there can ever be: those that a map must have room for.
pub(super) fn cpus() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(path, e)| anyhow::Error::new(e).context(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_a_power_of_two_and_few_cpus_share_all() {
        assert_eq!(sizes(1), (1, 1 << 18));
        assert_eq!(sizes(2), (2, 1 << 17));
        assert_eq!(sizes(3), (3, 1 << 16));
        assert_eq!(sizes(512), (512, 1 << 12));
        assert_eq!(sizes(0), (0, 1 << 18));
    }
}
