//! The maps, and the one global.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, RingBuf},
};
use v2p_common::{
    control::{Control, Table},
    layout::KernelLayout,
    witness::{Answers, Function},
};

/// BPF_F_MMAPABLE (include/uapi/linux/bpf.h): user space sees the value in place.
const MMAPABLE: u32 = 1 << 10;

/// Events on their way to user space. User space may ask for another size.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, MMAPABLE);

/// Page tables copied for user space; it asks for as many as it wants.
#[map]
static TABLES: Array<Table> = Array::with_max_entries(1, MMAPABLE);

/// The place for block `index` of a request.
#[inline(always)]
pub(crate) fn table(index: u64) -> Option<*mut Table> {
    TABLES.get_ptr_mut(u32::try_from(index).ok()?)
}

/// The last fault told on each CPU: thread, and its faults so far.
#[map]
static LAST_FAULT: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The place for this CPU's last fault.
#[inline(always)]
pub(crate) fn last_fault() -> Option<*mut [u64; 2]> {
    LAST_FAULT.get_ptr_mut(0)
}

/// Threads of the target that are in a fault on a page that was there, and its address. A fault that ends badly leaves
/// its entry to the thread's next one, or to be evicted.
#[map]
pub(crate) static PROTECTION: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// Threads that have moved pages of the target since their last call of migrate_pages ended.
#[map]
pub(crate) static MOVERS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// Threads that are collapsing a file's pages.
#[map]
pub(crate) static COLLAPSING: LruHashMap<u32, u64> = LruHashMap::with_max_entries(256, 0);

/// What the watched functions answered, by [`Function`].
#[map]
static ANSWERS: Array<[u64; 3]> = Array::with_max_entries(Function::ALL.len() as u32, 0);

/// The place for a function's answers: an [`Answers`].
#[inline(always)]
pub(crate) fn answers(function: u32) -> Option<*mut [u64; size_of::<Answers>() / 8]> {
    ANSWERS.get_ptr_mut(function)
}

/// Set by user space before the programs are loaded.
#[unsafe(no_mangle)]
static LAYOUT: KernelLayout = KernelLayout::UNSET;

/// The block shared with user space.
#[inline(always)]
pub(crate) fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// The kernel's layout.
#[inline(always)]
pub(crate) fn layout() -> KernelLayout {
    // SAFETY: a valid static; volatile, since the loader changes what the compiler sees here.
    unsafe { core::ptr::read_volatile(&raw const LAYOUT) }
}
