//! Page faults, by the perf software events page-faults-min and -maj.
//!
//! The tracepoints exceptions:page_fault_* fire before the page is mapped; these events fire
//! after, in the faulting task (mm_account_fault, mm/memory.c, 6.1 to 7.3), so a walk then finds
//! what the fault brought. They are attached to the target's threads alone: nobody else
//! pays. Faults that get_user_pages takes on the target's behalf raise neither.
//!
//! Where no other hook tells what happens to a page between two faults, the tracepoints are asked too, for
//! the error code alone: it says whether a page was there when the fault came.

use aya_ebpf::{
    macros::{perf_event, raw_tracepoint},
    programs::{PerfEventContext, RawTracePointContext},
};
use v2p_common::{
    VirtAddr,
    event::{Fault, fault, kind},
};

use crate::{emit, hooks::watched, kread, maps, task, walk};

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

/// Arguments (address, regs, error_code), 6.1 to 7.3.
#[inline(always)]
fn before(ctx: &RawTracePointContext) -> Option<()> {
    let error: u64 = ctx.arg(2);
    if error & PROT == 0 {
        return None;
    }
    let control = maps::control()?;
    let mm = control.target.mm.get();
    if mm == 0 || task::mm()? != mm {
        return None;
    }
    let va: u64 = ctx.arg(0);
    // A full map costs the name of a cause, not an event.
    let _ = maps::PROTECTION.insert(task::tid(), VirtAddr(va).page().0, 0);
    Some(())
}

/// Whether the page at `va` was there before this fault, as far as [`before`] saw it.
#[inline(always)]
fn was_there(va: u64) -> bool {
    let tid = task::tid();
    // SAFETY: only this thread writes its own value.
    let there = unsafe { maps::PROTECTION.get(tid) }.is_some_and(|at| *at == VirtAddr(va).page().0);
    if there {
        let _ = maps::PROTECTION.remove(tid);
    }
    there
}

/// Whether this fault was told already. A thread that was started while its process was being attached to may
/// have the event twice, inherited and of its own: both are served within one fault, on one CPU, with the same
/// count of faults (mm_account_fault counts before it tells).
#[inline(always)]
fn is_told(current: u64) -> Option<bool> {
    let layout = maps::layout();
    let count = kread::word(current + layout.task_min_flt)?
        .wrapping_add(kread::word(current + layout.task_maj_flt)?);
    let now = [u64::from(task::tid()), count];
    let last = maps::last_fault()?;
    // SAFETY: this CPU's own value, and perf events of one CPU do not interrupt each other.
    unsafe {
        let told = *last == now;
        *last = now;
        Some(told)
    }
}

#[inline(always)]
fn after(ctx: &PerfEventContext, major: u32) -> Option<()> {
    let control = maps::control()?;
    let target_mm = control.target.mm.get();
    // SAFETY: the kernel hands every perf_event program a valid context.
    let va = unsafe { (*ctx.ctx).addr };
    if target_mm == 0 || !watched(&control.target, va) {
        return None;
    }
    // Children inherit the perf event, but have another mm.
    let current = task::current();
    if kread::word(current + maps::layout().task_mm)? != target_mm {
        return None;
    }
    if is_told(current)? {
        return None;
    }
    let protection = if was_there(va) { fault::PROTECTION } else { 0 };
    let end = walk::pgd_of(target_mm)
        .and_then(|pgd| walk::walk(&control.direct_map, pgd, VirtAddr(va), |_, _| {}));
    debug!(ctx, "fault at {:x}, major {}", va, major);
    emit::emit(control, kind::FAULT, |header| Fault {
        header,
        va,
        entry: end.map_or(0, |end| end.entry),
        level: end.map_or(u32::MAX, |end| end.level as u32),
        flags: major | protection,
    });
    Some(())
}
