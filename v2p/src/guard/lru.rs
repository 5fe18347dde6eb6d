//! The folios that each processor keeps in a batch, before it puts them where the kernel's lists of pages say what they are.

use std::ptr;

use v2p_common::VirtAddr;

/// Has every processor empty its batches, so that /proc/kpageflags tells what was done to a page: move_pages(2) does that first (do_pages_move,
/// mm/migrate.c, calls lru_cache_disable, 6.1 to 7.3), here of `page`, which is ours and resident, to the node that it is on. False: this kernel has
/// no such call.
pub(super) fn drain(page: VirtAddr) -> bool {
    let pages = [page.page().0];
    let node = |wanted: Option<[libc::c_int; 1]>| {
        let mut status = [-1];
        // SAFETY: arrays of one element each, as the count says, that outlive the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                1usize,
                pages.as_ptr(),
                wanted.as_ref().map_or(ptr::null(), |nodes| nodes.as_ptr()),
                status.as_mut_ptr(),
                0,
            )
        };
        Some(status).filter(|[node]| done >= 0 && *node >= 0)
    };
    node(None).and_then(|here| node(Some(here))).is_some()
}
