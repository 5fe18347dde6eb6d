//! Programs that do nothing, of the kinds that no hook is of: `v2p doctor` loads them, to see whether the kernel
//! takes that kind, and attaches none.

use aya_ebpf::{
    macros::{btf_tracepoint, tracepoint},
    programs::{BtfTracePointContext, TracePointContext},
};

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
