//! Page faults, by the perf software events page-faults-min and -maj.
//!
//! The tracepoints exceptions:page_fault_* fire before the page is mapped; these events fire
//! after, in the faulting task (mm_account_fault, mm/memory.c, 6.1 to 7.3), so a walk then finds
//! what the fault brought. They are attached to the target's threads alone: nobody else
//! pays. Faults that get_user_pages takes on the target's behalf raise neither.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_task},
    macros::perf_event,
    programs::PerfEventContext,
};
use v2p_common::{
    VirtAddr,
    event::{Fault, kind},
};

use crate::{emit, hooks::watched, kread, maps, walk};

#[perf_event]
fn fault_minor(ctx: PerfEventContext) -> u32 {
    fault(&ctx, 0);
    0
}

#[perf_event]
fn fault_major(ctx: PerfEventContext) -> u32 {
    fault(&ctx, 1);
    0
}

/// Whether this fault was told already. A thread that was started while its process was being attached to may
/// have the event twice, inherited and of its own: both are served within one fault, on one CPU, with the same
/// count of faults (mm_account_fault counts before it tells).
#[inline(always)]
fn is_told(task: u64) -> Option<bool> {
    let layout = maps::layout();
    let count = kread::word(task + layout.task_min_flt)?
        .wrapping_add(kread::word(task + layout.task_maj_flt)?);
    let now = [u64::from(bpf_get_current_pid_tgid() as u32), count];
    let last = maps::last_fault()?;
    // SAFETY: this CPU's own value, and perf events of one CPU do not interrupt each other.
    unsafe {
        let told = *last == now;
        *last = now;
        Some(told)
    }
}

#[inline(always)]
fn fault(ctx: &PerfEventContext, major: u32) -> Option<()> {
    let control = maps::control()?;
    let target_mm = control.target.mm.get();
    // SAFETY: the kernel hands every perf_event program a valid context.
    let va = unsafe { (*ctx.ctx).addr };
    if target_mm == 0 || !watched(&control.target, va) {
        return None;
    }
    // Children inherit the perf event, but have another mm.
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    if kread::word(task + maps::layout().task_mm)? != target_mm {
        return None;
    }
    if is_told(task)? {
        return None;
    }
    let end = walk::pgd_of(target_mm)
        .and_then(|pgd| walk::walk(&control.direct_map, pgd, VirtAddr(va), |_, _| {}));
    debug!(ctx, "fault at {:x}, major {}", va, major);
    emit::emit(control, kind::FAULT, |header| Fault {
        header,
        va,
        entry: end.map_or(0, |end| end.entry),
        level: end.map_or(u32::MAX, |end| end.level as u32),
        major,
    });
    Some(())
}
