//! The one atomic operation that `core` leaves out here.
//!
//! rustc says that the BPF target has no compare-and-swap, so `AtomicU64::fetch_add` is not there,
//! although the machine has that very instruction (atomic fetch-add, Linux 5.12 and later). The
//! intrinsic behind it is; the object is built by one known compiler, so it may be used.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use v2p_common::control::Word;

/// Adds 1 and gives the value before.
///
/// Not with relaxed order: LLVM 22 then emits the add without the fetch although the result is
/// used, and the result is always 1 (seen in the object: `lock *(u64 *)(r0 + 48) += r8`).
#[inline(always)]
pub(crate) fn increment(word: &Word) -> u64 {
    // SAFETY: a valid, aligned word that all sides only use atomically.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word.as_ptr(), 1) }
}

/// Takes 1 away.
#[inline(always)]
pub(crate) fn decrement(word: &Word) {
    // SAFETY: as in `increment`.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word.as_ptr(), u64::MAX) };
}
