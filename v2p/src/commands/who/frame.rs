//! What a frame is that no process maps.

use std::io;

use anyhow::Result;
use v2p_common::Pfn;

use crate::{kernel::iomem::Iomem, process::FrameFlags};

/// What a frame is that no process maps, as far as /proc/kpageflags and /proc/iomem say.
pub(super) fn what_it_is(pfn: Pfn, flags: &Result<FrameFlags>, iomem: Option<&Iomem>) -> String {
    let flags = match flags {
        Ok(flags) => *flags,
        Err(e) if is_end(e) => {
            return format!(
                "physical address {:#x} is past the end of memory",
                pfn.base().0
            );
        }
        Err(e) => return format!("what it is cannot be told: {e:#}"),
    };
    // Some holes are marked so, some not at all (6.18).
    let is_unknown = flags.has(FrameFlags::NOPAGE);
    if is_unknown || flags == FrameFlags(0) {
        let lies = iomem.map(|iomem| iomem.at(pfn.base()));
        return match lies.as_deref() {
            Some(lies) if lies.iter().any(|resource| resource.is_ram()) => match is_unknown {
                // pfn_to_online_page, fs/proc/page.c, 6.1 to 7.3.
                true => "it is memory that is set offline, or a hole in it".to_owned(),
                // Free pages that wait for a CPU of their own have no mark.
                false => "nothing marks it: the kernel's, or free".to_owned(),
            },
            Some([.., resource]) => format!("there is no memory, but {}", resource.evidence()),
            Some([]) => "there is no memory".to_owned(),
            None if flags == FrameFlags(0) => "nothing marks it".to_owned(),
            None => "there is no memory".to_owned(),
        };
    }
    let kinds = [
        (
            FrameFlags::MMAP,
            "it, or another page of its huge page, is mapped by a process that was not found: one that could not be read, one of another PID namespace, or one that started, executed a program or mapped it meanwhile",
        ),
        (FrameFlags::BUDDY, "it is free"),
        (FrameFlags::HWPOISON, "it is poisoned"),
        (FrameFlags::OFFLINE, "it is offline"),
        (FrameFlags::ZERO_PAGE, "it is the shared zero page"),
        (FrameFlags::SLAB, "it is the kernel's (slab)"),
        (FrameFlags::PGTABLE, "it is a page table"),
        (FrameFlags::RESERVED, "it is reserved"),
        (
            FrameFlags::HUGE,
            "it is a huge page of the pool, or of a file of hugetlbfs, that no process maps",
        ),
        (
            FrameFlags::SWAPCACHE,
            "it is a copy of what is in swap: for a process, it is swapped",
        ),
        (
            FrameFlags::LRU,
            "it is a page of the page cache or of a process that ended",
        ),
    ];
    match kinds.iter().find(|(flag, _)| flags.has(*flag)) {
        Some((_, what)) => (*what).to_owned(),
        None => format!("it is the kernel's (flags {:#x})", flags.0),
    }
}

/// Whether the kernel may count mappings of a frame: of the memory of devices, and what is reserved, it counts none.
pub(super) fn may_be_counted(flags: &Result<FrameFlags>) -> bool {
    match flags {
        Ok(flags) => flags.has(FrameFlags::MMAP) || flags.has(FrameFlags::ZERO_PAGE),
        Err(e) => !is_end(e),
    }
}

/// Whether the file of frames ends before the frame.
fn is_end(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof)
}
