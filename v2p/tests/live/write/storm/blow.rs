//! The process whose pages are in the storm: does it to them, and keeps the truth about them.

use std::{
    fs::{self, OpenOptions},
    ptr,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use v2p::kernel::now_ns;

use super::{N, PAGES, SLOT, START};
use crate::{
    memory::to_node,
    target::{PAGE, write_to},
};

/// Names the file that both sides share.
pub(super) const FILE: &str = "V2P_STORM_FILE";
/// Each of so many deeds compacts all memory, which takes longer than many of the others.
const COMPACTED_EVERY: u64 = 256;

/// What both sides see.
#[repr(C)]
pub(super) struct Shared {
    pub(super) ready: AtomicU64,
    pub(super) end: AtomicU64,
    /// Whether swap is there, and may be used.
    pub(super) swaps: AtomicU64,
    /// Whether the pages are to be locked.
    pub(super) locks: AtomicU64,
    /// Whether pages may be thrown away.
    pub(super) discards: AtomicU64,
    /// A question: the number of a page is in `asked`. The storm stands still until it is 0 again.
    pub(super) question: AtomicU64,
    pub(super) asked: AtomicU64,
    /// The question that was answered last.
    pub(super) answered: AtomicU64,
    /// What is in the page's slot, for the process itself.
    pub(super) value: AtomicU64,
    /// When the page was last thrown away: the call had returned by then.
    pub(super) wiped_ns: AtomicU64,
    /// What was done, and the kernel took: moves of all pages, discards, page-outs, compactions.
    pub(super) deeds: [AtomicU64; 4],
}

/// A mapping of the shared file, for as long as the process lives.
pub(super) fn shared(path: &str) -> &'static Shared {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping touches nothing that exists.
    let place = unsafe { mmap(ptr::null_mut(), 4096, access, MapFlags::SHARED, &file, 0) };
    // SAFETY: it stays mapped, is long enough and zero at first; all of it is atomic.
    unsafe { &*place.unwrap().cast::<Shared>() }
}

/// The process with the pages.
pub(crate) fn run() {
    let shared = shared(&std::env::var(FILE).unwrap());
    map_pages(shared);
    blow(shared);
}

pub(super) fn map_pages(shared: &Shared) {
    let len = usize::try_from(PAGES * PAGE).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: a new mapping at an address that nothing has.
    let place = unsafe { mmap_anonymous(START as *mut _, len, access, flags) }.unwrap();
    for i in 0..PAGES {
        write_to(START + i * PAGE);
    }
    if shared.locks.load(SeqCst) == 1 {
        // SAFETY: our own mapping.
        unsafe { rustix::mm::mlock(place, len) }.unwrap();
    }
    shared.ready.store(1, SeqCst);
}

/// The storm, on pages of this process, until its end is asked for.
pub(super) fn blow(shared: &Shared) {
    const MADV_DONTNEED: libc::c_int = 4;
    const MADV_PAGEOUT: libc::c_int = 21;
    let mut wiped = [0; N];
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut node = 0;
    let advise = |i: u64, advice| {
        // SAFETY: a page of the mapping, which is used by writes and volatile reads alone.
        unsafe { libc::madvise((START + i * PAGE) as *mut _, 4096, advice) == 0 }
    };
    let mut count = 0u64;
    while shared.end.load(SeqCst) == 0 {
        answer(shared, &wiped);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        count += 1;
        let i = random >> 8 & (PAGES - 1);
        let (deed, done) = match random >> 32 & 31 {
            _ if count.is_multiple_of(COMPACTED_EVERY) => {
                fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
                (3, true)
            }
            0..=19 => {
                node ^= 1;
                (0, move_all(node))
            }
            20..=24 if shared.discards.load(SeqCst) == 1 => {
                let done = advise(i, MADV_DONTNEED);
                if done {
                    wiped[usize::try_from(i).unwrap()] = now_ns();
                }
                (1, done)
            }
            25..=31 if shared.swaps.load(SeqCst) == 1 => (2, advise(i, MADV_PAGEOUT)),
            _ => continue,
        };
        write_to(START + i * PAGE);
        shared.deeds[deed].fetch_add(u64::from(done), SeqCst);
    }
}

/// Stands still while somebody asks, and tells the truth.
fn answer(shared: &Shared, wiped: &[u64]) {
    loop {
        let question = shared.question.load(SeqCst);
        if question == 0 {
            return;
        }
        if shared.answered.load(SeqCst) != question {
            let i = shared.asked.load(SeqCst);
            let slot = (START + i * PAGE + SLOT) as *const u64;
            // SAFETY: inside the mapping.
            shared.value.store(unsafe { slot.read_volatile() }, SeqCst);
            let wiped = wiped[usize::try_from(i).unwrap()];
            shared.wiped_ns.store(wiped, SeqCst);
            shared.answered.store(question, SeqCst);
        }
        breathe();
    }
}

/// Lets the other side go on, also where the guest's processors share one thread of the host: there a processor that spins keeps
/// the other one from running.
pub(super) fn breathe() {
    thread::sleep(Duration::from_micros(10));
}

/// All pages to one node; false: the kernel did not try.
fn move_all(node: libc::c_int) -> bool {
    let pages: [u64; N] = std::array::from_fn(|i| START + i as u64 * PAGE);
    to_node(&pages, Some(node)).is_some()
}
