//! Page faults, by the perf software events page-faults-min and -maj.
//!
//! The tracepoints exceptions:page_fault_* fire before the page is mapped; these events fire
//! after, in the faulting task (mm_account_fault, mm/memory.c, 6.1 to 7.3), so a walk then finds
//! what the fault brought. They are attached to the target's threads alone: nobody else
//! pays. Faults that get_user_pages takes on the target's behalf raise neither.
//!
//! Where no other hook tells what happens to a page between two faults, or the kind of access is asked for, the tracepoints
//! are asked too, for the error code alone: it says whether a page was there when the fault came, and what the CPU wanted. The event page-faults, which fires when a fault comes and for
//! the target's threads alone, would do as well; but a second event makes the target's fault dearer by 150 ns (6.18) than
//! the tracepoint makes everybody's (some 25 ns).

use aya_ebpf::{
    macros::{perf_event, raw_tracepoint},
    programs::{PerfEventContext, RawTracePointContext},
};
use v2p_common::{
    VirtAddr,
    control::Control,
    event::fault,
    lane::{Access, Lane},
};

use crate::{
    atomic,
    emit::{self, Brought},
    hooks::{Space, space_of, watched},
    kread, maps, task, walk,
};

/// X86_PF_PROT (arch/x86/include/asm/trap_pf.h): the CPU's own number.
const PROT: u64 = 1;

#[perf_event]
fn fault_minor(ctx: PerfEventContext) -> u32 {
    after(&ctx, 0);
    0
}

#[perf_event]
fn fault_major(ctx: PerfEventContext) -> u32 {
    after(&ctx, fault::MAJOR);
    0
}

#[raw_tracepoint(tracepoint = "page_fault_user")]
fn page_fault_user(ctx: RawTracePointContext) -> u32 {
    before(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "page_fault_kernel")]
fn page_fault_kernel(ctx: RawTracePointContext) -> u32 {
    before(&ctx);
    0
}

/// The address, and whose it is, where it is watched. Children inherit the perf event, but have another mm.
#[inline(always)]
fn address_of(ctx: &PerfEventContext) -> Option<(u64, Space)> {
    // SAFETY: the kernel hands every perf_event program a valid context.
    let va = unsafe { (*ctx.ctx).addr };
    let space = space_of(task::mm())?;
    watched(&space.control.target, va).then_some((va, space))
}

/// Arguments (address, regs, error_code), 6.1 to 7.3.
#[inline(always)]
fn before(ctx: &RawTracePointContext) -> Option<()> {
    let error: u64 = ctx.arg(2);
    let asked = maps::control()?.account.access.get() != 0;
    if error & PROT == 0 && !asked {
        return None;
    }
    let control = space_of(task::mm())?.control;
    let va: u64 = ctx.arg(0);
    let (tid, page) = (task::tid(), VirtAddr(va).page_number());
    if asked && let Some((_, lane)) = emit::lane() {
        lane.access.set(Access { tid, page, error }.pack());
    }
    if error & PROT == 0 {
        return None;
    }
    // SAFETY: only this thread writes its own value.
    let known = unsafe { maps::PROTECTION.get(tid) }.is_some();
    // A full map costs the name of a cause, not an event.
    if maps::PROTECTION.insert(tid, page, 0).is_ok() && !known {
        atomic::increment(&control.account.protected);
    }
    Some(())
}

/// Whether the page at `va` was there before this fault, as far as [`before`] saw it.
#[inline(always)]
fn was_there(control: &Control, tid: u32, va: u64) -> bool {
    if control.account.protected.get() == 0 {
        return false;
    }
    // SAFETY: only this thread writes its own value.
    let Some(at) = (unsafe { maps::PROTECTION.get(tid) }) else {
        return false;
    };
    let there = *at == VirtAddr(va).page_number();
    if maps::PROTECTION.remove(tid).is_ok() {
        atomic::decrement(&control.account.protected);
    }
    there
}

/// Whether this fault was told already. A thread that was started while its process was being attached to may
/// have the event twice, inherited and of its own: both are served within one fault, on one CPU, with the same
/// count of faults (mm_account_fault counts before it tells).
#[inline(always)]
fn is_told(lane: &Lane, tid: u32) -> bool {
    let ([thread, count], now) = (&lane.last, task::faults());
    let told = thread.get() == u64::from(tid) && count.get() == now;
    thread.set(u64::from(tid));
    count.set(now);
    told
}

#[inline(always)]
fn after(ctx: &PerfEventContext, major: u32) -> Option<()> {
    let (cpu, lane) = emit::lane()?;
    lane.runs.set(lane.runs.get().wrapping_add(1));
    let (va, space) = address_of(ctx)?;
    let control = space.control;
    let tid = task::tid();
    if is_told(lane, tid) {
        return None;
    }
    let protection = if was_there(control, tid, va) {
        fault::PROTECTION
    } else {
        0
    };
    // Known where the thread was not moved to another CPU meanwhile, and no other of the target's came between.
    let access = Access::kind(lane.access.get(), tid, VirtAddr(va).page_number());
    let (direct_map, pgd) = (&control.direct_map, task::pgd());
    let end = walk::walk(
        direct_map,
        pgd,
        VirtAddr(va),
        kread::word_in_place,
        |_, _| {},
    );
    // After the walk: a removal that begins later takes nothing that was found. One that ends before has its number before ours.
    let contested = match control.account.zapping.get() {
        0 => 0,
        _ => fault::CONTESTED,
    };
    debug!(ctx, "fault at {:x}, major {}", va, major);
    let brought = Brought {
        mm: space.mm,
        va,
        entry: end.map_or(0, |end| end.entry),
        level: end.map_or(u32::MAX, |end| end.level as u32),
        flags: major | protection | access | contested,
    };
    emit::emit_fault(control, (cpu, lane), tid, &brought)
}
