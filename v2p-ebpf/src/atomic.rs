//! The atomic operations that `core` leaves out here.
//!
//! rustc says that the BPF target has no compare-and-swap, so `AtomicU64::fetch_add` is not there, nor
//! `compare_exchange`, although the machine has those very instructions (Linux 5.12 and later). The
//! intrinsics behind them are; the object is built by one known compiler, so they may be used.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg};

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

/// Puts `value` there and gives what was.
#[inline(always)]
pub(crate) fn swap(word: &Word, value: u64) -> u64 {
    // SAFETY: as in `increment`.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(word.as_ptr(), value) }
}

/// Puts `after` where `before` is. False: something else is there, and stays.
#[inline(always)]
pub(crate) fn replace(word: &Word, before: u64, after: u64) -> bool {
    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
    // SAFETY: as in `increment`.
    unsafe { atomic_cxchg::<u64, ORDER, ORDER>(word.as_ptr(), before, after).1 }
}
