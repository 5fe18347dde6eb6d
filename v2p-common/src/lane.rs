//! Lanes: the faults of each CPU, on their way to user space.
//!
//! There are more faults than all else together, and the ring that is shared by all CPUs costs a lock and two exchanges of
//! memory that user space has read last. A lane has one writer at a time, the program that runs for a fault on that CPU
//! (perf runs it with preemption off, and not within itself), and one reader. So plain stores do, in x86's order.

use crate::{
    control::Word,
    event::{COMM_LEN, Fault, Header, fault, kind},
};

/// How far a lane was written and read, each on cache lines of its own: a value of the memory-mapped map `LANES`, by CPU.
#[repr(C, align(128))]
#[derive(Default, Debug)]
pub struct Lane {
    /// Faults that were ever put in.
    pub written: Word,
    /// The last thread that was told a fault of, and its faults until then.
    pub last: [Word; 2],
    /// What was known of the last fault on this CPU as it came, as [`Came::pack`] has it.
    pub came: Word,
    /// The address of that fault.
    pub at: Word,
    /// Times that a program was run for a fault on this CPU, whoever's.
    pub runs: Word,
    _apart: [Word; 10],
    /// Faults that were ever taken out; user space writes it.
    pub read: Word,
}

/// A fault in a lane, one cache line: a value of the memory-mapped map `FAULTS`, in which the lanes lie one after the other.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Number of the event.
    pub seq: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub t_ns: u64,
    /// Who, and how the walk ended: see [`Slot::pack`].
    pub task: u64,
    /// Its name, up to a NUL.
    pub comm: [u64; COMM_LEN / 8],
    /// The address that faulted.
    pub va: u64,
    /// The entry that the walk found there afterwards.
    pub entry: u64,
    /// As [`Header::mm`].
    pub mm: u64,
}

/// What is known of a fault before it is served: who, where, and one of [`fault`]'s flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Came {
    /// The thread.
    pub tid: u32,
    /// Number of the page.
    pub page: u64,
    /// Faults that the thread had taken by then: this one is the next.
    pub faults: u64,
    /// The kind of access, or that nothing was there.
    pub flag: u32,
}

impl Came {
    /// X86_PF_WRITE and X86_PF_INSTR (arch/x86/include/asm/trap_pf.h): the CPU's own numbers.
    const WRITE: u64 = 1 << 1;
    const INSTRUCTION: u64 = 1 << 4;
    /// Where the low bits of the count are, and those of the page: more than these fit no word.
    const FAULTS: u32 = 32;
    const PAGE: u32 = 48;

    /// The kind of access that the CPU's error code means: one of [`fault`]'s flags.
    #[inline(always)]
    pub const fn access(error: u64) -> u32 {
        if error & Self::INSTRUCTION != 0 {
            fault::EXECUTE
        } else if error & Self::WRITE != 0 {
            fault::WRITE
        } else {
            fault::READ
        }
    }

    /// All in one word, so that it is written and read whole.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.page << Self::PAGE
            | (self.faults & 0xffff) << Self::FAULTS
            | (self.flag as u64 & 0xff) << PID_BITS
            | (self.tid as u64 & ((1 << PID_BITS) - 1))
    }

    /// The flag that `packed` has for this thread and page, whose fault is its `faults`th; 0: it is of another.
    #[inline(always)]
    pub const fn flag(packed: u64, tid: u32, page: u64, faults: u64) -> u32 {
        let of = Self {
            tid,
            page,
            faults: faults.wrapping_sub(1),
            flag: 0,
        };
        let flag = packed >> PID_BITS & 0xff;
        let other = of.pack() ^ packed;
        if other & !(0xff << PID_BITS) == 0 {
            flag as u32
        } else {
            0
        }
    }
}

/// Bits of a thread's number, and of a process's: there are 2^22 at most (PID_MAX_LIMIT, include/linux/threads.h, 6.1 to 7.3).
const PID_BITS: u32 = 24;
/// Where the level is, and what stands for one that is not known.
const LEVEL: u32 = 2 * PID_BITS;
const NO_LEVEL: u64 = 0xff;
/// Where the flags are.
const FLAGS: u32 = LEVEL + 8;

