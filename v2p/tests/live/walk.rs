//! The walk as a second route, through the library.

use std::{fs, os::unix::fs::FileExt as _, panic::panic_any, ptr};

use libtest_mimic::Trial;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect};
use v2p::{
    bpf::Programs,
    carrier::Carrier,
    common::{
        VirtAddr,
        layout::KernelLayout,
        pagemap::PagemapWord,
        pte::{Entry, EntryState, Level},
    },
    kernel::{self},
    process::Pagemap,
    translate::Both,
};

use crate::{Again, Done, target::Target, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "both_routes_agree_on_pages_of_every_kind",
            pages_of_every_kind,
        ),
        trial(
            "both_routes_agree_on_pages_of_another_process",
            another_process,
        ),
        trial(
            "whole_page_tables_equal_pagemap_for_every_page",
            whole_page_tables,
        ),
        trial("the_direct_map_is_where_kcore_says", the_direct_map),
        trial("the_walk_has_as_many_levels_as_the_cpu_is_in", the_levels),
        trial("an_address_out_of_the_direct_map_is_not_read", not_read),
        trial("faults_are_walked_in_place_where_the_kernel_can", in_place),
    ]
}

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;

/// Where the kernel has the function that it takes, the programs are loaded with it: what the walk of a fault finds then, the tests of
/// watch hold against pagemap.
fn in_place() -> Done {
    let learnt = kernel::layout::learn().unwrap();
    let layout = learnt.layout;
    if layout.cast == KernelLayout::ABSENT {
        return Done::Skipped("this kernel has no bpf_rdonly_cast".to_owned());
    }
    let programs = Programs::load(&learnt).unwrap();
    assert_eq!(programs.layout().cast_type, layout.cast_type);
    assert_ne!(layout.cast_type, KernelLayout::ABSENT);
    Done::Passed
}

struct World {
    // Keeps the programs attached.
    _programs: Programs,
    carrier: Carrier,
    direct_map: v2p::direct_map::DirectMap,
}

/// `None`: this kernel does not let eBPF read its memory.
fn world() -> Result<World, String> {
    let mut programs = Programs::load(&kernel::layout::learn().unwrap()).unwrap();
    if kernel::lockdown::Lockdown::read(None).is_some_and(|l| l.mode == "confidentiality") {
        return Err("locked down: eBPF may not read kernel memory".to_owned());
    }
    let mut carrier = Carrier::new(&mut programs).unwrap();
    let direct_map = v2p::direct_map::learn(&mut carrier).unwrap();
    Ok(World {
        _programs: programs,
        carrier,
        direct_map,
    })
}

macro_rules! world_or_skip {
    () => {
        match world() {
            Ok(world) => world,
            Err(why) => return Done::Skipped(why),
        }
    };
}

fn map(len: usize, flags: MapFlags) -> Option<*mut u8> {
    // SAFETY: a new anonymous mapping touches nothing that exists. It stays: the test is short.
    let start = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
        )
    };
    Some(start.ok()?.cast())
}

fn touch(place: *mut u8) {
    // SAFETY: the caller's own writable mapping.
    unsafe { ptr::write_volatile(place, 1) };
}

fn pages_of_every_kind() -> Done {
    let mut world = world_or_skip!();
    let carrier = &mut world.carrier;
    let mut kinds: Vec<(&str, u64)> = Vec::new();

    let anonymous = map(PAGE, MapFlags::PRIVATE).unwrap();
    touch(anonymous);
    kinds.push(("anonymous", anonymous as u64));

    let read_only = map(PAGE, MapFlags::PRIVATE).unwrap();
    // SAFETY: our own mapping.
    let _ = unsafe { ptr::read_volatile(read_only) };
    kinds.push(("the zero page", read_only as u64));

    let none = map(PAGE, MapFlags::PRIVATE).unwrap();
    touch(none);
    // SAFETY: our own mapping, not used again.
    unsafe { mprotect(none.cast(), PAGE, MprotectFlags::empty()) }.unwrap();
    kinds.push(("PROT_NONE", none as u64));

    let shared = map(PAGE, MapFlags::SHARED).unwrap();
    touch(shared);
    kinds.push(("shared", shared as u64));

    let huge = map(2 * HUGE, MapFlags::PRIVATE).unwrap();
    let aligned = (huge as usize).next_multiple_of(HUGE) as *mut u8;
    // SAFETY: inside our own mapping. Where there are no huge pages it is an error, and a page like others.
    let _ = unsafe { madvise(aligned.cast(), HUGE, Advice::LinuxHugepage) };
    touch(aligned);
    // SAFETY: inside our mapping.
    touch(unsafe { aligned.add(5 * PAGE) });
    kinds.push(("THP, first page", aligned as u64));
    kinds.push(("THP, sixth page", aligned as u64 + 5 * PAGE as u64));

    // What ran so long ago may have been reclaimed.
    let text = trials as *const () as *const u8;
    // SAFETY: our own program.
    let _ = unsafe { ptr::read_volatile(text) };
    kinds.push(("text", text as u64));
    let on_the_stack = 0u64;
    kinds.push(("stack", ptr::from_ref(&on_the_stack) as u64));

    let pagemap = Pagemap::of_self().unwrap();
    for (kind, va) in kinds {
        let both = Both::ask(carrier, &pagemap, VirtAddr(va)).unwrap().unwrap();
        assert!(both.agreed().is_some(), "{kind}: {both:#x?}");
    }

    let untouched = map(PAGE, MapFlags::PRIVATE).unwrap();
    let va = VirtAddr(untouched as u64);
    let both = Both::ask(carrier, &pagemap, va).unwrap().unwrap();
    assert_eq!((both.pagemap.pfn(), both.walk.pfn(va)), (None, None));
    Done::Passed
}

