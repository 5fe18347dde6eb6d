//! Entries that go to another address: mremap. The hooks are at the start: the mmap_lock is held for writing until the move is
//! done, and where it fails half way, the kernel moves back by the same function.

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use v2p_common::{event::how, layout::KernelLayout};

use crate::{
    hooks::{look_at_two, mm_of_vma, space_of},
    kread, maps,
};

/// move_page_tables (vma, old_addr, new_vma, new_addr, len, ...), mm/mremap.c, 6.1 and 6.12.
#[fentry]
fn remap_range(ctx: FEntryContext) -> u32 {
    moved(ctx.arg(0), ctx.arg(1), ctx.arg(3), ctx.arg(4));
    0
}

/// move_page_tables (pmc), mm/mremap.c, 6.18 to 7.3.
#[fentry]
fn remap_control(ctx: FEntryContext) -> u32 {
    by_control(ctx.arg(0));
    0
}

#[inline(always)]
fn by_control(control: u64) -> Option<()> {
    let layout = maps::layout();
    if layout.move_old == KernelLayout::ABSENT {
        return None;
    }
    let old = kread::word(control + layout.move_old_addr)?;
    let end = kread::word(control + layout.move_old_end)?;
    moved(
        kread::word(control + layout.move_old)?,
        old,
        kread::word(control + layout.move_new_addr)?,
        end.saturating_sub(old),
    )
}

#[inline(always)]
fn moved(vma: u64, old: u64, new: u64, len: u64) -> Option<()> {
    let space = space_of(mm_of_vma(vma)?)?;
    look_at_two(space, how::REMAP, old, len, new, 0)
}
