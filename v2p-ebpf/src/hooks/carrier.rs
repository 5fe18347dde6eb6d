//! The carrier: serves v2p's own requests from inside its own system call.
//!
//! While v2p preads /proc/PID/pagemap, the kernel takes the mmap_lock of the target and
//! passes its `mm` to this tracepoint, in v2p's thread. So the program has the mm of any process
//! without a function hook, under the lock, just before the kernel walks the same entries
//! (seen on 6.1, 6.12, 6.18, 7.2, 7.3; from 6.12 on it fires twice a read, and the
//! last answer stays).

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use v2p_common::{
    PAGE_SHIFT, VirtAddr,
    control::{AT_ONCE, BLOCK_BYTES, BLOCK_PAGES, Control, Table, UNREAD, request, status},
    event::{Number, kind},
};

use crate::{atomic, emit, kread, maps, task, walk};

#[raw_tracepoint(tracepoint = "mmap_lock_acquire_returned")]
fn carrier(ctx: RawTracePointContext) -> u32 {
    if let Some(control) = maps::control() {
        serve(control, &ctx);
    }
    0
}

#[inline(always)]
fn serve(control: &Control, ctx: &RawTracePointContext) {
    let Control {
        direct_map,
        request,
        answer,
        ..
    } = control;
    let kind = request.kind.get();
    if kind == request::NONE {
        return;
    }
    if !task::is_asking(request) {
        return;
    }
    // Argument 0 is the mm in every version; what follows it is not the same everywhere.
    let mm: u64 = ctx.arg(0);
    if mm == request.not_mm.get() {
        return;
    }
    let argument = request.argument.get();
    let done = match kind {
        request::WALK => walk_into(control, mm, argument),
        request::READ_PHYSICAL => read_into(control, direct_map.base.get() + argument),
        request::TABLES => copy_next_table(control, mm),
        request::TABLES_AT_ONCE => copy_tables(control, mm),
        request::DIRECTORY => copy_directory(control, mm),
        request::MARK => {
            // Once, however often the lock is taken.
            if answer.fired.get() == 0 {
                emit::emit_now(control, 0, kind::MARKER, |header| Number {
                    header,
                    number: argument,
                });
            }
            Some(())
        }
        _ => None,
    };
    debug!(
        ctx,
        "carrier: request {} for {:x} in mm {:x}", kind, argument, mm
    );
    answer.mm.set(mm);
    let status = if done.is_some() {
        status::OK
    } else {
        status::UNREADABLE
    };
    answer.status.set(status);
    atomic::increment(&answer.fired);
}

#[inline(always)]
fn walk_into(control: &Control, mm: u64, va: u64) -> Option<()> {
    let answer = &control.answer;
    for entry in &answer.entries {
        entry.set(0);
    }
    let pgd = walk::pgd_of(mm)?;
    answer.pgd.set(pgd);
    let end = walk::walk(
        &control.direct_map,
        pgd,
        VirtAddr(va),
        |address, _| kread::word(address),
        |level, entry| {
            if let Some(place) = answer.entries.get(level as usize) {
                place.set(entry);
            }
        },
    )?;
    answer.end_level.set(end.level as u64);
    Some(())
}

/// Copies the page table of the next block.
///
/// pread of pagemap takes the lock once a block, and once more at the start from 6.12 on, or oftener (7.3: seen
/// twice a block). So the block is not told by a count, but by what the kernel has put into the caller's buffer: where the
/// current block has arrived, the next one is under way.
#[inline(always)]
fn copy_next_table(control: &Control, mm: u64) -> Option<()> {
    let Control {
        request, answer, ..
    } = control;
    let start = request.argument.get();
    // The first block may start in its middle; the others are whole.
    let before = (start >> PAGE_SHIFT) & (BLOCK_PAGES as u64 - 1);
    let mut block = answer.block.get();
    let first_word = |block: u64| (block * BLOCK_PAGES as u64).saturating_sub(before);
    if kread::user_word(request.words.get() + 8 * first_word(block))? != UNREAD {
        block += 1;
        answer.block.set(block);
    }
    if block >= request.blocks.get() {
        return Some(());
    }
    copy_table(control, walk::pgd_of(mm)?, start, block)
}

/// Copies the page tables of all blocks, the first time that the lock is taken for this request.
#[inline(always)]
fn copy_tables(control: &Control, mm: u64) -> Option<()> {
    let Control {
        request, answer, ..
    } = control;
    if answer.fired.get() != 0 {
        return Some(());
    }
    let pgd = walk::pgd_of(mm)?;
    let start = request.argument.get();
    let blocks = request.blocks.get();
    for block in 0..AT_ONCE as u64 {
        if block >= blocks {
            break;
        }
        copy_table(control, pgd, start, block)?;
    }
    Some(())
}

/// Copies the page table of a block, counted from the one that holds `start`.
#[inline(always)]
fn copy_table(control: &Control, pgd: u64, start: u64, block: u64) -> Option<()> {
    let va = VirtAddr((start & !(BLOCK_BYTES - 1)) + block * BLOCK_BYTES);
    let down = walk::to_table(&control.direct_map, pgd, va, false);
    put_table(control, down, block)
}

/// Copies the page middle directory.
#[inline(always)]
fn copy_directory(control: &Control, mm: u64) -> Option<()> {
    let va = VirtAddr(control.request.argument.get());
    let down = walk::to_table(&control.direct_map, walk::pgd_of(mm)?, va, true);
    put_table(control, down, 0)
}

/// Copies a table to which a walk came, or tells where it ended above, to place `index`.
#[inline(always)]
fn put_table(control: &Control, down: walk::Down, index: u64) -> Option<()> {
    let place = maps::table(index)?;
    let (level, entry) = match down.table {
        0 => (down.level, down.entry),
        // SAFETY: `place` is a whole value of the map.
        table if unsafe { kread::table(table, &raw mut (*place).entries) } => (0, 0),
        _ => (Table::UNREADABLE, 0),
    };
    // SAFETY: as above; user space looks only after this program has ended.
    unsafe {
        (*place).level = level;
        (*place).entry = entry;
        (*place).number = control.request.number.get();
    }
    Some(())
}

#[inline(always)]
fn read_into(control: &Control, address: u64) -> Option<()> {
    for (i, place) in control.answer.bytes.iter().enumerate() {
        place.set(kread::word(address + 8 * i as u64)?);
    }
    Some(())
}