fn another_process() -> Done {
    let mut world = world_or_skip!();
    let carrier = &mut world.carrier;
    let mut target = Target::start();
    let truth: Vec<_> = (0..8).map(|i| target.tell("write", i)).collect();
    let pagemap = Pagemap::of(target.pid()).unwrap();
    for (i, pfn) in truth.iter().enumerate() {
        let va = VirtAddr(crate::target::va(i as u64));
        let both = Both::ask(carrier, &pagemap, va).unwrap().unwrap();
        assert_eq!(both.agreed().map(|p| p.0), Some(*pfn), "{both:#x?}");
    }
    target.end();
    assert!(
        Both::ask(carrier, &pagemap, VirtAddr(crate::target::BASE))
            .unwrap()
            .is_none()
    );
    Done::Passed
}

/// 64 MiB from the middle of a block on, every third page written, read by one system call.
fn whole_page_tables() -> Done {
    let mut world = world_or_skip!();
    let len = 64 << 20;
    let area = map(len + 2 * HUGE, MapFlags::PRIVATE).unwrap();
    // SAFETY: advice on our own mapping; an error leaves huge pages, and the test as good.
    let _ = unsafe { madvise(area.cast(), len + 2 * HUGE, Advice::LinuxNoHugepage) };
    let start = (area as usize).next_multiple_of(HUGE) + 100 * PAGE;
    for offset in (0..len).step_by(3 * PAGE) {
        touch((start + offset) as *mut u8);
    }
    let pages = len / PAGE;
    let blocks = (100 + pages).div_ceil(512);
    let mut words = vec![0u64; pages];
    let pagemap = Pagemap::of_self().unwrap();
    let carrier = &mut world.carrier;
    let n = carrier
        .tables(&pagemap, VirtAddr(start as u64), blocks, &mut words)
        .unwrap();
    assert_eq!(n, pages);
    for (i, word) in words.iter().enumerate() {
        let (block, index) = ((100 + i) / 512, (100 + i) % 512);
        // 7.x skips a program that another task is in on that CPU; who translates asks again.
        let table = carrier.table(block).unwrap_or_else(|| {
            panic_any(Again(format!("block {block} of {blocks} was not copied")))
        });
        // A block's table may not be there where nothing was touched.
        let pte = if table.level == 0 {
            table.entries[index]
        } else {
            0
        };
        let walked = match Entry(pte).state(Level::Pte, (1 << 52) - 1) {
            EntryState::Leaf(pfn) => Some(pfn),
            _ => None,
        };
        assert_eq!(PagemapWord(*word).pfn(), walked, "page {i}");
        assert_eq!(walked.is_some(), i % 3 == 0, "page {i}");
    }
    Done::Passed
}

/// The program headers of /proc/kcore carry both addresses of each piece of RAM (fs/proc/kcore.c).
fn the_direct_map() -> Done {
    let direct_map = world_or_skip!().direct_map;
    let Ok(kcore) = fs::File::open("/proc/kcore") else {
        return Done::Skipped("no /proc/kcore on this kernel".to_owned());
    };
    let read = |at: u64| {
        let mut bytes = [0; 8];
        kcore.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    };
    let (table, count) = (read(0x20), read(0x38) & 0xffff);
    // Each header has 56 bytes: type and flags, offset, virtual and physical address.
    let bases: Vec<_> = (0..count)
        .map(|i| table + 56 * i)
        .filter(|at| read(*at) & 0xffff_ffff == 1)
        .map(|at| (read(at + 0x10), read(at + 0x18)))
        .filter(|(va, pa)| *pa != u64::MAX && *va < 0xffff_ffff_8000_0000)
        .map(|(va, pa)| va - pa)
        .collect();
    assert!(
        bases.contains(&direct_map.base),
        "{:#x} is not among {bases:#x?}",
        direct_map.base
    );
    Done::Passed
}

fn the_levels() -> Done {
    let direct_map = world_or_skip!().direct_map;
    let base = direct_map.base;
    // Documentation/arch/x86/x86_64/mm.rst: the direct map starts at ff11... with five levels, at
    // ffff88... with four, moved up by KASLR.
    let five = base < 0xffff_8000_0000_0000;
    assert_eq!(
        direct_map.paging.levels,
        if five { 5 } else { 4 },
        "{base:#x}"
    );
    if let Ok(levels) = std::env::var("V2P_LAB_LEVELS") {
        assert_eq!(direct_map.paging.levels.to_string(), levels);
    }
    Done::Passed
}

fn not_read() -> Done {
    let mut world = world_or_skip!();
    let carrier = &mut world.carrier;
    // No machine that runs this has RAM there.
    let beyond = v2p::common::PhysAddr((1 << 46) - 4096);
    assert_eq!(carrier.read_physical(beyond).unwrap(), None);
    Done::Passed
}
