//! move_pages(2), of one page.

use std::{io, ptr};

use v2p_common::VirtAddr;

/// include/uapi/linux/mempolicy.h.
const MPOL_MF_MOVE: libc::c_int = 1 << 1;

/// The node of the page at `va` of process `pid`, 0 for us; or moves it to `node`, and gives where it is then. Negative: why there is none, or why it
/// was not moved.
///
/// # Errors
/// Those of the call: ENOSYS where the kernel has no NUMA, EPERM, ESRCH.
pub fn move_page(pid: u32, va: VirtAddr, node: Option<libc::c_int>) -> io::Result<libc::c_int> {
    let pages = [va.0];
    let nodes = node.map(|n| [n]);
    let mut status: [libc::c_int; 1] = [-1];
    // SAFETY: the arrays have one element each, as the count says, and outlive the call.
    let r = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            pid,
            1usize,
            pages.as_ptr(),
            nodes.as_ref().map_or(ptr::null(), |n| n.as_ptr()),
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status[0])
}
