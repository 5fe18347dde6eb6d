//! The end of the target's address space: exit, or the old one of an exec.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use v2p_common::event::{Plain, kind};

use crate::{emit, maps};

#[raw_tracepoint(tracepoint = "exit_mmap")]
fn exit_mmap(ctx: RawTracePointContext) -> u32 {
    if let Some(control) = maps::control() {
        let mm: u64 = ctx.arg(0);
        if mm != 0 && mm == control.target.mm.get() {
            emit::emit(control, kind::MM_GONE, |header| Plain { header });
        }
    }
    0
}