impl Slot {
    /// Thread, process, [`Fault::level`] and [`Fault::flags`] in one word, so that a slot stays one cache line.
    #[inline(always)]
    pub const fn pack(tid: u32, tgid: u32, level: u32, flags: u32) -> u64 {
        let ids = tid as u64 | (tgid as u64) << PID_BITS;
        ids | (level as u64 & NO_LEVEL) << LEVEL | (flags as u64) << FLAGS
    }

    /// The event.
    #[expect(clippy::cast_possible_truncation, reason = "four numbers in one word")]
    pub const fn fault(&self) -> Fault {
        const PID: u64 = (1 << PID_BITS) - 1;
        let level = self.task >> LEVEL & NO_LEVEL;
        Fault {
            header: Header {
                kind: kind::FAULT,
                len: size_of::<Self>() as u32,
                seq: self.seq,
                t_ns: self.t_ns,
                tid: (self.task & PID) as u32,
                tgid: (self.task >> PID_BITS & PID) as u32,
                comm: name(self.comm),
                mm: self.mm,
            },
            va: self.va,
            entry: self.entry,
            level: if level == NO_LEVEL {
                u32::MAX
            } else {
                level as u32
            },
            flags: (self.task >> FLAGS) as u32,
        }
    }
}

/// A name without what lies behind its NUL.
const fn name([low, high]: [u64; COMM_LEN / 8]) -> [u8; COMM_LEN] {
    /// 1 in every byte.
    const ONES: u128 = u128::MAX / 0xff;
    let name = low as u128 | (high as u128) << 64;
    // The lowest bit that is set is the top one of the first byte that is 0.
    let ends = name.wrapping_sub(ONES) & !name & (ONES << 7);
    let kept = match ends {
        0 => name,
        _ => name & ((1 << (ends.trailing_zeros() & !7)) - 1),
    };
    kept.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_one_cache_line_and_positions_are_apart() {
        assert_eq!(size_of::<Slot>(), 64);
        assert_eq!(size_of::<Lane>(), 256);
        assert_eq!(core::mem::offset_of!(Lane, read), 128);
    }

    #[test]
    fn what_a_fault_came_of_is_known_by_its_thread_page_and_count() {
        for (error, kind) in [(4, fault::READ), (7, fault::WRITE), (0x14, fault::EXECUTE)] {
            assert_eq!(Came::access(error), kind);
        }
        for flag in [fault::READ, fault::WRITE, fault::EXECUTE, fault::EMPTY] {
            let (tid, page) = (0x3f_ffff, 0x7_ffff_ffff);
            let faults = 0x1_ffff;
            let came = Came {
                tid,
                page,
                faults,
                flag,
            };
            let packed = came.pack();
            assert_eq!(Came::flag(packed, tid, page, faults + 1), flag);
            assert_eq!(Came::flag(packed, tid - 1, page, faults + 1), 0);
            assert_eq!(Came::flag(packed, tid, page - 1, faults + 1), 0);
            // One that was served on another CPU left its word here.
            assert_eq!(Came::flag(packed, tid, page, faults + 2), 0);
            assert_eq!(Came::flag(packed, tid, page, faults), 0);
            assert_eq!(Came::flag(0, tid, page, 1), 0);
        }
    }

    #[test]
    fn a_slot_is_told_as_a_fault_field_by_field() {
        let slot = Slot {
            seq: 1,
            t_ns: 2,
            task: Slot::pack(0x3f_ffff, 0x3f_fffe, 4, 3),
            comm: [
                u64::from_le_bytes(*b"a task\0x"),
                u64::from_le_bytes(*b"left    "),
            ],
            va: 5,
            entry: 6,
            mm: u64::MAX - 63,
        };
        let fault = slot.fault();
        assert_eq!((fault.header.seq, fault.header.t_ns), (1, 2));
        let header = fault.header;
        assert_eq!((header.tid, header.tgid), (0x3f_ffff, 0x3f_fffe));
        assert_eq!(&header.comm, b"a task\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(header.mm, slot.mm);
        assert_eq!(
            (fault.va, fault.entry, fault.level, fault.flags),
            (5, 6, 4, 3)
        );
        let unread = Slot {
            task: Slot::pack(0, 0, u32::MAX, 1),
            ..slot
        };
        assert_eq!((unread.fault().level, unread.fault().flags), (u32::MAX, 1));
    }
}
