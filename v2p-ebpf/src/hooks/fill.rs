//! Pages that somebody needed: get_user_pages takes faults that raise no event. Hooks on functions, where the kernel
//! lets us; which of them, user space decides, since one calls the other.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE,
    event::{how, mapped},
};

use crate::{
    emit::Quiet,
    hooks::{look, look_then, mm_of_vma, space_of},
    kread, maps, task,
};

/// set_pte_range (vmf, folio, page, nr, addr), mm/memory.c, 6.12 to 7.3; do_set_pte (vmf, page, addr), 6.1: pages of a file where nothing was, for
/// a fault: its own, and its neighbours in the page cache (fault-around), of which no event of a fault tells. The page-table lock is held.
#[fexit]
fn mapped(ctx: FExitContext) -> u32 {
    match maps::layout().map_arguments {
        5 => {
            let pages: u64 = ctx.arg(3);
            mapped_at(ctx.arg(0), ctx.arg(4), pages & 0xffff_ffff);
        }
        3 => {
            mapped_at(ctx.arg(0), ctx.arg(2), 1);
        }
        _ => {}
    }
    0
}

#[inline(always)]
fn mapped_at(fault: u64, va: u64, pages: u64) -> Option<()> {
    let vma = kread::word(fault + maps::layout().fault_vma)?;
    let space = space_of(mm_of_vma(vma)?)?;
    let quiet = Quiet::now(space.control);
    look_then(
        space,
        how::MAPPED,
        (va, pages << PAGE_SHIFT),
        va,
        || match quiet.lasts(space.control) {
            true => 0,
            false => mapped::CONTESTED,
        },
    )
}

/// __get_user_pages (mm, start, nr_pages, ...), mm/gup.c, 6.1 to 7.3; also __gup_longterm_locked, the same.
#[fexit]
fn gup(ctx: FExitContext) -> u32 {
    let pages: u64 = ctx.arg(2);
    filled(ctx.arg(0), ctx.arg(1), pages << PAGE_SHIFT);
    0
}

/// populate_vma_page_range (vma, start, end, locked), mm/gup.c, 6.1 to 7.3: mlock, MAP_POPULATE.
#[fexit]
fn populate(ctx: FExitContext) -> u32 {
    filled_in(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// faultin_vma_page_range (vma, start, end, write, locked), mm/gup.c, 6.1: MADV_POPULATE_READ and _WRITE.
#[fexit]
fn populate_as_advised(ctx: FExitContext) -> u32 {
    filled_in(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// __access_remote_vm (mm, addr, buf, len, ...), mm/memory.c, 6.1 to 7.3: /proc/PID/mem, ptrace.
#[fexit]
fn access_remote(ctx: FExitContext) -> u32 {
    let len: u64 = ctx.arg(3);
    filled(ctx.arg(0), ctx.arg(1), len & 0xffff_ffff);
    0
}

/// unuse_pte_range (vma, pmd, addr, end, type), mm/swapfile.c, 6.1 to 7.3: swapoff.
#[fexit]
fn unuse(ctx: FExitContext) -> u32 {
    filled_in(ctx.arg(0), ctx.arg(2), ctx.arg(3));
    0
}

/// uprobe_write_opcode (auprobe, mm, vaddr, opcode), kernel/events/uprobes.c, 6.1 and 6.12; (auprobe, vma, vaddr, opcode, is_register), 7.3: the
/// copy of a page of text, with a breakpoint in it. Where the last one was taken out, the copy is dropped for the file's page, which the next
/// who needs it brings.
#[fexit]
fn uprobe(ctx: FExitContext) -> u32 {
    let (whose, va): (u64, u64) = (ctx.arg(1), ctx.arg(2));
    // No mm has another mm where a vma has its own: what is read of one that is not watched is no mm that is.
    let space = space_of(whose).or_else(|| space_of(mm_of_vma(whose)?));
    if let Some(space) = space {
        let page = va & !(PAGE_SIZE - 1);
        look(space, how::FILL, page, PAGE_SIZE, 0);
        look(space, how::ZAP, page, PAGE_SIZE, task::system_call());
    }
    0
}

#[inline(always)]
fn filled_in(vma: u64, start: u64, end: u64) -> Option<()> {
    filled(mm_of_vma(vma)?, start, end.saturating_sub(start))
}

#[inline(always)]
fn filled(mm: u64, start: u64, len: u64) -> Option<()> {
    // In whole pages: bytes may lie across two.
    let first = start & !(PAGE_SIZE - 1);
    let len = start.saturating_add(len).saturating_sub(first);
    look(space_of(mm)?, how::FILL, first, len, 0)
}
