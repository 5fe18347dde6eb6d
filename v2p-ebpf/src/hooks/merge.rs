//! Pages that are merged or collapsed into another: KSM and huge pages.

use aya_ebpf::{
    macros::{fentry, fexit, raw_tracepoint},
    programs::{FEntryContext, FExitContext, RawTracePointContext},
};
use v2p_common::{PAGE_SIZE, VirtAddr, control::BLOCK_BYTES, event::how, layout::KernelLayout};

use crate::{
    hooks::{look, mm_of_vma, space_of},
    kread, maps, task,
};

/// (pfn, rmap_item, mm, err), 6.12 to 7.3: merged with the zero page, or the first of a pair.
#[raw_tracepoint(tracepoint = "ksm_merge_one_page")]
fn ksm_merge_one_page(ctx: RawTracePointContext) -> u32 {
    merged(ctx.arg(1), ctx.arg(2), ctx.arg(3));
    0
}

/// (ksm_page, pfn, rmap_item, mm, err), 6.12 to 7.3.
#[raw_tracepoint(tracepoint = "ksm_merge_with_ksm_page")]
fn ksm_merge_with_ksm_page(ctx: RawTracePointContext) -> u32 {
    merged(ctx.arg(2), ctx.arg(3), ctx.arg(4));
    0
}

/// The rmap_item's address has flags in the bits below the page (mm/ksm.c, UNSTABLE_FLAG and STABLE_FLAG).
#[inline(always)]
fn merged(rmap_item: u64, mm: u64, error: i32) -> Option<()> {
    let offset = maps::layout().ksm_address;
    if error != 0 || offset == KernelLayout::ABSENT {
        return None;
    }
    let space = space_of(mm)?;
    let va = VirtAddr(kread::word(rmap_item + offset)?).page().0;
    look(space, how::KSM_MERGE, va, PAGE_SIZE, 0)
}

/// try_to_merge_one_page (vma, page, kpage), mm/ksm.c, for kernels without those tracepoints: somewhere in the vma.
#[fexit]
fn ksm_merge(ctx: FExitContext) -> u32 {
    let failed: i32 = ctx.arg(3);
    if failed == 0 {
        in_vma(ctx.arg(0), how::KSM_MERGE);
    }
    0
}

#[inline(always)]
fn in_vma(vma: u64, how: u32) -> Option<()> {
    let space = space_of(mm_of_vma(vma)?)?;
    let layout = maps::layout();
    let start = kread::word(vma + layout.vma_start)?;
    let end = kread::word(vma + layout.vma_end)?;
    look(space, how, start, end.saturating_sub(start), 0)
}

/// break_ksm (vma, addr, lock_vma), mm/ksm.c, 6.1 to 6.18; (vma, addr, end, lock_vma), 7.3.
#[fexit]
fn ksm_break(ctx: FExitContext) -> u32 {
    let va: u64 = ctx.arg(1);
    let len = if maps::layout().ksm_break_arguments == 4 {
        let end: u64 = ctx.arg(2);
        end.saturating_sub(va)
    } else {
        PAGE_SIZE
    };
    if let Some(space) = mm_of_vma(ctx.arg(0)).and_then(space_of) {
        look(space, how::KSM_BREAK, va, len, 0);
    }
    0
}

/// SCAN_SUCCEED of `enum scan_result` (mm/khugepaged.c, 6.1 to 7.3); 0 is SCAN_FAIL.
const SUCCEED: i32 = 1;

/// (mm, isolated, status, ...), 6.1 to 7.3: it does not say where.
#[raw_tracepoint(tracepoint = "mm_collapse_huge_page")]
fn mm_collapse_huge_page(ctx: RawTracePointContext) -> u32 {
    let status: i32 = ctx.arg(2);
    if let (SUCCEED, Some(space)) = (status, space_of(ctx.arg(0))) {
        let target = &space.control.target;
        let (start, end) = (target.start.get(), target.end.get());
        look(space, how::COLLAPSE, start, end.saturating_sub(start), 0);
    }
    0
}

/// (mm, folio or pfn, index, addr, is_shmem, file, nr, result), 6.12 to 7.3.
#[raw_tracepoint(tracepoint = "mm_khugepaged_collapse_file")]
fn mm_khugepaged_collapse_file(ctx: RawTracePointContext) -> u32 {
    let result: i32 = ctx.arg(7);
    if result == SUCCEED {
        done_at(ctx.arg(0), ctx.arg(3), how::COLLAPSE);
    }
    0
}

/// collapse_huge_page (mm, address, ...), mm/khugepaged.c, 6.1 to 7.3. Before it gives up it may have brought pages from swap.
#[fexit]
fn collapse_anonymous(ctx: FExitContext) -> u32 {
    let how = match has_succeeded(&ctx) {
        true => how::COLLAPSE,
        false => how::FILL,
    };
    done_at(ctx.arg(0), ctx.arg(1), how);
    0
}

/// Whether the function, which has returned a `enum scan_result`, did what it is for.
#[inline(always)]
fn has_succeeded(ctx: &FExitContext) -> bool {
    ctx.ret().is_ok_and(|result: u64| result as i32 == SUCCEED)
}

/// collapse_file (mm, addr, file, ...), before it takes the base pages out of all page tables that map them; mm/khugepaged.c, 6.1 to 7.3.
#[fentry]
fn collapse_file_begins(ctx: FEntryContext) -> u32 {
    let file: u64 = ctx.arg(2);
    if let Some(mapping) = kread::word(file + maps::layout().file_mapping) {
        // A full map costs the name of a cause, not an event.
        let _ = maps::COLLAPSING.insert(task::running().tid(), mapping, 0);
    }
    0
}

/// collapse_file (mm, addr, ...), mm/khugepaged.c, 6.1 to 7.3.
#[fexit]
fn collapse_file(ctx: FExitContext) -> u32 {
    let _ = maps::COLLAPSING.remove(task::running().tid());
    if has_succeeded(&ctx) {
        done_at(ctx.arg(0), ctx.arg(1), how::COLLAPSE);
    }
    0
}

/// collapse_pte_mapped_thp (mm, addr, ...), mm/khugepaged.c, 6.1 to 6.18; try_collapse_pte_mapped_thp, the same, 7.x.
#[fexit]
fn collapse_mapped(ctx: FExitContext) -> u32 {
    if has_succeeded(&ctx) {
        done_at(ctx.arg(0), ctx.arg(1), how::COLLAPSE);
    }
    0
}

/// In the 2 MiB that hold `va`.
#[inline(always)]
fn done_at(mm: u64, va: u64, how: u32) -> Option<()> {
    let first = va & !(BLOCK_BYTES - 1);
    look(space_of(mm)?, how, first, BLOCK_BYTES, 0)
}
