//! The end of the target's address space, and the one that an exec gives it.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use v2p_common::event::{Number, kind};

use crate::{emit, maps, task};

/// Argument 0 is the mm (6.1 to 7.3). After this nothing that happens to it is told: it is being taken down.
#[raw_tracepoint(tracepoint = "exit_mmap")]
fn exit_mmap(ctx: RawTracePointContext) -> u32 {
    gone(&ctx);
    0
}

#[inline(always)]
fn gone(ctx: &RawTracePointContext) -> Option<()> {
    let control = maps::control()?;
    let mm: u64 = ctx.arg(0);
    if mm == 0 || mm != control.target.mm.get() {
        return None;
    }
    control.target.mm.set(0);
    // exec_mmap gives the task its new mm before it drops the old one (fs/exec.c); a task that exits has none.
    let is_exec = task::mm()? != 0;
    emit::emit_now(control, kind::MM_GONE, |header| Number {
        header,
        number: u64::from(is_exec),
    });
    Some(())
}

/// Fires in the process, after its new program is set up and before the first instruction of it runs.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn sched_process_exec(_ctx: RawTracePointContext) -> u32 {
    exec();
    0
}

#[inline(always)]
fn exec() -> Option<()> {
    let control = maps::control()?;
    let pid = control.target.pid.get();
    if pid == 0 || u64::from(task::in_our_namespace()?.1) != pid {
        return None;
    }
    let mm = task::mm()?;
    control.target.mm.set(mm);
    emit::emit_now(control, kind::EXEC, |header| Number { header, number: mm });
    Some(())
}
