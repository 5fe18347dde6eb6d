//! Moves a page of our own on purpose, for showing and testing.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, Pfn, VirtAddr};

use crate::{exit::Failure, page::OwnPage, process::Pagemap};

/// How long compaction may try.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pages among which [`low_page`] looks.
const CANDIDATES: usize = 4096;
const MPOL_MF_MOVE: libc::c_int = 1 << 1;
const COMPACT: &str = "/proc/sys/vm/compact_memory";

/// A page that compaction will want to move: of many, the one with the lowest frame, since compaction moves
/// pages from the low end of a zone to the high one (mm/compaction.c). The others are freed.
///
/// # Errors
/// Where pages cannot be had or their frames not be read.
pub fn low_page() -> Result<OwnPage> {
    let pagemap = Pagemap::of_self()?;
    let mut lowest: Option<(Pfn, OwnPage)> = None;
    let mut others = Vec::with_capacity(CANDIDATES);
    for _ in 0..CANDIDATES {
        let page = OwnPage::new()?;
        let pfn = pfn_of(&pagemap, page.va())?;
        let (low, high) = match lowest.take() {
            Some((best, kept)) if best < pfn => ((best, kept), page),
            Some((_, kept)) => ((pfn, page), kept),
            None => {
                lowest = Some((pfn, page));
                continue;
            }
        };
        lowest = Some(low);
        others.push(high);
    }
    drop(others);
    Ok(lowest.context("no pages")?.1)
}

/// Moves the page at `va` to another frame: to another NUMA node where there are two, else by compaction
/// until it moved. Says how.
///
/// # Errors
/// Exit code 2 where it could not be moved in time.
pub fn move_page(va: VirtAddr) -> Result<&'static str> {
    let pagemap = Pagemap::of_self()?;
    let before = pfn_of(&pagemap, va)?;
    if let Some(node) = another_node(va)? {
        move_to_node(va, node)?;
        if pfn_of(&pagemap, va)? != before {
            return Ok("move_pages to another node");
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let ballast = Ballast::with_holes()?;
        fs::write(COMPACT, "1").with_context(|| COMPACT.to_owned())?;
        drop(ballast);
        if pfn_of(&pagemap, va)? != before {
            return Ok("compaction");
        }
    }
    Err(Failure::failed(format!(
        "the page was not moved: {} s of compaction left it in frame {before}",
        PATIENCE.as_secs()
    ))
    .hint("try it where there are two NUMA nodes: cargo xtask lab --numa -- demo --inject-move")
    .into())
}

fn pfn_of(pagemap: &Pagemap, va: VirtAddr) -> Result<Pfn> {
    // While the page is being moved it has no frame; that passes.
    for _ in 0..1000 {
        let word = pagemap.word(va)?.context("we have no address space")?;
        if let Some(pfn) = word.pfn() {
            return Ok(pfn);
        }
    }
    anyhow::bail!("our own page at {va:#x?} has no frame that we may see")
}

/// The node of the page at `va`, or moves it to `node`: move_pages(2) of one page of our own.
fn move_pages(va: VirtAddr, node: Option<libc::c_int>) -> Result<libc::c_int> {
    let pages = [va.0];
    let nodes = node.map(|n| [n]);
    let mut status: [libc::c_int; 1] = [-1];
    // SAFETY: the arrays have one element each, as the count says, and outlive the call.
    let r = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            1usize,
            pages.as_ptr(),
            nodes.as_ref().map_or(std::ptr::null(), |n| n.as_ptr()),
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    if r < 0 {
        return Err(std::io::Error::last_os_error()).context("move_pages");
    }
    Ok(status[0])
}

fn move_to_node(va: VirtAddr, node: libc::c_int) -> Result<()> {
    move_pages(va, Some(node)).map(|_| ())
}

/// A node with memory other than that of the page; `None` where there is one node, or no NUMA at all.
fn another_node(va: VirtAddr) -> Result<Option<libc::c_int>> {
    let Ok(list) = fs::read_to_string("/sys/devices/system/node/has_memory") else {
        return Ok(None);
    };
    let nodes = parse_list(list.trim());
    if nodes.len() < 2 {
        return Ok(None);
    }
    let here = move_pages(va, None)?;
    Ok(nodes.into_iter().find(|n| *n != here))
}

/// A kernel list such as `0-1,3`.
fn parse_list(list: &str) -> Vec<libc::c_int> {
    let number = |s: &str| s.parse::<libc::c_int>().ok();
    list.split(',')
        .filter_map(|part| match part.split_once('-') {
            Some((a, b)) => Some(number(a)?..=number(b)?),
            None => number(part).map(|n| n..=n),
        })
        .flatten()
        .collect()
}

/// Memory with every other page freed: what compaction has work with.
struct Ballast {
    start: *mut libc::c_void,
}

const BALLAST: usize = 64 << 20;

impl Ballast {
    fn with_holes() -> Result<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                BALLAST,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .context("mmap of ballast")?;
        let ballast = Self { start };
        // SAFETY: advice on our own mapping, which nothing refers to; huge pages would leave no holes.
        let _ = unsafe { madvise(start, BALLAST, Advice::LinuxNoHugepage) };
        let page = usize::try_from(PAGE_SIZE)?;
        for offset in (0..BALLAST).step_by(page) {
            // SAFETY: inside our mapping.
            unsafe { start.cast::<u8>().add(offset).write_volatile(1) };
        }
        for offset in (0..BALLAST).step_by(2 * page) {
            // SAFETY: inside our mapping; whole pages.
            unsafe { madvise(start.byte_add(offset), page, Advice::LinuxDontNeed) }
                .context("madvise of ballast")?;
        }
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nothing refers.
        let _ = unsafe { rustix::mm::munmap(self.start, BALLAST) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_are_read_with_ranges() {
        assert_eq!(parse_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(parse_list("0"), [0]);
        assert_eq!(parse_list(""), [] as [libc::c_int; 0]);
    }
}
