//! The target's side: memory of every kind, made on purpose. Answers are numbers; 0 says that this kernel gave none.

use std::{fs, path::PathBuf, ptr, thread};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect,
};
use v2p::{
    common::{VirtAddr, pagemap::PagemapState},
    inject,
    process::Pagemap,
};

use crate::target::{PAGE, write_to};

/// Where a target has a huge page, once it was told to.
pub(crate) const HUGE_BASE: u64 = 0x6100_0000_0000;
/// Where it has a page of a gigabyte.
pub(crate) const GIGANTIC_BASE: u64 = 0x6200_0000_0000;
/// Where it has memory of a device.
pub(crate) const DEVICE_BASE: u64 = 0x6300_0000_0000;
/// Where it has a page of [`FILE`].
pub(crate) const FILE_BASE: u64 = 0x6400_0000_0000;
/// A file's name.
pub(crate) const FILE: &str = "v2p \u{1b}[31m of two\nlines ";
pub(crate) const HUGE: u64 = 2 << 20;
pub(crate) const GIGANTIC: u64 = 1 << 30;
const HUGE_LEN: usize = 2 << 20;
const PAGE_LEN: usize = 4096;
/// 6.13 and later (include/uapi/asm-generic/mman-common.h).
const MADV_GUARD_INSTALL: libc::c_int = 102;
const MADV_HWPOISON: libc::c_int = 100;
const MADV_PAGEOUT: libc::c_int = 21;

/// Has the kernel move our own pages at these addresses to `node`; without one it only says where they are. Gives where each is then,
/// or less than 0 and why; `None`: the kernel did not try.
pub(crate) fn to_node<const N: usize>(
    pages: &[u64; N],
    node: Option<libc::c_int>,
) -> Option<[libc::c_int; N]> {
    const MPOL_MF_MOVE: libc::c_int = 1 << 1;
    let nodes = node.map(|node| [node; N]);
    let mut status = [-1; N];
    // SAFETY: arrays of as many elements as the count says, or none.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            N,
            pages.as_ptr(),
            nodes.as_ref().map_or(ptr::null(), |nodes| nodes.as_ptr()),
            status.as_mut_ptr(),
            if node.is_some() { MPOL_MF_MOVE } else { 0 },
        )
    };
    // Of a call that had to leave some of them, the kernel may have put down nothing.
    match (done, node) {
        (1.., Some(_)) => to_node(pages, None),
        (0.., _) => Some(status),
        _ => None,
    }
}

/// Makes what is called so; `i` is a number for it.
pub(crate) fn make(what: &str, i: u64) -> u64 {
    match what {
        "thp" => huge(MapFlags::empty()),
        "thp-zero" => huge_zero(),
        "thp-split" => split(),
        "hugetlb" => huge(MapFlags::HUGETLB),
        "gigantic" => gigantic(),
        "poison-huge" => poison((HUGE_BASE + i * PAGE) as *mut u8),
        "device" => device(),
        "file" => file(),
        "reserve" => reserve(i),
        "mixed" => mixed(i),
        other => panic!("{other:?}?"),
    }
}

/// A guard region of one page.
pub(crate) fn guard(place: *mut u8) -> u64 {
    advise(place, MADV_GUARD_INSTALL)
}

/// A page whose memory is said to be bad.
pub(crate) fn poison(place: *mut u8) -> u64 {
    advise(place, MADV_HWPOISON)
}

/// 1: the kernel took the advice.
fn advise(place: *mut u8, advice: libc::c_int) -> u64 {
    // SAFETY: a page of the targets' mapping, which is not touched afterwards.
    u64::from(unsafe { libc::madvise(place.cast(), 4096, advice) } == 0)
}

/// 1: the page went out to swap.
pub(crate) fn page_out(place: *mut u8) -> u64 {
    let pagemap = Pagemap::of_self().unwrap();
    let page = VirtAddr(place as u64);
    for _ in 0..100 {
        advise(place, MADV_PAGEOUT);
        let word = pagemap.word(page).unwrap().unwrap();
        if matches!(word.state(), PagemapState::SwapEntry { .. }) {
            return 1;
        }
        // A page that was just written may still be in a batch of another CPU, which only this drains
        // (lru_add_drain_all in sysctl_compaction_handler, mm/compaction.c).
        let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        thread::sleep(std::time::Duration::from_millis(10));
    }
    0
}

/// A mapping of `len` bytes at `start`, which nothing has. `None`: this kernel gives none.
fn map(start: u64, len: u64, flags: MapFlags) -> Option<*mut libc::c_void> {
    let len = usize::try_from(len).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = flags | MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: a new mapping at an address that nothing has.
    unsafe { mmap_anonymous(start as *mut _, len, access, flags) }.ok()
}

fn is_present(address: u64) -> u64 {
    let word = Pagemap::of_self().unwrap().word(VirtAddr(address));
    u64::from(word.unwrap().unwrap().pfn().is_some())
}

/// A huge page at its place, by transparent huge pages or by hugetlb.
fn huge(flags: MapFlags) -> u64 {
    let Some(start) = map(HUGE_BASE, HUGE, flags) else {
        return 0;
    };
    // SAFETY: our own mapping. For hugetlb it is an error that does not matter.
    let _ = unsafe { madvise(start, HUGE_LEN, Advice::LinuxHugepage) };
    write_to(HUGE_BASE);
    // All of it is there after the first touch.
    is_present(HUGE_BASE + HUGE - PAGE)
}

