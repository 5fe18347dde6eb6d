//! The only way into the ring: stamps number, time and task, and counts what found no room.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns,
};
use v2p_common::{control::Control, event::Header};

use crate::{atomic, maps};

/// Emits one event; `make` builds it around its header.
#[inline(always)]
pub(crate) fn emit<T: 'static>(control: &Control, kind: u32, make: impl FnOnce(Header) -> T) {
    let seq = atomic::increment(&control.account.seq);
    let Some(mut slot) = maps::EVENTS.reserve::<T>(0) else {
        atomic::increment(&control.account.lost);
        return;
    };
    let task = bpf_get_current_pid_tgid();
    let header = Header {
        kind,
        len: size_of::<T>() as u32,
        seq,
        // SAFETY: the helper has no preconditions.
        t_ns: unsafe { bpf_ktime_get_ns() },
        tid: task as u32,
        tgid: (task >> 32) as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
    };
    let place: &mut MaybeUninit<T> = &mut slot;
    place.write(make(header));
    slot.submit(0);
}
