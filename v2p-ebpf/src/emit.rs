//! The only way into the ring: stamps number, time and task, and counts what found no room.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns,
};
use v2p_common::{control::Control, event::Header};

use crate::{atomic, maps};

/// include/uapi/linux/bpf.h
const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;

/// How often it is looked how full the ring is: every so many events.
const LOOK_EVERY: u64 = 64;

/// Emits one event, and wakes the reader where much waits for it. Waking costs more than the event: the reader
/// comes by on its own, many times a second, and must be woken only before the ring is full.
#[inline(always)]
pub(crate) fn emit<T: 'static>(control: &Control, kind: u32, make: impl FnOnce(Header) -> T) {
    put(control, kind, make, |seq| {
        let crowded = control.account.crowded.get();
        if seq % LOOK_EVERY == 0 && maps::EVENTS.query(BPF_RB_AVAIL_DATA) > crowded {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        }
    });
}

/// Emits one event, and wakes the reader.
#[inline(always)]
pub(crate) fn emit_now<T: 'static>(control: &Control, kind: u32, make: impl FnOnce(Header) -> T) {
    put(control, kind, make, |_| BPF_RB_FORCE_WAKEUP);
}

/// `make` builds the event around its header, `wake` gives the flags for its number.
#[inline(always)]
fn put<T: 'static>(
    control: &Control,
    kind: u32,
    make: impl FnOnce(Header) -> T,
    wake: impl FnOnce(u64) -> u64,
) {
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
    slot.submit(wake(seq));
}
