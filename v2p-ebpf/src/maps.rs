//! The maps, and the one global.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, RingBuf},
};
use v2p_common::{
    control::{Control, Table},
    lane::{Lane, Slot},
    layout::KernelLayout,
    witness::{Answers, PLACES},
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

/// By CPU; the loader makes as many as there can be.
#[map]
static LANES: Array<Lane> = Array::with_max_entries(1, MMAPABLE);

/// The slots of all lanes; the loader makes as many.
#[map]
static FAULTS: Array<Slot> = Array::with_max_entries(1, MMAPABLE);

/// The lane of CPU `cpu`.
#[inline(always)]
pub(crate) fn lane(cpu: u32) -> Option<&'static Lane> {
    LANES.get(cpu)
}

/// A slot by its number among those of all lanes.
#[inline(always)]
pub(crate) fn slot(number: u32) -> Option<*mut Slot> {
    FAULTS.get_ptr_mut(number)
}

/// Threads of the target that are in a fault on a page that was there, and its address. A fault that ends badly leaves
/// its entry to the thread's next one, or to be evicted.
#[map]
pub(crate) static PROTECTION: LruHashMap<u32, [u64; 2]> = LruHashMap::with_max_entries(4096, 0);

/// Threads that are taking entries out of an address space that is watched. One whose end the kernel told nobody stays until its next.
#[map]
pub(crate) static ZAPPING: HashMap<u32, u64> = HashMap::with_max_entries(4096, 0);

/// Threads that have moved pages of the target since their last call of migrate_pages ended.
#[map]
pub(crate) static MOVERS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// The address spaces that have a place in [`Control::family`]: one look, where the places would be many. It has room for
/// those whose end the kernel told nobody, since it skipped the program.
#[map]
pub(crate) static FOLLOWED: HashMap<u64, u64> = HashMap::with_max_entries(4096, 0);

/// The target's descendants, by their numbers in the initial PID namespace, and when each was started: a number that is reused
/// is not taken for theirs. Those that share an address space with their parent (vfork) are in it too.
#[map]
pub(crate) static DESCENDANTS: HashMap<u32, u64> = HashMap::with_max_entries(4096, 0);

/// Threads that are collapsing a file's pages, and its `address_space`.
#[map]
pub(crate) static COLLAPSING: LruHashMap<u32, u64> = LruHashMap::with_max_entries(256, 0);

/// What the watched functions answered, by [`v2p_common::witness::Function`]; and behind them the probe's.
#[map]
static ANSWERS: Array<[u64; 3]> = Array::with_max_entries(PLACES, 0);

/// One of its places: an [`Answers`].
#[inline(always)]
pub(crate) fn answers(place: u32) -> Option<*mut [u64; size_of::<Answers>() / 8]> {
    ANSWERS.get_ptr_mut(place)
}

/// Set by user space before the programs are loaded.
#[unsafe(no_mangle)]
static LAYOUT: KernelLayout = KernelLayout::UNSET;

/// The block shared with user space.
#[inline(always)]
pub(crate) fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// The kernel's layout. Only the members that are used are loaded: a volatile read of the whole would load them all, at
/// every use.
#[inline(always)]
pub(crate) fn layout() -> &'static KernelLayout {
    // The compiler must not see through it: it knows the value as the object has it, the loader puts in another.
    core::hint::black_box(&LAYOUT)
}
