//! The only reader of memory that is not the programs' own, by its address. Members of the running task, whose type the verifier
//! knows, are read by `task`.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user, generated};
use v2p_common::{
    control::BLOCK_PAGES,
    event::AROUND,
    layout::{CAST, KernelLayout},
};

use crate::{maps, walk::Above};

/// Reads one word at a kernel address; `None` where it is not mapped.
/// The kernel checks the address itself: a wrong one is refused, never followed.
#[inline(always)]
pub(crate) fn word(address: u64) -> Option<u64> {
    // SAFETY: the helper takes any address and answers EFAULT for those it cannot read.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.ok()
}

/// The entry at `address`, in the table that `above` leads to: as [`word`], but in place where this kernel lets programs: far cheaper, but
/// each use makes the verifier's work longer.
#[inline(always)]
pub(crate) fn entry_in_place(address: u64, above: Above) -> Option<u64> {
    match cast_word(address) {
        // Empty, or not mapped. Where the entry above is still as it was, the table is there, so it is empty; an Accessed bit that was set
        // meanwhile costs the slower reading.
        Some(0) if above.entry != 0 && cast_word(above.address) == Some(above.entry) => Some(0),
        None | Some(0) => word(address),
        found => found,
    }
}

/// Reads one word at a kernel address in place, 0 where it is not mapped; `None` where this kernel does not let programs.
#[inline(always)]
pub(crate) fn cast_word(address: u64) -> Option<u64> {
    let kind = maps::layout().cast_type;
    if kind == KernelLayout::ABSENT {
        return None;
    }
    // SAFETY: where there is a type, the loader has made this number the kernel's function, which gives any address that
    // type; the kernel makes 0 of what is not mapped.
    unsafe {
        let cast: extern "C" fn(u64, u64) -> *const u64 = core::mem::transmute(CAST as usize);
        Some(cast(address, kind).read_volatile())
    }
}

/// Reads some entries of a page table at a kernel address; `None` where it is not mapped.
#[inline(always)]
pub(crate) fn entries(address: u64) -> Option<[u64; AROUND]> {
    // SAFETY: as in `word`.
    unsafe { bpf_probe_read_kernel(address as *const [u64; AROUND]) }.ok()
}

/// Reads 32 bits at a kernel address; `None` where it is not mapped.
#[inline(always)]
pub(crate) fn half(address: u64) -> Option<u32> {
    // SAFETY: as in `word`.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.ok()
}

/// Reads a byte at a kernel address; `None` where it is not mapped.
#[inline(always)]
pub(crate) fn byte(address: u64) -> Option<u8> {
    // SAFETY: as in `word`.
    unsafe { bpf_probe_read_kernel(address as *const u8) }.ok()
}

/// Copies a page table of 512 entries at a kernel address to `place`. False where it is not mapped.
///
/// # Safety
/// `place` is valid for the write of a page table.
#[inline(always)]
pub(crate) unsafe fn table(address: u64, place: *mut [u64; BLOCK_PAGES]) -> bool {
    let size = size_of::<[u64; BLOCK_PAGES]>() as u32;
    // SAFETY: the caller vouches for `place`, the helper checks the address.
    unsafe { generated::bpf_probe_read_kernel(place.cast(), size, address as *const _) == 0 }
}

/// Reads one word of the running process; `None` where it is not resident.
#[inline(always)]
pub(crate) fn user_word(address: u64) -> Option<u64> {
    // SAFETY: the helper takes any address and answers EFAULT for those it cannot read.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}
