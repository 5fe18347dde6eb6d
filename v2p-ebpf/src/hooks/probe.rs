//! Programs of the kinds that no hook is of: `v2p doctor` loads and attaches them, to see whether the kernel takes
//! that kind, and takes them off at once.

use aya_ebpf::{
    macros::{btf_tracepoint, lsm, tracepoint},
    programs::{BtfTracePointContext, LsmContext, TracePointContext},
};
use v2p_common::witness::LSM_PROBE;

use super::denial;

#[tracepoint]
fn probe_tracepoint(_ctx: TracePointContext) -> u32 {
    0
}

#[btf_tracepoint(function = "exit_mmap")]
fn probe_tp_btf(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// An iterator over tasks, in the section that the loader knows it by: there is no macro for it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn probe_iter(_ctx: *mut core::ffi::c_void) -> i32 {
    0
}

/// Asked at every open(2), where the kernel asks security modules that are eBPF programs; it allows all, and notes that it
/// was asked by v2p.
#[lsm(hook = "file_open")]
fn probe_lsm(_ctx: LsmContext) -> i32 {
    denial::note_at(LSM_PROBE, 0, 0);
    0
}
