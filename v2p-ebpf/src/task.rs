//! The running task.

use aya_ebpf::{
    bindings::bpf_pidns_info,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_task, bpf_get_current_task_btf, bpf_get_ns_current_pid_tgid,
            bpf_task_pt_regs,
        },
    },
};
use v2p_common::event::zap;

use crate::{kread, maps};

/// `struct pt_regs` of x86-64 (arch/x86/include/asm/ptrace.h), which ptrace shows to user space and so never changes:
/// byte offsets of the arguments of a system call in their order, and of its number.
pub(crate) mod regs {
    pub(crate) const ARGUMENTS: [u64; 5] = [112, 104, 96, 56, 72];
    pub(crate) const NUMBER: u64 = 120;
}

/// Its thread number in the initial PID namespace.
#[inline(always)]
pub(crate) fn tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// Its `task_struct`.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// Its `mm`; 0 for a kernel thread.
#[inline(always)]
pub(crate) fn mm() -> Option<u64> {
    kread::word(current() + maps::layout().task_mm)
}

/// Thread and process as v2p's own PID namespace numbers them; `None` in any other.
#[inline(always)]
pub(crate) fn in_our_namespace() -> Option<(u32, u32)> {
    let layout = maps::layout();
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: `ids` is a valid place of the size given.
    let failed = unsafe {
        bpf_get_ns_current_pid_tgid(
            layout.pid_ns_dev,
            layout.pid_ns_ino,
            &raw mut ids,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    (failed == 0).then_some((ids.pid, ids.tgid))
}

/// The number of the system call that it is in, as [`zap::CALL`] has it.
#[inline(always)]
pub(crate) fn system_call() -> u64 {
    if mm().unwrap_or(0) == 0 {
        return zap::NO_CALL;
    }
    // SAFETY: the helpers take the current task and give the registers that it entered the kernel with.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    kread::word(regs as u64 + regs::NUMBER).map_or(zap::NO_CALL, |number| number & zap::CALL)
}
