//! The folios that each processor keeps in a batch, before it puts them where the kernel's lists of pages say what they are.

use v2p_common::VirtAddr;

use crate::process::move_page;

/// Has every processor empty its batches, so that /proc/kpageflags tells what was done to a page: move_pages(2) does that first (do_pages_move,
/// mm/migrate.c, calls lru_cache_disable, 6.1 to 7.3), here of `page`, which is ours and resident, to the node that it is on. False: this kernel has
/// no such call.
pub(super) fn drain(page: VirtAddr) -> bool {
    let is_there = |node: &libc::c_int| *node >= 0;
    let here = move_page(0, page.page(), None).ok().filter(is_there);
    here.is_some_and(|node| move_page(0, page.page(), Some(node)).is_ok())
}
