//! Pages of our own that nothing moves: registered as a buffer of an io_uring, which pins them for long
//! (FOLL_LONGTERM; io_pin_pages, 6.1 to 7.3). mlock does not do that: it keeps a page resident, not where it is.

use std::{fs, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    io_uring::{IoringRegisterOp, io_uring_params, io_uring_register, io_uring_setup, iovec},
};
use v2p_common::VirtAddr;

/// Where the kernel says whether io_uring may be used (6.6 and up).
const DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// Pages that stay where they are as long as it lives: neither migration nor compaction, KSM, huge-page collapse or reclaim
/// takes them. What the process itself does to them (munmap, MADV_DONTNEED, exec) goes on working, and so does poison.
pub struct Pin {
    _ring: OwnedFd,
}

impl Pin {
    /// Pins the `len` bytes of our own memory from `va` on. It may move them, before it returns: look up after it.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn new(va: VirtAddr, len: usize) -> Result<Self, String> {
        let mut params = io_uring_params::default();
        // SAFETY: the parameters are all zero, which asks for a ring and nothing else; it is never mapped or entered.
        let ring =
            unsafe { io_uring_setup(1, &mut params) }.map_err(|e| refused("io_uring_setup", e))?;
        let buffer = iovec {
            iov_base: va.0 as *mut _,
            iov_len: len,
        };
        let place = std::ptr::from_ref(&buffer).cast();
        // SAFETY: one iovec, as the count says. The kernel checks its addresses, and only counts references to the pages.
        unsafe { io_uring_register(&ring, IoringRegisterOp::RegisterBuffers, place, 1) }
            .map_err(|e| refused("io_uring_register", e))?;
        Ok(Self { _ring: ring })
    }
}

fn refused(call: &str, error: Errno) -> String {
    let disabled = fs::read_to_string(DISABLED).unwrap_or_default();
    match error {
        Errno::NOSYS => format!("{call}: this kernel has no io_uring"),
        Errno::PERM if !matches!(disabled.trim(), "" | "0") => {
            format!("{call}: kernel.io_uring_disabled is {}", disabled.trim())
        }
        Errno::NOMEM => format!("{call}: {error} (RLIMIT_MEMLOCK)"),
        Errno::OPNOTSUPP => format!("{call}: memory of a file cannot be pinned for long"),
        error => format!("{call}: {error}"),
    }
}
