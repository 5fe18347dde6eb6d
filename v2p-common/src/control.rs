//! The block of memory that user space and the programs both see: one value of
//! a memory-mapped array map.
//!
//! Every field is one aligned [`Word`], read and written whole, so neither side can see half
//! of a change. A request is made and answered within one system call of one thread (see
//! `hooks/carrier.rs` of the eBPF crate), so no more order than the program's own is needed.

use core::cell::UnsafeCell;

/// Bytes that one [`request::READ_PHYSICAL`] can bring.
pub const PHYSICAL_BYTES: usize = 64;

/// One 64-bit word of shared memory.
///
/// Not `AtomicU64`: rustc's BPF target has no atomic loads and stores below CPU version 4
/// (Linux 6.15). A volatile access of an aligned word is one load or store on both sides.
#[repr(transparent)]
#[derive(Default, Debug)]
pub struct Word(UnsafeCell<u64>);

// SAFETY: every access is one aligned volatile load or store, or the program's atomic add.
unsafe impl Sync for Word {}

impl Word {
    /// The value now.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        // SAFETY: the cell is valid and aligned.
        unsafe { self.0.get().read_volatile() }
    }

    /// Writes the word.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        // SAFETY: the cell is valid and aligned.
        unsafe { self.0.get().write_volatile(value) }
    }

    /// Where it lies, for an atomic instruction.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut u64 {
        self.0.get()
    }
}

/// The whole block.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Control {
    /// How to reach physical memory through the kernel's direct map.
    pub direct_map: DirectMap,
    /// Whose events the hooks report.
    pub target: Target,
    /// Whose else, where children are followed.
    pub family: Family,
    /// What was emitted, and what could not be.
    pub account: Account,
    /// What the carrier shall do the next time that it fires.
    pub request: Request,
    /// What it found.
    pub answer: Answer,
}

/// The kernel's mapping of all physical memory, learnt at run time.
#[repr(C)]
#[derive(Default, Debug)]
pub struct DirectMap {
    /// Virtual address of physical address 0 (the kernel's `page_offset_base`).
    pub base: Word,
    /// The bits that a physical address may have (`physical_mask`).
    pub physical_mask: Word,
    /// 4 or 5 levels of page tables.
    pub levels: Word,
}

/// How exactly /proc tells when a process was started, in nanoseconds: in hundredths of a second (USER_HZ, nsec_to_clock_t, fs/proc/array.c, 6.1 to
/// 7.3).
pub const TICK_NS: u64 = 10_000_000;

/// The address space that the hooks report on.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Target {
    /// Kernel address of its `mm_struct`; 0: none, report nothing.
    pub mm: Word,
    /// First virtual address watched.
    pub start: Word,
    /// End of the watched addresses, excluded.
    pub end: Word,
    /// Its process, as v2p's own PID namespace numbers it: the one whose exec is followed.
    pub pid: Word,
    /// When that was started, within [`TICK_NS`]: CLOCK_BOOTTIME, nanoseconds. Its number may be another's later. 0: not known.
    pub started: Word,
    /// 1: removals of pages are not told, so that it is looked what is there as a fault comes, also where the CPU's error code is had.
    pub blind: Word,
}

/// How many address spaces beside the target's own can be watched at a time: for a migration, whose event has no owner, the
/// programs look through them one by one, and the verifier follows each.
pub const PLACES: usize = 32;

/// The address spaces of the target's descendants. The programs enter them, at the fork and at an exec, and take them
/// out as they end.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Family {
    /// No place from this one on was ever taken: where to stop looking.
    pub used: Word,
    /// Each for one address space.
    pub places: [Place; PLACES],
}

/// A place for an address space.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Place {
    /// Kernel address of its `mm_struct`; 0: none.
    pub mm: Word,
    /// How many want the place; who found 0 has it. So two forks on two CPUs never take the same one, without a
    /// compare-and-swap.
    pub wanted: Word,
}

/// The loss account: `seq` numbers were given out, `lost` of them never
/// reached the ring.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Account {
    /// Sequence numbers given out so far; the first event has number 0.
    pub seq: Word,
    /// Events for which the ring had no room.
    pub lost: Word,
    /// Bytes in the ring from which on its reader is woken.
    pub crowded: Word,
    /// Slots of a lane, a power of two.
    pub lane: Word,
    /// Threads that are taking entries out. It may be too many, where the kernel told nobody of an end.
    pub zapping: Word,
    /// How often one began to.
    pub zaps: Word,
    /// Threads that were seen to fault on a page that was there, and were not told of yet: where there are none, none is
    /// looked for. It may be too many, where a fault ends badly.
    pub protected: Word,
}

