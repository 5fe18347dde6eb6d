//! Whose page was in a frame that nobody maps: entries that name it, and map nothing.

use std::fmt;

use v2p_common::VirtAddr;

use crate::render::count;

/// Pages whose entries name the frame, and map nothing.
pub(super) struct Left {
    /// Of the first that was found.
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) va: VirtAddr,
    pub(super) why: Why,
    /// Processes that have some, too.
    pub(super) others: u64,
}

/// Why such an entry maps nothing.
#[derive(Clone, Copy)]
pub(super) enum Why {
    /// Its page is in migration.
    Moving,
    Poisoned,
    /// A page of the huge page was poisoned: the others' frames may be in use again.
    HugePoisoned,
    /// The memory of a device, which the processor cannot reach.
    Device,
    /// Any of these: the frame's flags are not ours to read.
    Unknown,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            comm,
            va: VirtAddr(va),
            ..
        } = self;
        match self.why {
            Why::Moving => write!(
                f,
                "process {pid} ({comm}) has it at {va:#x}, and it is being moved away"
            )?,
            Why::Poisoned => write!(
                f,
                "process {pid} ({comm}) had it at {va:#x}, until it was poisoned"
            )?,
            Why::HugePoisoned => write!(
                f,
                "process {pid} ({comm}) had it at {va:#x}, in a huge page that was poisoned"
            )?,
            Why::Device => write!(
                f,
                "process {pid} ({comm}) has it at {va:#x}, in the memory of a device"
            )?,
            Why::Unknown => write!(
                f,
                "process {pid} ({comm}) has or had it at {va:#x}: it is being moved away, poisoned, or a device's"
            )?,
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, "; so it is in {}", count(others, "other process")),
        }
    }
}
