//! What must not be written, and why: pure.

use v2p_common::{
    Pfn,
    pte::{DIRTY, Entry, RW},
};

use crate::{
    process::{FrameFlags, maps::Mapping},
    state::PageState,
};

/// Frames below 1 MiB: reads give zeros and writes are dropped under STRICT_DEVMEM
/// (devmem_is_allowed, arch/x86/mm/init.c); x86 keeps user pages out of it.
const LOW_PFN: u64 = 256;

/// Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h) that are of no use elsewhere.
const KPF_DIRTY: FrameFlags = FrameFlags(1 << 4);
const KPF_COMPOUND_HEAD: FrameFlags = FrameFlags(1 << 15);
const KPF_COMPOUND_TAIL: FrameFlags = FrameFlags(1 << 16);

/// Why nothing was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// For scripts.
    pub(super) id: &'static str,
    /// For people.
    pub(super) what: String,
}

fn no(id: &'static str, what: impl Into<String>) -> Refusal {
    let what = what.into();
    Refusal { id, what }
}

/// Whether the process itself might write there: the mapping that holds the address decides.
pub(super) fn of_mapping(mapping: Option<&Mapping>, force_readonly: bool) -> Option<Refusal> {
    match mapping {
        None => Some(no("not-mapped", "nothing is mapped there")),
        Some(mapping) if !mapping.writable && !force_readonly => Some(no(
            "read-only",
            format!(
                "the process may not write there itself ({}); --force-readonly does it all the same",
                named(mapping)
            ),
        )),
        Some(_) => None,
    }
}

fn named(mapping: &Mapping) -> &str {
    match mapping.name.as_str() {
        "" => "anonymous memory",
        name => name,
    }
}

/// What lies behind the page where it is no frame of memory; `None`: it is one.
pub(super) fn of_state(state: PageState) -> Option<Refusal> {
    Some(match state {
        PageState::Present { .. } => return None,
        PageState::Zero => no(
            "zero-page",
            "it is the zero page, which all processes share",
        ),
        PageState::Swapped { .. } => no("swapped", "the page is in swap: there is no frame"),
        PageState::Migrating { .. } => no("migrating", "the page is being moved, and goes on so"),
        PageState::Device { .. } => no("device", "no page of memory: a device, or the kernel's"),
        PageState::Poisoned => no("poisoned", "the memory is bad"),
        PageState::Guard => no("guard", "it is a guard region"),
        PageState::Hidden => no("hidden", "the kernel withholds the frame"),
        PageState::Absent => no("absent", "the page was never touched, or dropped: no frame"),
    })
}

/// What is known of a frame, and of the way to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) pfn: Pfn,
    /// Of /proc/kpageflags.
    pub(super) flags: FrameFlags,
    /// Of the first frame of 2 MiB that hold it.
    pub(super) head: FrameFlags,
    /// Of /proc/kpagecount.
    pub(super) mapcount: u64,
    /// Whether pagemap says that this process alone maps it: the count is but an average over a folio where the kernel keeps none a
    /// page (CONFIG_NO_PAGE_MAPCOUNT, 6.15 and later).
    pub(super) exclusive: bool,
    /// The process's entry that maps it.
    pub(super) entry: Entry,
    /// The kernel's own entry for it, in the direct map; `None`: there is none.
    pub(super) direct_map: Option<Entry>,
    /// Whether the flag of KSM tells something: where every anonymous page has it, it does as far as anything was merged at all.
    pub(super) merging: bool,
}

/// Why the frame must not be written; `None`: it may.
pub(super) fn of_frame(frame: &Frame) -> Option<Refusal> {
    let Frame {
        pfn, flags, entry, ..
    } = *frame;
    if flags.has(FrameFlags::ZERO_PAGE) {
        return Some(match flags.has(FrameFlags::THP) {
            true => no("huge-zero-page", "it is the huge zero page, shared by all"),
            false => no(
                "zero-page",
                "it is the zero page, which all processes share",
            ),
        });
    }
    // pwrite copies through the direct map, and a fault there panics the kernel (write_mem, drivers/char/mem.c).
    match frame.direct_map {
        Some(entry) if entry.is_writable() => {}
        Some(_) => {
            let what = "the kernel's direct map has it read-only: a write would panic the kernel";
            return Some(no("not-direct-mapped", what));
        }
        None => {
            let what = "the kernel's direct map does not have it (memfd_secret): a write would panic the kernel";
            return Some(no("not-direct-mapped", what));
        }
    }
    if pfn.0 < LOW_PFN {
        let what = "the frame lies below 1 MiB, where the kernel drops writes";
        return Some(no("low-memory", what));
    }
    not_a_users(flags)
        .or_else(|| not_its_own(frame))
        .or_else(|| may_be_dropped(of_folio(flags, frame.head), entry))
}

