//! Moves a page of our own on purpose, for showing and testing.

use std::{
    fs, ptr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::mm::{MremapFlags, mremap_fixed};
use v2p_common::{Pfn, VirtAddr};

use crate::{
    exit::Failure,
    page::{OwnPage, PAGE_LEN},
    process::{Pagemap, move_page as to_node},
};

/// How long compaction may try.
const PATIENCE: Duration = Duration::from_secs(30);
const COMPACT: &str = "/proc/sys/vm/compact_memory";

/// A page that compaction will move, as long as the ballast lives.
///
/// Compaction takes pages from the low end of a zone, and fills the holes of blocks at the high end that are
/// in use already (mm/compaction.c, suitable_migration_target). So it is the lowest of many pages, and
/// the others, above it, get the holes.
///
/// # Errors
/// Where pages cannot be had, or their frames not be read.
pub fn page_to_move() -> Result<(OwnPage, Ballast)> {
    let ballast = Ballast::new(BALLAST)?;
    let mut lowest: Option<(Pfn, VirtAddr)> = None;
    Pagemap::of_self()?.words(
        ballast.va(),
        VirtAddr(ballast.va().0 + BALLAST as u64),
        |va, word| {
            if let Some(pfn) = word
                .pfn()
                .filter(|pfn| lowest.is_none_or(|(low, _)| *pfn < low))
            {
                lowest = Some((pfn, va));
            }
        },
    )?;
    let (_, va) = lowest.context("our own pages have no frames that we may see")?;
    let page = ballast.take(va)?;
    ballast.punch_holes()?;
    Ok((page, ballast))
}

/// Moves the page at `va` of process `pid` to another frame: to another NUMA node where there are two, else by
/// compaction until it moved. Says how.
///
/// # Errors
/// Exit code 2 where it could not be moved in time.
pub fn move_page(pid: u32, va: VirtAddr) -> Result<&'static str> {
    let pagemap = Pagemap::of(pid)?;
    let before = pfn_of(&pagemap, va)?;
    if let Some(node) = another_node(pid, va)? {
        to_node(pid, va, Some(node)).context("move_pages")?;
        if pfn_of(&pagemap, va)? != before {
            return Ok("move_pages to another node");
        }
    }
    move_by_compaction(pid, va)?;
    Ok("compaction")
}

/// The same, by compaction in any case.
///
/// # Errors
/// As [`move_page`].
pub fn move_by_compaction(pid: u32, va: VirtAddr) -> Result<()> {
    let pagemap = Pagemap::of(pid)?;
    let before = pfn_of(&pagemap, va)?;
    let deadline = Instant::now() + PATIENCE;
    let mut ballast: Option<Ballast> = None;
    while Instant::now() < deadline {
        fs::write(COMPACT, "1").with_context(|| COMPACT.to_owned())?;
        if pfn_of(&pagemap, va)? != before {
            return Ok(());
        }
        // There were no holes for it: make some, and more each time.
        let len = ballast.take().map_or(BALLAST, |ballast| 2 * ballast.len);
        let more = Ballast::new(len.min(available_memory()? / 2).max(BALLAST))?;
        more.punch_holes()?;
        ballast = Some(more);
    }
    Err(Failure::failed(format!(
        "the page was not moved: {} s of compaction left it in frame {before}",
        PATIENCE.as_secs()
    ))
    .hint(
        "try it where there are two NUMA nodes: cargo xtask lab --nodes two -- demo --inject-move",
    )
    .into())
}

fn pfn_of(pagemap: &Pagemap, va: VirtAddr) -> Result<Pfn> {
    // While the page is being moved it has no frame; that passes.
    for _ in 0..1000 {
        let word = pagemap.word(va)?.context("the address space is gone")?;
        if let Some(pfn) = word.pfn() {
            return Ok(pfn);
        }
    }
    anyhow::bail!(
        "the page at {va:#x} has no frame that we may see",
        va = va.0
    )
}

