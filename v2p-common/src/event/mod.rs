//! The events that the programs put into the ring: one `repr(C)` struct a kind,
//! and the one place that turns ring bytes back into them (`decode`).
//!
//! Kind numbers are fixed once given; holes are left for kinds to come.

mod decode;

pub use decode::BadEvent;

/// What tells events apart: the first word of [`Header`].
pub mod kind {
    /// [`super::Fault`]: never in the ring, but in the lane of its CPU (`crate::lane`).
    pub const FAULT: u32 = 1;
    /// [`super::Look`].
    pub const LOOK: u32 = 2;
    /// [`super::Around`].
    pub const AROUND: u32 = 3;
    /// [`super::Migration`]: an entry was replaced by a migration entry.
    pub const MIGRATION_SET: u32 = 10;
    /// [`super::Migration`]: a migration entry was replaced by a present one.
    pub const MIGRATION_REMOVE: u32 = 11;
    /// [`super::Number`]: a call of migrate_pages ended; the number is its `enum migrate_reason`.
    pub const MIGRATED: u32 = 12;
    /// [`super::Number`]: the address space ends; the number is one of [`super::gone`].
    pub const MM_GONE: u32 = 20;
    /// [`super::Exec`]: a process has executed a program.
    pub const EXEC: u32 = 21;
    /// [`super::Fork`]: a process was started.
    pub const FORK: u32 = 22;
    /// [`super::Number`]: a process that is watched ends; the number is its own, in v2p's PID namespace.
    pub const ENDED: u32 = 23;
    /// [`super::Number`]: a mark that v2p put into the ring itself, with its cookie: all events before it are older.
    pub const MARKER: u32 = 30;
    /// [`super::Number`]: a lane is filling up; the number is its CPU. It is there to wake the reader.
    pub const CROWDED: u32 = 31;
}

/// What ended an address space.
pub mod gone {
    /// Its process exits.
    pub const EXIT: u64 = 0;
    /// Its process executes another program.
    pub const EXEC: u64 = 1;
    /// Either, before: somebody else who looked at it had it last.
    pub const BEFORE: u64 = 2;
}

/// What a [`Look`] is about.
pub mod how {
    /// Entries were taken out of a range; `detail` is [`super::zap`].
    pub const ZAP: u32 = 1;
    /// Pages were unmapped by reclaim or for poison; `detail` is one of [`super::memory`].
    pub const UNMAP_ONE: u32 = 2;
    /// Pages may have been put into a range for somebody who needed them there: get_user_pages, mlock, populate,
    /// UFFDIO_COPY.
    pub const FILL: u32 = 3;
    /// Entries went to another address: `other` is where the first one is now.
    pub const REMAP: u32 = 4;
    /// A page was merged with its equals.
    pub const KSM_MERGE: u32 = 5;
    /// A merged page became one of its own again.
    pub const KSM_BREAK: u32 = 6;
    /// A huge page may have taken the place of base pages in a range.
    pub const COLLAPSE: u32 = 7;
    /// Pages of a file were mapped where nothing was, all of the range, in a row of frames from the one of the first entry on; `detail` is
    /// [`super::mapped`].
    pub const MAPPED: u32 = 8;
}

/// What memory a folio is, for [`how::UNMAP_ONE`].
pub mod memory {
    /// A file's.
    pub const FILE: u64 = 0;
    /// Anonymous: all of it has gone to swap.
    pub const ANONYMOUS: u64 = 1;
    /// It was not looked at, or not all of it was unmapped.
    pub const ANY: u64 = 2;
    /// A file's, and it is being collapsed into a huge page.
    pub const COLLAPSING: u64 = 3;
    /// A file's, and it is taken also where it is locked (TTU_IGNORE_MLOCK), which reclaim never does.
    pub const FORCED: u64 = 4;
    /// Anonymous, and given to be freed (MADV_FREE): it has gone for good.
    pub const FREED: u64 = 5;
}

/// The bits of `detail` for [`how::REMAP`].
pub mod remap {
    /// It is told at the end of a system call, and others may have changed the ranges since.
    pub const LATE: u64 = 1;
}

/// The bits of `detail` for [`how::MAPPED`].
pub mod mapped {
    /// As [`super::fault::CONTESTED`].
    pub const CONTESTED: u64 = 1;
}

/// The bits of `detail` for [`how::COLLAPSE`].
pub mod collapse {
    /// Not everywhere in the range, if at all.
    pub const PERHAPS: u64 = 1;
}

/// The bits of `detail` for [`how::ZAP`].
pub mod zap {
    /// Every entry of the range went, private copies of file pages too.
    pub const WHOLE: u64 = 1 << 32;
    /// The address space is being taken down.
    pub const DYING: u64 = 1 << 33;
    /// The call failed: what it did not come to is as it was.
    pub const PERHAPS: u64 = 1 << 34;
    /// The low half: number of the system call that the task is in; [`NO_CALL`]: a kernel thread.
    pub const CALL: u64 = 0xffff_ffff;
    /// No system call has this number.
    pub const NO_CALL: u64 = 0xffff_ffff;
}

