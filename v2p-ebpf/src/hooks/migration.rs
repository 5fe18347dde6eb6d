//! Migration entries set and removed, base pages and huge ones.
//!
//! The tracepoints carry address and entry but no owner, and run in the mover's context; they fire
//! after the entry was written, with the page-table lock held (mm/rmap.c try_to_migrate_one,
//! mm/migrate.c remove_migration_pte, 6.1 to 7.3). So an event is exactly that process's whose
//! own table holds that entry at that address.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use v2p_common::{
    event::{Migration, Number, kind},
    pte::Entry,
};

use crate::{
    atomic, emit, family,
    hooks::{Space, watched},
    maps, task,
};

#[raw_tracepoint(tracepoint = "set_migration_pte")]
fn set_migration_pte(ctx: RawTracePointContext) -> u32 {
    migration(&ctx, kind::MIGRATION_SET);
    0
}

#[raw_tracepoint(tracepoint = "remove_migration_pte")]
fn remove_migration_pte(ctx: RawTracePointContext) -> u32 {
    migration(&ctx, kind::MIGRATION_REMOVE);
    0
}

#[raw_tracepoint(tracepoint = "set_migration_pmd")]
fn set_migration_pmd(ctx: RawTracePointContext) -> u32 {
    migration(&ctx, kind::MIGRATION_SET);
    0
}

#[raw_tracepoint(tracepoint = "remove_migration_pmd")]
fn remove_migration_pmd(ctx: RawTracePointContext) -> u32 {
    migration(&ctx, kind::MIGRATION_REMOVE);
    0
}

#[inline(always)]
fn migration(ctx: &RawTracePointContext, kind: u32) -> Option<()> {
    let control = maps::control()?;
    let (va, entry): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if !watched(&control.target, va) {
        return None;
    }
    debug!(ctx, "migration: entry {:x} at {:x}", entry, va);
    // The target first: what an exec has it leave to others is among those before it is the target's no more.
    let mm = control.target.mm.get();
    migrated_in(Space { control, mm }, kind, va, entry);
    if family::follows() {
        let used = control.family.used.get();
        for (number, place) in control.family.places.iter().enumerate() {
            if number as u64 >= used {
                break;
            }
            let mm = place.mm.get();
            migrated_in(Space { control, mm }, kind, va, entry);
        }
    }
    Some(())
}

/// Tells of it, where the table of `space` holds the entry. Relatives often have the same one at the same address: then it
/// is told of each as often as it comes, and all but the first time no frame changes.
#[inline(always)]
fn migrated_in(space: Space, kind: u32, va: u64, entry: u64) -> Option<()> {
    let Space { control, mm } = space;
    if mm == 0 {
        return None;
    }
    let Some(end) = space.walk(va) else {
        // It may have been the target's: that is a loss too.
        atomic::increment(&control.account.lost);
        return None;
    };
    if !Entry(end.entry).same_but_accessed_dirty(Entry(entry)) {
        return None;
    }
    if kind == kind::MIGRATION_SET {
        // Who is not in it when its call ends is not asked for the reason: that costs a word, not an event.
        let _ = maps::MOVERS.insert(task::running().tid(), 1, 0);
    }
    emit::emit(control, mm, kind, |header| Migration {
        header,
        va,
        entry,
        level: end.level as u32,
        reserved: 0,
    });
    Some(())
}

/// Fires at the end of migrate_pages (mm/migrate.c), in the mover. The reason is its last argument: of seven in 6.1. Two
/// programs, since one that reads an argument too many is not attached, and the verifier wants to know which it reads.
#[raw_tracepoint(tracepoint = "mm_migrate_pages")]
fn migrated_of_7(ctx: RawTracePointContext) -> u32 {
    migrated(ctx.arg(6));
    0
}

/// Of eight in 6.12 to 7.3.
#[raw_tracepoint(tracepoint = "mm_migrate_pages")]
fn migrated_of_8(ctx: RawTracePointContext) -> u32 {
    migrated(ctx.arg(7));
    0
}

#[inline(always)]
fn migrated(reason: u64) -> Option<()> {
    let tid = task::running().tid();
    // SAFETY: only this thread writes its own value.
    unsafe { maps::MOVERS.get(tid) }?;
    let _ = maps::MOVERS.remove(tid);
    emit::emit(maps::control()?, 0, kind::MIGRATED, |header| Number {
        header,
        number: reason & 0xffff_ffff,
    });
    Some(())
}