/// A node with memory other than that of the page; `None` where there is one node, or no NUMA at all.
fn another_node(pid: u32, va: VirtAddr) -> Result<Option<libc::c_int>> {
    let Ok(list) = fs::read_to_string("/sys/devices/system/node/has_memory") else {
        return Ok(None);
    };
    let nodes = parse_list(list.trim());
    if nodes.len() < 2 {
        return Ok(None);
    }
    let here = to_node(pid, va, None).context("move_pages")?;
    Ok(nodes.into_iter().find(|n| *n != here))
}

/// Nodes that there can be (NODES_SHIFT of arch/x86/Kconfig, 6.1 to 7.3): a list that names more is none of the kernel's.
const MOST_NODES: usize = 1 << 10;

/// A kernel list of nodes such as `0-1,3`.
pub(crate) fn parse_list(list: &str) -> Vec<libc::c_int> {
    let number = |s: &str| s.parse::<libc::c_int>().ok();
    list.split(',')
        .filter_map(|part| match part.split_once('-') {
            Some((a, b)) => Some(number(a)?..=number(b)?),
            None => number(part).map(|n| n..=n),
        })
        .flatten()
        .take(MOST_NODES)
        .collect()
}

/// Memory in small pages, to make holes in.
pub struct Ballast {
    start: *mut libc::c_void,
    len: usize,
}

/// Bytes of ballast at first.
const BALLAST: usize = 64 << 20;

/// MemAvailable, in bytes.
fn available_memory() -> Result<usize> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    available_of(&text).context("/proc/meminfo has no MemAvailable")
}

/// The same of what /proc/meminfo says.
pub(crate) fn available_of(meminfo: &str) -> Option<usize> {
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

impl Ballast {
    /// `len` bytes, every page of its own frame.
    fn new(len: usize) -> Result<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE) }
            .context("mmap of ballast")?;
        let ballast = Self { start, len };
        // SAFETY: advice on our own mapping, which nothing refers to. Huge pages would leave no holes; where
        // there are none this is an error that does not matter.
        let _ = unsafe { madvise(start, len, Advice::LinuxNoHugepage) };
        for offset in (0..len).step_by(PAGE_LEN) {
            // SAFETY: inside our mapping.
            unsafe { start.cast::<u8>().add(offset).write_volatile(1) };
        }
        Ok(ballast)
    }

    fn va(&self) -> VirtAddr {
        VirtAddr(self.start as u64)
    }

    /// Takes the page at `va` out of the ballast: another address, the same frame.
    fn take(&self, va: VirtAddr) -> Result<OwnPage> {
        let place = OwnPage::new()?.into_raw();
        // The old address stays mapped, with nothing behind it: it is still the ballast's to unmap.
        let flags = MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP;
        // SAFETY: two pages of our own, to which nothing refers; what lay at the new one goes.
        unsafe { mremap_fixed(va.0 as *mut libc::c_void, PAGE_LEN, PAGE_LEN, flags, place) }
            .context("mremap of a page")?;
        OwnPage::adopt(place)
    }

    /// Frees every other page.
    fn punch_holes(&self) -> Result<()> {
        use rustix::mm::{Advice, madvise};
        for offset in (0..self.len).step_by(2 * PAGE_LEN) {
            // SAFETY: inside our mapping, whole pages, to which nothing refers.
            unsafe { madvise(self.start.byte_add(offset), PAGE_LEN, Advice::LinuxDontNeed) }
                .context("madvise of ballast")?;
        }
        Ok(())
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nothing refers.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
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
        assert_eq!(parse_list("0-2147483647").len(), MOST_NODES);
    }

    #[test]
    fn what_is_available_is_told_in_bytes() {
        let text = "MemTotal: 9 kB\nMemAvailable:      4 kB\n";
        assert_eq!(available_of(text), Some(4096));
        assert_eq!(available_of("MemTotal: 9 kB\n"), None);
    }
}