/// The same of an anonymous page of our own, which we have written to and nobody else has: the direct map has it, and its entry
/// is dirty.
pub(super) fn of_own_page(pfn: Pfn, flags: FrameFlags, mapcount: u64) -> Option<String> {
    let frame = Frame {
        pfn,
        flags,
        head: FrameFlags(0),
        mapcount,
        exclusive: true,
        entry: Entry(RW | DIRTY),
        direct_map: Some(Entry(RW)),
        merging: false,
    };
    of_frame(&frame).map(|refusal| refusal.what)
}

/// Whether the frame may have been given to be freed (MADV_FREE), and its flags do not say so yet: that makes an entry clean at once, and the frame
/// what it then is where a processor's batch of such is full (mark_page_lazyfree, later folio_mark_lazyfree, mm/swap.c, 6.1 to 7.3).
pub(super) fn may_be_given_up(frame: &Frame) -> bool {
    let flags = of_folio(frame.flags, frame.head);
    let told = flags.has(FrameFlags::HUGE) || flags.has(FrameFlags::SWAPCACHE);
    !told && is_clean(flags, frame.entry)
}

/// Where nobody can say whether it was.
pub(super) fn given_up_perhaps() -> Refusal {
    let what = "the page is clean: the process may have given it to be freed (MADV_FREE), which this kernel does not show at once; a write of the process's own makes it dirty";
    no("lazily-freed", what)
}

/// Whether the kernel knows of nothing in the page that it would have to keep.
fn is_clean(flags: FrameFlags, entry: Entry) -> bool {
    !entry.is_dirty() && !flags.has(KPF_DIRTY)
}

/// Pages that the kernel may throw away as they are: what keeps them is a dirty entry, and our write makes none.
fn may_be_dropped(flags: FrameFlags, entry: Entry) -> Option<Refusal> {
    if !flags.has(FrameFlags::HUGE) && !flags.has(FrameFlags::SWAPBACKED) {
        let what = "the process gave it to be freed (MADV_FREE): the kernel may drop it, and the write with it";
        return Some(no("lazily-freed", what));
    }
    if !flags.has(FrameFlags::SWAPCACHE) {
        return None;
    }
    if is_clean(flags, entry) {
        let what =
            "the page is clean and swap has a copy: the kernel may drop it, and the write with it";
        return Some(no("clean-in-swap", what));
    }
    // It came from swap for a read, and zswap marks it dirty (zswap_load, mm/zswap.c, 6.8 and later): after a fork others may have the
    // same entry still, and then get this page.
    (!entry.is_writable()).then(|| {
        let what = "others may have the page in swap: they would get it with the write";
        no("shared", what)
    })
}

/// Kernel's, free, broken.
fn not_a_users(flags: FrameFlags) -> Option<Refusal> {
    let never = [
        (FrameFlags::BUDDY, "is free"),
        (FrameFlags::SLAB, "belongs to the kernel (slab)"),
        (FrameFlags::RESERVED, "is reserved"),
        (FrameFlags::HWPOISON, "is poisoned"),
        (FrameFlags::PGTABLE, "is a page table"),
        (FrameFlags::OFFLINE, "is offline"),
        (FrameFlags::NOPAGE, "is no memory"),
    ];
    if let Some((_, why)) = never.iter().find(|(flag, _)| flags.has(*flag)) {
        return Some(no("not-a-users", format!("the frame {why}")));
    }
    let user =
        flags.has(FrameFlags::MMAP) && (flags.has(FrameFlags::ANON) || flags.has(FrameFlags::LRU));
    (!user).then(|| {
        let flags = flags.0;
        let what = format!("/proc/kpageflags does not call it a mapped user page ({flags:#x})");
        no("not-a-users", what)
    })
}

/// A file's, KSM's, another process's too.
fn not_its_own(frame: &Frame) -> Option<Refusal> {
    let Frame { flags, entry, .. } = *frame;
    if !flags.has(FrameFlags::ANON) {
        let what = "it is a page of a file or of shared memory: the file would have the write too";
        return Some(no("file", what));
    }
    // A merged page is never writable (write_protect_page, mm/ksm.c); 6.12 has the flag on every anonymous one.
    let merged = frame.merging && flags.has(FrameFlags::KSM) && !entry.is_writable();
    if merged {
        return Some(no("ksm", "KSM shares it with its equals, or may do so"));
    }
    let mapcount = frame.mapcount;
    let what = match mapcount {
        1 => "others map the frame, or parts of its folio: they would see the write".to_owned(),
        _ => format!("the frame is mapped {mapcount} times: others would see the write"),
    };
    (mapcount != 1 || !frame.exclusive).then(|| no("shared", what))
}

/// The flags that a folio has as a whole: up to 6.1 a page inside a huge one has them not.
fn of_folio(flags: FrameFlags, head: FrameFlags) -> FrameFlags {
    const WHOLE: u64 = FrameFlags::SWAPBACKED.0 | FrameFlags::SWAPCACHE.0 | KPF_DIRTY.0;
    let inside = flags.has(FrameFlags::THP) && flags.has(KPF_COMPOUND_TAIL);
    match inside && head.has(KPF_COMPOUND_HEAD) {
        true => FrameFlags(flags.0 | head.0 & WHOLE),
        false => flags,
    }
}

#[cfg(test)]
mod tests;