/// Kinds of [`Request`].
pub mod request {
    /// Nothing is asked.
    pub const NONE: u64 = 0;
    /// Walk the page tables of the mm whose lock is being taken, for `argument` = va.
    pub const WALK: u64 = 1;
    /// Read `PHYSICAL_BYTES` bytes at physical address `argument` through the direct map.
    pub const READ_PHYSICAL: u64 = 2;
    /// Put a marker with cookie `argument` into the event ring.
    pub const MARK: u64 = 3;
    /// Copy the page tables of the blocks from `argument` = va on, one a time that the kernel takes the
    /// lock: see [`super::Table`].
    pub const TABLES: u64 = 4;
    /// Copy the page tables of the blocks from `argument` = va on, all the first time that the kernel takes the lock.
    pub const TABLES_AT_ONCE: u64 = 6;
    /// Copy the page middle directory for `argument` = va, into the table of block 0.
    pub const DIRECTORY: u64 = 7;
}

/// One request of one thread.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Request {
    /// One of [`request`]; written last.
    pub kind: Word,
    /// The asking thread, as its own PID namespace numbers it.
    pub tid: Word,
    /// An mm whose lock is not meant: v2p's own, while another process is asked about. 0: none.
    pub not_mm: Word,
    /// The kind's argument.
    pub argument: Word,
    /// For [`request::TABLES`] and [`request::TABLES_AT_ONCE`]: how many blocks.
    pub blocks: Word,
    /// For [`request::TABLES`]: where the same system call puts pagemap's words, one a page from `argument` on. The first
    /// word of each block is [`UNREAD`] before.
    pub words: Word,
    /// For requests that copy tables: marks those that were copied for this one.
    pub number: Word,
}

/// What no word of pagemap is: bits 59 and 60 are never set (fs/proc/task_mmu.c, 6.1 to 7.3).
pub const UNREAD: u64 = u64::MAX;

/// Address space under one page table: what pagemap's read takes the lock for at a time
/// (PAGEMAP_WALK_SIZE, fs/proc/task_mmu.c).
pub const BLOCK_BYTES: u64 = 2 << 20;

/// Pages in a block.
pub const BLOCK_PAGES: usize = 512;

/// Blocks that one [`request::TABLES_AT_ONCE`] copies at most: the verifier follows every one of them.
pub const AT_ONCE: usize = 4;

/// One table, copied whole: a value of the memory-mapped map `TABLES`. Block n's page table is number n; the directory of
/// [`request::DIRECTORY`], number 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The request that it was copied for, by [`Request::number`].
    pub number: u64,
    /// The level of `entry`; 0: the table is in `entries`; [`Self::UNREADABLE`]: a table above could not be read.
    pub level: u64,
    /// Where the walk ended above the table: the entry there.
    pub entry: u64,
    /// The entries of the table, where the walk came to one.
    pub entries: [u64; BLOCK_PAGES],
}

impl Table {
    /// `level` where nothing is known.
    pub const UNREADABLE: u64 = u64::MAX;
}

/// How the answer's work ended.
pub mod status {
    /// Nothing was tried.
    pub const NONE: u64 = 0;
    /// All was read.
    pub const OK: u64 = 1;
    /// An address was not readable: the tables changed under the walk, or the direct map's base is wrong.
    pub const UNREADABLE: u64 = 2;
}

/// The answer to the last request. A request that is carried out more than once (the
/// kernel takes the lock twice a read from 6.12 on) leaves the last result.
#[repr(C)]
#[derive(Default, Debug)]
pub struct Answer {
    /// Times that the carrier served the request.
    pub fired: Word,
    /// One of [`status`].
    pub status: Word,
    /// Kernel address of the `mm_struct` that was served.
    pub mm: Word,
    /// For [`request::TABLES`]: the block that is next.
    pub block: Word,
    /// Its `pgd`, a direct-map address.
    pub pgd: Word,
    /// The level (0 is the page table) whose entry ended the walk.
    pub end_level: Word,
    /// The entry read at each level, by level number; those not visited are 0.
    pub entries: [Word; 5],
    /// The bytes read at a physical address.
    pub bytes: [Word; PHYSICAL_BYTES / 8],
}
