//! The lives of those that are watched: an address space ends, an exec gives a process another, a process starts another one
//! and ends.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use v2p_common::{
    control::Control,
    event::{Exec, Fork, Number, gone, kind},
};

use crate::{
    atomic, emit, family,
    hooks::{Space, space_of},
    kread, maps, task,
};

/// Argument 0 is the mm (6.1 to 7.3). After this nothing that happens to it is told: it is being taken down.
#[raw_tracepoint(tracepoint = "exit_mmap")]
fn exit_mmap(ctx: RawTracePointContext) -> u32 {
    space_ends(&ctx);
    0
}

#[inline(always)]
fn space_ends(ctx: &RawTracePointContext) -> Option<()> {
    let Space { control, mm } = space_of(ctx.arg(0))?;
    // Who reads of a process may give its old one up last, at the very moment at which the exec names the new one.
    if !atomic::replace(&control.target.mm, mm, 0) && family::follows() {
        family::remove(control, mm);
    }
    // exec_mmap gives the task its new mm before it drops the old one (fs/exec.c); a task that exits has none.
    let number = match task::running().mm() {
        0 => gone::EXIT,
        _ if task::is_in_exec() => gone::EXEC,
        // Who reads of a process, in /proc for instance, holds its mm meanwhile.
        _ => gone::BEFORE,
    };
    emit::emit_now(control, mm, kind::MM_GONE, |header| Number {
        header,
        number,
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
    let followed = control.target.pid.get();
    // By our own namespace's numbers, also of a process that lives in one further down.
    let pid = task::process_number(task::running().address());
    if followed != 0 && u64::from(pid) == followed && family::is_target(&control.target) {
        let before = control.target.mm.get();
        let mm = task::running().mm();
        // Somebody else may still have the old one: a child that shares it (vfork). User space may have found the new one before.
        let stays = before != 0 && before != mm && family::follows();
        if stays {
            family::add(control, before);
        }
        if atomic::swap(&control.target.mm, mm) != before && stays {
            // It was given up meanwhile.
            family::remove(control, before);
        }
        executed(control, mm, pid);
        return Some(());
    }
    if !family::follows() || !family::is_descendant() {
        return None;
    }
    let mm = task::running().mm();
    let mm = if family::add(control, mm) { mm } else { 0 };
    executed(control, mm, pid);
    Some(())
}

#[inline(always)]
fn executed(control: &Control, mm: u64, pid: u32) {
    emit::emit_now(control, mm, kind::EXEC, |header| Exec {
        header,
        pid,
        unheard: task::running().is_unheard().into(),
        faults: task::running().faults(),
    });
}

/// (parent, child), 6.1 to 7.3. Fires in the parent, when the child's tables are copied and it has not run yet (kernel_clone,
/// kernel/fork.c). So nothing that the child does is before it.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn sched_process_fork(ctx: RawTracePointContext) -> u32 {
    forked(ctx.arg(1));
    0
}

#[inline(always)]
fn forked(child: u64) -> Option<()> {
    let Space { control, mm } = space_of(task::running().mm())?;
    let layout = maps::layout();
    if !family::follows() || kread::half(child + layout.task_tgid)? == task::running().tgid() {
        // A thread.
        return None;
    }
    let child_mm = kread::word(child + layout.task_mm)?;
    let entered = family::enter(child);
    // Before the event, so that there is no moment in which nobody looks; user space knows what comes too early.
    let watched = entered && (child_mm == mm || family::add(control, child_mm));
    let (pid, parent) = (
        task::process_number(child),
        task::process_number(task::running().address()),
    );
    let started_ns = kread::word(child + layout.task_boot_start).unwrap_or(0);
    let told = emit::emit_now(control, mm, kind::FORK, |header| Fork {
        header,
        child_mm: if watched { child_mm } else { 0 },
        pid,
        parent,
        started_ns,
    });
    if !watched || !told {
        // What nobody was told of has no owner: that is the loss which is counted.
        family::forget(child);
        if child_mm != mm {
            family::remove(control, child_mm);
        }
    }
    Some(())
}

/// Fires in each thread that ends (6.1 to 7.3; in front of the end of its memory from 6.16 on, after it before).
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit(_ctx: RawTracePointContext) -> u32 {
    ended();
    0
}

#[inline(always)]
fn ended() -> Option<()> {
    let control = maps::control()?;
    if !family::follows() || !task::is_last() {
        return None;
    }
    let number = task::process_number(task::running().address());
    let target = &control.target.pid;
    let is_target = number != 0 && u64::from(number) == target.get();
    if is_target {
        // The number may be another's soon.
        target.set(0);
    } else if !family::leave() {
        return None;
    }
    emit::emit_now(control, 0, kind::ENDED, |header| Number {
        header,
        number: number.into(),
    });
    Some(())
}
