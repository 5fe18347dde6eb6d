//! Which address spaces are watched: the target's own, and those of its descendants where they are followed.

use v2p_common::{
    control::{Control, TICK_NS, Target},
    layout::KernelLayout,
};

use crate::{atomic, kread, maps, task};

/// Whether children are followed.
#[inline(always)]
pub(crate) fn follows() -> bool {
    maps::layout().follow != 0
}

/// Whether `mm` is one of them. Where nobody is followed it is one comparison.
#[inline(always)]
pub(crate) fn is_watched(control: &Control, mm: u64) -> bool {
    mm != 0 && (mm == control.target.mm.get() || follows() && has(mm))
}

#[inline(always)]
fn has(mm: u64) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { maps::FOLLOWED.get(mm) }.is_some()
}

/// Watches `mm`, a new one, from now on. False: there is no place for it.
#[inline(always)]
pub(crate) fn add(control: &Control, mm: u64) -> bool {
    if has(mm) {
        // One that was at the same address, of whose end no program was told.
        remove(control, mm);
    }
    let added = take_place(control, mm) && maps::FOLLOWED.insert(mm, 1, 0).is_ok();
    if !added {
        remove(control, mm);
    }
    added
}

#[inline(always)]
fn take_place(control: &Control, mm: u64) -> bool {
    let family = &control.family;
    for (number, place) in family.places.iter().enumerate() {
        // Two at a time may raise it too far, which costs a look; it is never too low.
        if family.used.get() <= number as u64 {
            atomic::increment(&family.used);
        }
        // Who finds it free has it; it is free again once all who wanted it have given up.
        if atomic::increment(&place.wanted) == 0 {
            place.mm.set(mm);
            return true;
        }
        atomic::decrement(&place.wanted);
    }
    false
}

/// Watches `mm` no more.
#[inline(always)]
pub(crate) fn remove(control: &Control, mm: u64) {
    let _ = maps::FOLLOWED.remove(mm);
    for place in &control.family.places {
        // User space may be about it too.
        if place.mm.get() == mm && atomic::replace(&place.mm, mm, 0) {
            atomic::decrement(&place.wanted);
            break;
        }
    }
}

/// Whether the running process, which has the target's number, was started when the target was: it is another else, and the target has ended. A
/// thread that executes a program takes its leader's start over (de_thread, fs/exec.c, 6.1 to 7.3).
#[inline(always)]
pub(crate) fn is_target(target: &Target) -> bool {
    let (known, offset) = (target.started.get(), maps::layout().task_boot_start);
    if known == 0 || offset == KernelLayout::ABSENT {
        return true;
    }
    let started = kread::word(task::running().address() + offset);
    started.is_none_or(|started| started.wrapping_sub(known) < TICK_NS)
}

/// Enters a child, so that its execs and its end are seen. False: there is no room.
#[inline(always)]
pub(crate) fn enter(child: u64) -> bool {
    let layout = maps::layout();
    let number = kread::half(child + layout.task_tgid);
    let started = kread::word(child + layout.task_start);
    match (number, started) {
        (Some(number), Some(started)) => maps::DESCENDANTS.insert(number, started, 0).is_ok(),
        _ => false,
    }
}

/// Takes a child out again.
#[inline(always)]
pub(crate) fn forget(child: u64) {
    if let Some(number) = kread::half(child + maps::layout().task_tgid) {
        let _ = maps::DESCENDANTS.remove(number);
    }
}

/// Whether the running process is a descendant that is watched.
#[inline(always)]
pub(crate) fn is_descendant() -> bool {
    // SAFETY: only the parent before the child runs, and the process itself at its end, write its value.
    let Some(entered) = (unsafe { maps::DESCENDANTS.get(task::running().tgid()) }) else {
        return false;
    };
    // The leader's: a thread that executes a program takes it over (de_thread, fs/exec.c, 6.1 to 7.3).
    let layout = maps::layout();
    let started = kread::word(task::running().address() + layout.task_leader)
        .and_then(|leader| kread::word(leader + layout.task_start));
    started == Some(*entered)
}

/// Takes the running process out, as it ends. False: it was not in, or another thread was faster.
#[inline(always)]
pub(crate) fn leave() -> bool {
    is_descendant() && maps::DESCENDANTS.remove(task::running().tgid()).is_ok()
}
