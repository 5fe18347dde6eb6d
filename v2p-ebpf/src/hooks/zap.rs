//! Entries taken out: munmap, MADV_DONTNEED, truncation, reclaim. Hooks on functions, where the kernel lets us.
//!
//! The mm of the `vma` says whose; the call returns with the page-table lock dropped but the mmap_lock or the
//! folio lock still held by the caller.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE,
    event::{how, memory, zap},
    layout::KernelLayout,
};

use crate::{
    atomic,
    hooks::{look, mm_of_vma, space_of},
    kread, maps, task,
};

/// The start of the function of [`zap_range`]: of a fault that comes before its end it is not known which was first.
#[fentry]
fn zap_begins(ctx: FEntryContext) -> u32 {
    if let Some(space) = mm_of_vma(ctx.arg(1)).and_then(space_of) {
        let tid = task::running().tid();
        // SAFETY: only this thread writes its own value.
        let known = unsafe { maps::ZAPPING.get(tid) }.is_some();
        // Of a full map the faults are not marked.
        if !known && maps::ZAPPING.insert(tid, 1, 0).is_ok() {
            atomic::increment(&space.control.account.zapping);
            atomic::increment(&space.control.account.zaps);
        }
    }
    0
}

/// unmap_page_range (tlb, vma, addr, end, details), mm/memory.c, 6.1 to 6.18; __zap_vma_range, the same, 7.x.
#[fexit]
fn zap_range(ctx: FExitContext) -> u32 {
    zapped(&ctx, is_whole(ctx.arg(4)));
    zap_ends();
    0
}

#[inline(always)]
fn zap_ends() {
    // One that began before the hooks were live was not counted.
    if let (Ok(()), Some(control)) = (maps::ZAPPING.remove(task::running().tid()), maps::control())
    {
        atomic::decrement(&control.account.zapping);
    }
}

/// __unmap_hugepage_range (tlb, vma, start, end, page or folio, ...), mm/hugetlb.c, 6.1 to 7.3. With a page given it takes
/// that one alone.
#[fexit]
fn zap_hugetlb(ctx: FExitContext) -> u32 {
    let page: u64 = ctx.arg(4);
    zapped(&ctx, page == 0);
    0
}

#[inline(always)]
fn zapped(ctx: &FExitContext, whole: bool) -> Option<()> {
    let mm = mm_of_vma(ctx.arg(1))?;
    let space = space_of(mm)?;
    let (start, end): (u64, u64) = (ctx.arg(2), ctx.arg(3));
    let whole = if whole { zap::WHOLE } else { 0 };
    // An atomic_t, 32 bits.
    let users = kread::word(mm + maps::layout().mm_users)? & 0xffff_ffff;
    let dying = if users == 0 { zap::DYING } else { 0 };
    look(
        space,
        how::ZAP,
        start,
        end.saturating_sub(start),
        whole | dying | task::system_call(),
    )
}

/// Whether `details` spare nothing: there are none, or they take private copies of file pages too (even_cows, 6.1 to 6.18;
/// skip_cows, the other way round, 7.3).
#[inline(always)]
fn is_whole(details: u64) -> bool {
    if details == 0 {
        return true;
    }
    let layout = maps::layout();
    if layout.zap_even_cows != KernelLayout::ABSENT {
        return kread::byte(details + layout.zap_even_cows).is_some_and(|even| even != 0);
    }
    layout.zap_skip_cows != KernelLayout::ABSENT
        && kread::byte(details + layout.zap_skip_cows) == Some(0)
}

/// try_to_unmap_one (folio, vma, address, arg), mm/rmap.c, 6.1 to 7.3: swap-out, a file page dropped, a split, poison. The last
/// argument is its `enum ttu_flags`.
#[fexit]
fn unmap_one(ctx: FExitContext) -> u32 {
    unmapped(&ctx);
    0
}

#[inline(always)]
fn unmapped(ctx: &FExitContext) -> Option<()> {
    let vma: u64 = ctx.arg(1);
    let space = space_of(mm_of_vma(vma)?)?;
    let folio: u64 = ctx.arg(0);
    let memory = match ctx.ret() {
        Ok(1) => memory_of(folio, ctx.arg(3))?,
        _ => memory::ANY,
    };
    let (start, len) = (ctx.arg(2), PAGE_SIZE << order(folio));
    let len = match len {
        PAGE_SIZE => len,
        _ => inside(vma, folio, start, len).unwrap_or(len),
    };
    look(space, how::UNMAP_ONE, start, len, memory)
}

/// What lies in the mapping of a folio of `len` bytes, which begins there at `start`, or before the mapping does: then that is the
/// mapping's beginning (vma_address, mm/internal.h, 6.1 to 7.3). `None`: it is not where its index says (hugetlb counts in pages of its
/// own up to 6.6).
#[inline(always)]
fn inside(vma: u64, folio: u64, start: u64, len: u64) -> Option<u64> {
    let layout = maps::layout();
    let index = kread::word(folio + layout.folio_index)?;
    let (first, last) = (
        kread::word(vma + layout.vma_start)?,
        kread::word(vma + layout.vma_end)?,
    );
    let pages = index.wrapping_sub(kread::word(vma + layout.vma_pgoff)?);
    let begins = first.wrapping_add(pages << PAGE_SHIFT);
    if begins != start && (start != first || begins > start) {
        return None;
    }
    let end = begins.wrapping_add(len);
    let end = if end < last { end } else { last };
    end.checked_sub(start)
}

/// What memory it is that was unmapped with these `enum ttu_flags`.
#[inline(always)]
fn memory_of(folio: u64, flags: u64) -> Option<u64> {
    let layout = maps::layout();
    let mapping = kread::word(folio + layout.page_mapping)?;
    // PAGE_MAPPING_ANON (include/linux/page-flags.h, 6.1 to 7.3).
    Some(match mapping & 1 {
        // What it reclaims meanwhile, to have memory, is of other files. SAFETY: only this thread writes its own value.
        0 if unsafe { maps::COLLAPSING.get(task::running().tid()) } == Some(&mapping) => {
            memory::COLLAPSING
        }
        0 if layout.ttu_ignore_mlock != KernelLayout::ABSENT
            && flags & layout.ttu_ignore_mlock != 0 =>
        {
            memory::FORCED
        }
        0 => memory::FILE,
        _ => match flag(folio, layout.page_swapbacked_bit) {
            Some(true) => memory::ANONYMOUS,
            Some(false) => memory::FREED,
            None => memory::ANY,
        },
    })
}

/// Whether a bit of a folio's flags is set.
#[inline(always)]
fn flag(folio: u64, bit: u64) -> Option<bool> {
    if bit == KernelLayout::ABSENT {
        return None;
    }
    let flags = kread::word(folio + maps::layout().page_flags)?;
    Some(flags >> (bit & 63) & 1 != 0)
}

/// The order of a folio; 0 where it cannot be told.
#[inline(always)]
fn order(folio: u64) -> u64 {
    let layout = maps::layout();
    if layout.folio_order == KernelLayout::ABSENT {
        return 0;
    }
    if flag(folio, layout.page_head_bit) != Some(true) {
        return 0;
    }
    u64::from(kread::byte(folio + layout.folio_order).unwrap_or(0) & 31)
}
