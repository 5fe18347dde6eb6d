//! The only reader of kernel memory.

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// Reads one word at a kernel address; `None` where it is not mapped.
/// The kernel checks the address itself: a wrong one is refused, never followed.
#[inline(always)]
pub(crate) fn word(address: u64) -> Option<u64> {
    // SAFETY: the helper takes any address and answers EFAULT for those it cannot read.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.ok()
}