/// The bits of [`Fault::flags`].
pub mod fault {
    /// It waited for I/O.
    pub const MAJOR: u32 = 1;
    /// A page was mapped there before, and the access was not allowed on it: copy-on-write.
    pub const PROTECTION: u32 = 1 << 1;
    /// It was a read. Of this and the next two none is set where it is not known.
    pub const READ: u32 = 1 << 2;
    /// It was a write.
    pub const WRITE: u32 = 1 << 3;
    /// An instruction was to be fetched.
    pub const EXECUTE: u32 = 1 << 4;
    /// Entries were being taken out of the address space meanwhile, or of another that is watched.
    pub const CONTESTED: u32 = 1 << 5;
    /// There was nothing as it came: no page, and no entry of one elsewhere. Not set where that is not known.
    pub const EMPTY: u32 = 1 << 6;
}

/// Bytes of a task's name in the kernel (TASK_COMM_LEN), NUL-terminated.
pub const COMM_LEN: usize = 16;

/// What every event starts with.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u32,
    /// Bytes of the whole event.
    pub len: u32,
    /// Number of the event; a gap is an event that was lost.
    pub seq: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub t_ns: u64,
    /// The thread that was running, in the initial PID namespace.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its name.
    pub comm: [u8; COMM_LEN],
    /// The address space that it is about, by the kernel address of its `mm_struct`; 0: none.
    pub mm: u64,
}

/// A page fault of the target, after it was handled.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fault {
    /// Who faulted.
    pub header: Header,
    /// The address that faulted.
    pub va: u64,
    /// The entry that the walk found there afterwards.
    pub entry: u64,
    /// The level of that entry (0 is the page table); `u32::MAX`: it could not be read.
    pub level: u32,
    /// Bits of [`fault`].
    pub flags: u32,
}

/// Something was done to a range of the target: look what it is now.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Look {
    /// Who did it.
    pub header: Header,
    /// The first address.
    pub va: u64,
    /// Bytes.
    pub len: u64,
    /// A second address, where `how` has one.
    pub other: u64,
    /// The entry that a walk found at `va` right afterwards.
    pub entry: u64,
    /// The level of that entry; `u32::MAX`: it was not looked at, or could not be read.
    pub level: u32,
    /// One of [`how`].
    pub how: u32,
    /// What `how` says.
    pub detail: u64,
}

/// Pages that a fault maps, of those in the page cache, with the one that is wanted, unless fault_around_bytes says otherwise; they begin at a multiple
/// of it, or with the mapping (do_fault_around, mm/memory.c, 6.1 to 7.3). Of a large folio more may come along.
pub const FAULT_AROUND: u64 = 16;
/// Entries that an [`Around`] has.
pub const AROUND: usize = 8;

/// Pages of a file were mapped for a fault, some of them perhaps here: what the page table has.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Around {
    /// Who faulted.
    pub header: Header,
    /// The address of the first entry.
    pub va: u64,
    /// Entries of the page table that follow each other.
    pub entries: [u64; AROUND],
}

/// A migration entry was set or removed in the target's page table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Migration {
    /// Who moves the page.
    pub header: Header,
    /// The address.
    pub va: u64,
    /// The new entry: a migration entry with the old PFN, or a present one with the new.
    pub entry: u64,
    /// The level of the entry: 0 page table, 1 PMD.
    pub level: u32,
    /// Unused, zero.
    pub reserved: u32,
}

/// An event with one number.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Number {
    /// Who.
    pub header: Header,
    /// What its kind says.
    pub number: u64,
}

/// A process has executed another program; `header.mm` is its new address space, 0: there was no [`crate::control::Place`] for it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exec {
    /// Who.
    pub header: Header,
    /// Its number, in v2p's PID namespace.
    pub pid: u32,
    /// 1: no perf event is on it, so that nobody is told of its faults: the kernel takes them off where a program gives other rights
    /// (begin_new_exec, fs/exec.c, 6.1 to 7.3).
    pub unheard: u32,
    /// The faults that its thread had taken by then.
    pub faults: u64,
}

/// A process was started by one that is watched; `header.mm` is that of its parent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fork {
    /// The parent, which also gave its name.
    pub header: Header,
    /// The child's `mm`: the parent's own where they share it (vfork); 0: there was no [`crate::control::Place`] for it.
    pub child_mm: u64,
    /// The child, in v2p's PID namespace; 0: it has no number there.
    pub pid: u32,
    /// The parent's process, likewise.
    pub parent: u32,
    /// When the child was started: CLOCK_BOOTTIME, nanoseconds.
    pub started_ns: u64,
}

/// An event, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A page fault.
    Fault(Fault),
    /// Something was done to a range.
    Look(Look),
    /// What is there around a fault.
    Around(Around),
    /// A migration entry appeared.
    MigrationSet(Migration),
    /// A migration entry went.
    MigrationRemove(Migration),
    /// A call of migrate_pages ended.
    Migrated(Number),
    /// The address space ends.
    MmGone(Number),
    /// Another program was executed.
    Exec(Exec),
    /// A process was started.
    Fork(Fork),
    /// A process ends.
    Ended(Number),
    /// A lane is filling up.
    Crowded(Number),
    /// A marker.
    Marker(Number),
}

impl Event {
    /// The header of any event.
    pub const fn header(&self) -> &Header {
        match self {
            Self::Fault(e) => &e.header,
            Self::MigrationSet(e) | Self::MigrationRemove(e) => &e.header,
            Self::Look(e) => &e.header,
            Self::Around(e) => &e.header,
            Self::Fork(e) => &e.header,
            Self::Exec(e) => &e.header,
            Self::Migrated(e) | Self::MmGone(e) | Self::Ended(e) => &e.header,
            Self::Crowded(e) | Self::Marker(e) => &e.header,
        }
    }
}

#[cfg(test)]
mod tests;