/// The huge zero page at the place of a huge page.
fn huge_zero() -> u64 {
    let start = map(HUGE_BASE, HUGE, MapFlags::empty()).expect("addresses");
    // SAFETY: our own mapping, of which one byte is read.
    unsafe {
        let _ = madvise(start, HUGE_LEN, Advice::LinuxHugepage);
        ptr::read_volatile(start.cast::<u8>());
    }
    is_present(HUGE_BASE + HUGE - PAGE)
}

/// A huge page that is mapped by entries of a page table: one of its pages has other rights.
fn split() -> u64 {
    let made = huge(MapFlags::empty());
    // SAFETY: a page of our own mapping, which is not written to any more.
    unsafe { mprotect(HUGE_BASE as *mut _, PAGE_LEN, MprotectFlags::READ) }.unwrap();
    made
}

/// A page of a gigabyte.
fn gigantic() -> u64 {
    if map(
        GIGANTIC_BASE,
        GIGANTIC,
        MapFlags::HUGETLB | MapFlags::HUGE_1GB,
    )
    .is_none()
    {
        return 0;
    }
    write_to(GIGANTIC_BASE);
    is_present(GIGANTIC_BASE + GIGANTIC - PAGE)
}

/// Memory of a PCI device at its place; gives the physical address, 0 where there is none that may be mapped.
fn device() -> u64 {
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten();
    for folder in devices.flatten().map(|entry| entry.path()) {
        let table = fs::read_to_string(folder.join("resource")).unwrap_or_default();
        for (i, line) in table.lines().enumerate() {
            let start = line.split(' ').next().and_then(|s| s.strip_prefix("0x"));
            let start = u64::from_str_radix(start.unwrap_or_default(), 16).unwrap_or(0);
            let path = folder.join(format!("resource{i}"));
            let Ok(file) = fs::OpenOptions::new().read(true).write(true).open(path) else {
                continue;
            };
            let flags = MapFlags::SHARED | MapFlags::FIXED_NOREPLACE;
            let place = DEVICE_BASE as *mut _;
            // SAFETY: a new mapping at an address that nothing has; it is never touched.
            let mapped = unsafe { mmap(place, PAGE_LEN, ProtFlags::READ, flags, &file, 0) };
            if mapped.is_ok() && start.is_multiple_of(PAGE) {
                return start;
            }
        }
    }
    0
}

/// A page of a file with a name that is hard to print, which is gone by then.
fn file() -> u64 {
    let path = PathBuf::from(format!("/tmp/{FILE}"));
    fs::write(&path, [1; 4096]).unwrap();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    fs::remove_file(path).unwrap();
    let flags = MapFlags::SHARED | MapFlags::FIXED_NOREPLACE;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address that nothing has.
    unsafe { mmap(FILE_BASE as *mut _, PAGE_LEN, access, flags, &file, 0) }.unwrap();
    write_to(FILE_BASE);
    1
}

/// Maps `pages` pages, and of every six writes four, the third of which the kernel may take back, and reads one; gives their address.
fn mixed(pages: u64) -> u64 {
    let len = usize::try_from(pages * PAGE).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping touches nothing that exists.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE) }.unwrap();
    // SAFETY: our own mapping; huge pages would be alike.
    unsafe { madvise(start, len, Advice::LinuxNoHugepage) }.unwrap();
    let start = start as u64;
    for i in 0..pages {
        let va = start + i * PAGE;
        match i % 6 {
            // SAFETY: inside our mapping.
            4 => _ = unsafe { ptr::read_volatile(va as *const u8) },
            5 => {}
            _ => write_to(va),
        }
    }
    // The advice is for pages that are on the kernel's lists, not in a batch of a CPU.
    let _ = fs::write("/proc/sys/vm/compact_memory", "1");
    for i in (0..pages).filter(|i| i % 6 == 2) {
        advise((start + i * PAGE) as *mut u8, libc::MADV_FREE);
    }
    let _ = fs::write("/proc/sys/vm/compact_memory", "1");
    start
}

/// Reserves a TiB and writes `pages` pages all over it; gives its address.
fn reserve(pages: u64) -> u64 {
    const LEN: u64 = 1 << 40;
    let (len, access) = (
        usize::try_from(LEN).unwrap(),
        ProtFlags::READ | ProtFlags::WRITE,
    );
    // SAFETY: a new mapping touches nothing that exists.
    let mapped = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            len,
            access,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    };
    let start = mapped.expect("a TiB of addresses");
    // SAFETY: our own mapping; huge pages would be more than are counted.
    let _ = unsafe { madvise(start, len, Advice::LinuxNoHugepage) };
    (0..pages).for_each(|i| write_to(start as u64 + i * (LEN / pages) / 4096 * 4096));
    start as u64
}

/// Puts a page at `place` that compaction will move, by moving its mapping there.
pub(crate) fn place_movable(place: *mut u8) {
    let (page, ballast) = inject::page_to_move().expect("a page to move");
    // It makes the page movable as long as this process lives.
    std::mem::forget(ballast);
    let flags = rustix::mm::MremapFlags::MAYMOVE;
    // SAFETY: both are pages of our own; what was at `place` goes, and nothing refers to it.
    unsafe { rustix::mm::mremap_fixed(page.into_raw(), 4096, 4096, flags, place.cast()) }
        .expect("mremap");
}
