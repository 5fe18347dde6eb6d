//! The hooks, a file a family: filter, read, emit.

mod carrier;
mod faults;
mod life;
mod migration;

use v2p_common::control::Target;

/// Whether `va` is watched at all.
#[inline(always)]
fn watched(target: &Target, va: u64) -> bool {
    va >= target.start.get() && va < target.end.get()
}
