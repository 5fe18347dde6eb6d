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

use crate::{emit, family, kread, maps, walk};

/// Whether `va` is watched at all.
#[inline(always)]
fn watched(target: &Target, va: u64) -> bool {
    va >= target.start.get() && va < target.end.get()
}

/// An address space that is watched, and the block.
#[derive(Clone, Copy)]
struct Space {
    control: &'static Control,
    mm: u64,
}

/// The address space `mm`, where it is watched.
#[inline(always)]
fn space_of(mm: u64) -> Option<Space> {
    let control = maps::control()?;
    family::is_watched(control, mm).then_some(Space { control, mm })
}

impl Space {
    /// Walks its tables.
    #[inline(always)]
    fn walk(self, va: u64) -> Option<walk::End> {
        let pgd = walk::pgd_of(self.mm)?;
        walk::walk(
            &self.control.direct_map,
            pgd,
            VirtAddr(va),
            |address, _| kread::word(address),
            |_, _| {},
        )
    }
}

/// The mm of a `vm_area_struct`.
#[inline(always)]
fn mm_of_vma(vma: u64) -> Option<u64> {
    kread::word(vma + maps::layout().vma_mm)
}

/// Tells that something was done to `len` bytes from `va` on.
#[inline(always)]
fn look(space: Space, how: u32, va: u64, len: u64, detail: u64) -> Option<()> {
    look_at_two(space, how, va, len, va, detail)
}

/// The same, with a second address; `va` again where there is none, which the verifier need not tell from others, as it would a 0.
#[inline(always)]
fn look_at_two(space: Space, how: u32, va: u64, len: u64, other: u64, detail: u64) -> Option<()> {
    look_then(space, how, (va, len), other, || detail)
}

/// The same, with a detail that is asked for when the event has its number.
#[inline(always)]
fn look_then(
    space: Space,
    how: u32,
    (va, len): (u64, u64),
    other: u64,
    detail: impl FnOnce() -> u64,
) -> Option<()> {
    let control = space.control;
    let Target { start, end, .. } = &control.target;
    let (start, end) = (start.get(), end.get());
    let touches = |first: u64| first < end && first.saturating_add(len) > start;
    if len == 0 || !(touches(va) || touches(other)) {
        return None;
    }
    let found = space.walk(va);
    emit::emit(control, space.mm, kind::LOOK, |header| Look {
        header,
        va,
        len,
        other: if other == va { 0 } else { other },
        entry: found.map_or(0, |end| end.entry),
        level: found.map_or(u32::MAX, |end| end.level as u32),
        how,
        detail: detail(),
    });
    Some(())
}
