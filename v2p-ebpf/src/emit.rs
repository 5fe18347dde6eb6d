//! The only way into the ring: stamps number, time and task, and counts what found no room.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid,
    generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
};
use v2p_common::{
    control::Control,
    event::{Header, Number, fault, kind},
    lane::{Lane, Slot},
};

use crate::{atomic, maps, task::Task};

/// include/uapi/linux/bpf.h
const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;

/// What a fault brought.
pub(crate) struct Brought {
    pub(crate) mm: u64,
    pub(crate) va: u64,
    pub(crate) entry: u64,
    pub(crate) level: u32,
    pub(crate) flags: u32,
}

/// How often it is looked how full the ring is: every so many events.
const LOOK_EVERY: u64 = 64;

/// Emits one event, and wakes the reader where much waits for it. Waking costs more than the event: the reader
/// comes by on its own, many times a second, and must be woken only before the ring is full. `mm`: what it is about.
#[inline(always)]
pub(crate) fn emit<T: 'static>(
    control: &Control,
    mm: u64,
    kind: u32,
    make: impl FnOnce(Header) -> T,
) {
    put(control, mm, kind, make, |seq| {
        let crowded = control.account.crowded.get();
        if seq % LOOK_EVERY == 0 && maps::EVENTS.query(BPF_RB_AVAIL_DATA) > crowded {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        }
    });
}

/// Emits one event, and wakes the reader. False: there was no room for it.
#[inline(always)]
pub(crate) fn emit_now<T: 'static>(
    control: &Control,
    mm: u64,
    kind: u32,
    make: impl FnOnce(Header) -> T,
) -> bool {
    put(control, mm, kind, make, |_| BPF_RB_FORCE_WAKEUP)
}

/// `make` builds the event around its header, `wake` gives the flags for its number.
#[inline(always)]
fn put<T: 'static>(
    control: &Control,
    mm: u64,
    kind: u32,
    make: impl FnOnce(Header) -> T,
    wake: impl FnOnce(u64) -> u64,
) -> bool {
    let seq = atomic::increment(&control.account.seq);
    let Some(mut slot) = maps::EVENTS.reserve::<T>(0) else {
        atomic::increment(&control.account.lost);
        return false;
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
        mm,
    };
    let place: &mut MaybeUninit<T> = &mut slot;
    place.write(make(header));
    slot.submit(wake(seq));
    true
}

/// The lane of this CPU, and its number. For programs that run with preemption off.
#[inline(always)]
pub(crate) fn lane() -> Option<(u32, &'static Lane)> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    Some((cpu, maps::lane(cpu)?))
}

/// That nobody is taking entries out, since it was looked for.
#[derive(Clone, Copy)]
pub(crate) struct Quiet {
    /// How often somebody had begun to; `None`: somebody was at it.
    zaps: Option<u64>,
}

impl Quiet {
    /// To be asked before a walk.
    #[inline(always)]
    pub(crate) fn now(control: &Control) -> Self {
        let account = &control.account;
        let zaps = account.zaps.get();
        Self {
            zaps: (account.zapping.get() == 0).then_some(zaps),
        }
    }

    /// To be asked when what was found has its number: a removal that begins later has a later one, and one that ended before the walk an
    /// earlier one. Of any other it is not known which was first.
    #[inline(always)]
    pub(crate) fn lasts(self, control: &Control) -> bool {
        self.zaps == Some(control.account.zaps.get())
    }
}

/// Puts a fault into the lane of this CPU.
#[inline(always)]
pub(crate) fn emit_fault(
    control: &Control,
    (cpu, lane): (u32, &Lane),
    task: Task,
    brought: &Brought,
    quiet: Quiet,
) -> Option<()> {
    let account = &control.account;
    let seq = atomic::increment(&account.seq);
    let contested = match quiet.lasts(control) {
        true => 0,
        false => fault::CONTESTED,
    };
    let (slots, written) = (account.lane.get(), lane.written.get());
    let waiting = written.wrapping_sub(lane.read.get());
    let place = maps::slot(cpu * slots as u32 + (written & (slots - 1)) as u32);
    let Some(place) = place.filter(|_| waiting < slots) else {
        atomic::increment(&account.lost);
        return None;
    };
    let slot = Slot {
        seq,
        // SAFETY: the helper has no preconditions.
        t_ns: unsafe { bpf_ktime_get_ns() },
        task: Slot::pack(
            task.tid(),
            task.tgid(),
            brought.level,
            brought.flags | contested,
        ),
        comm: task.comm(),
        va: brought.va,
        entry: brought.entry,
        mm: brought.mm,
    };
    // SAFETY: a value of the map, which nobody reads before it counts as written.
    unsafe { place.write_volatile(slot) };
    lane.written.set(written.wrapping_add(1));
    if waiting > slots / 4 && written % LOOK_EVERY == 0 {
        emit_now(control, 0, kind::CROWDED, |header| Number {
            header,
            number: u64::from(cpu),
        });
    }
    Some(())
}
