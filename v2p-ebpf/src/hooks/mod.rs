//! The hooks, a file a family: filter, read, emit.

mod calls;
mod carrier;
mod denial;
mod faults;
mod fill;
mod life;
mod merge;
mod migration;
mod probe;
mod remap;
mod zap;

use v2p_common::{
    VirtAddr,
    control::{Control, Target},
    event::{Look, kind},
};

use crate::{emit, kread, maps, walk};

/// Whether `va` is watched at all.
#[inline(always)]
fn watched(target: &Target, va: u64) -> bool {
    va >= target.start.get() && va < target.end.get()
}

/// The block, where `mm` is the one that is watched.
#[inline(always)]
fn control_of(mm: u64) -> Option<&'static Control> {
    let control = maps::control()?;
    (mm != 0 && mm == control.target.mm.get()).then_some(control)
}

/// The mm of a `vm_area_struct`.
#[inline(always)]
fn mm_of_vma(vma: u64) -> Option<u64> {
    kread::word(vma + maps::layout().vma_mm)
}

/// Tells that something was done to `len` bytes from `va` on, of the mm that is watched.
#[inline(always)]
fn look(control: &Control, how: u32, va: u64, len: u64, detail: u64) -> Option<()> {
    look_at_two(control, how, va, len, 0, detail)
}

/// The same, with a second address.
#[inline(always)]
fn look_at_two(
    control: &Control,
    how: u32,
    va: u64,
    len: u64,
    other: u64,
    detail: u64,
) -> Option<()> {
    let Target { mm, start, end, .. } = &control.target;
    let (start, end) = (start.get(), end.get());
    let touches = |first: u64| first < end && first.saturating_add(len) > start;
    if len == 0 || !(touches(va) || other != 0 && touches(other)) {
        return None;
    }
    let found = walk::pgd_of(mm.get())
        .and_then(|pgd| walk::walk(&control.direct_map, pgd, VirtAddr(va), |_, _| {}));
    emit::emit(control, kind::LOOK, |header| Look {
        header,
        va,
        len,
        other,
        entry: found.map_or(0, |end| end.entry),
        level: found.map_or(u32::MAX, |end| end.level as u32),
        how,
        detail,
    });
    Some(())
}
