//! Which parts of a mapping have anything in them: the cost of a translation follows the pages that are
//! there, not the addresses that are reserved.
//!
//! Where there is a walk, its copies of page middle directories tell them, one for each GiB. Pagemap alone asks PAGEMAP_SCAN
//! (Documentation/admin-guide/mm/pagemap.rst, Linux 6.7), and reads all where the kernel has none. No file of /proc can take its place
//! there: the sums of smaps leave out zero pages, device memory and markers (smaps_pte_entry, fs/proc/task_mmu.c, 6.1), so that
//! a mapping of which it says 0 need not be empty.

use std::{io, os::fd::AsFd as _, sync::Barrier, thread};

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, VirtAddr};

use super::walker::Step;
use crate::process::Pagemap;

/// A stretch of addresses, in whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// First address.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
}

/// Parts nearer than this are read as one: a read of a few empty words is cheaper than another system call.
const NEAR: u64 = 64 * 4096;

/// Holes of this size take the kernel longer (some 10 us a GiB, 6.18) than a thread that goes through the other half of them.
const WIDE: u64 = 32 << 30;

/// A half is no larger: who finds much in the first waits for the second in vain.
const HALF: u64 = 512 << 30;

/// Regions that one scan can give.
const REGIONS: usize = 1024;

const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// `struct page_region` of include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

impl Region {
    const fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_SIZE
    }
}

/// `struct pm_scan_arg` of include/uapi/linux/fs.h.
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// _IOWR('f', 16, struct pm_scan_arg)
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// Scans for populated parts.
#[derive(Default)]
pub struct Scanner {
    regions: Vec<Region>,
    /// The kernel has no PAGEMAP_SCAN.
    absent: bool,
    /// The last call ended before its range did.
    dense: bool,
}

impl Scanner {
    /// Hands the populated parts between `start` and `end` to `each`, in order. False: this kernel cannot tell,
    /// and nothing was handed out. Of an address space that is gone nothing is handed out either: the caller must ask whether
    /// it was there all the while.
    ///
    /// # Errors
    /// Those of `each`, and of the call other than that the kernel does not have it.
    pub fn scan(
        &mut self,
        pagemap: &Pagemap,
        start: VirtAddr,
        end: VirtAddr,
        mut each: impl FnMut(Part) -> Result<()>,
    ) -> Result<bool> {
        let mut at = start.0;
        let mut joined = Joined::default();
        while at < end.0 {
            let Some(next) = self.ahead(pagemap, at, end.0, 0)? else {
                return Ok(false);
            };
            for region in &self.regions {
                joined.add(region).map_or(Ok(()), &mut each)?;
            }
            at = next;
        }
        joined.0.map_or(Ok(()), each)?;
        Ok(true)
    }

    /// The next populated parts from `at` on, as one call gives them, which ends after about `pages` pages. `None`:
    /// this kernel cannot tell.
    ///
    /// # Errors
    /// Those of the call, other than that the kernel does not have it.
    pub(super) fn next(
        &mut self,
        pagemap: &Pagemap,
        at: u64,
        end: u64,
        pages: u64,
    ) -> Result<Option<Step>> {
        let Some(next) = self.ahead(pagemap, at, end, pages)? else {
            return Ok(None);
        };
        let mut joined = Joined::default();
        let mut parts: Vec<Part> = self.regions.iter().filter_map(|r| joined.add(r)).collect();
        parts.extend(joined.0);
        Ok(Some(Step { parts, next }))
    }

    /// As [`Self::once`], with two halves of a wide range at a time. What the second has is of use where the first is walked to its end:
    /// so not in what is dense.
    fn ahead(
        &mut self,
        pagemap: &Pagemap,
        at: u64,
        end: u64,
        max_pages: u64,
    ) -> Result<Option<u64>> {
        if end.saturating_sub(at) < WIDE || self.dense {
            return self.once(pagemap, at, end, max_pages);
        }
        let half = ((end - at) / 2).min(HALF) & !(PAGE_SIZE - 1);
        let (middle, end) = (at + half, end.min(at + 2 * half));
        let mut second = Self::default();
        // A thread maps memory as it starts, for which it would wait for the end of a scan of our own address space.
        let started = Barrier::new(2);
        let (walked, then) = thread::scope(|scope| {
            let helper = thread::Builder::new().spawn_scoped(scope, || {
                started.wait();
                second.once(pagemap, middle, end, max_pages)
            });
            if helper.is_ok() {
                started.wait();
            }
            let walked = self.once(pagemap, at, middle, max_pages);
            let then = helper.ok().and_then(|helper| helper.join().ok());
            (walked, then)
        });
        let walked = walked?;
        match then {
            Some(Ok(Some(then))) if walked == Some(middle) => {
                self.regions.append(&mut second.regions);
                self.dense = second.dense;
                Ok(Some(then))
            }
            _ => Ok(walked),
        }
    }

    /// One call, from `at` on, which ends after `max_pages` pages if that is not 0: leaves regions, gives where to go
    /// on. `None`: the kernel has no such call.
    ///
    /// Not by the answer's `walk_end`: it stays at the last time that the kernel's own buffer of 512 regions was full,
    /// also when the walk then went on to the end (do_pagemap_scan, fs/proc/task_mmu.c; seen on 6.18).
    fn once(
        &mut self,
        pagemap: &Pagemap,
        at: u64,
        end: u64,
        max_pages: u64,
    ) -> Result<Option<u64>> {
        if self.absent {
            return Ok(None);
        }
        self.regions.resize(REGIONS, Region::default());
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: 0,
            start: at,
            end,
            walk_end: 0,
            vec: self.regions.as_mut_ptr() as u64,
            vec_len: self.regions.len() as u64,
            max_pages,
            category_inverted: 0,
            category_mask: 0,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        };
        use std::os::fd::AsRawFd as _;
        let fd = pagemap.as_fd().as_raw_fd();
        // SAFETY: the argument has the size that it says, and its vector the length.
        let n = unsafe { libc::ioctl(fd, PAGEMAP_SCAN, &raw mut arg) };
        if n < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOTTY | libc::EINVAL | libc::ENOSYS) => {
                    self.absent = true;
                    Ok(None)
                }
                // The address space is gone.
                Some(libc::ESRCH) => {
                    self.regions.clear();
                    Ok(Some(end))
                }
                _ => Err(error).context("PAGEMAP_SCAN"),
            };
        }
        let found = usize::try_from(n)?;
        self.regions.truncate(found);
        let pages: u64 = self.regions.iter().map(Region::pages).sum();
        // With room left for regions and pages, all was walked.
        let full = found >= REGIONS || (max_pages != 0 && pages >= max_pages);
        let stopped = self
            .regions
            .last()
            .map(|region| region.end)
            .filter(|_| full);
        self.dense = full;
        Ok(Some(stopped.filter(|stopped| *stopped > at).unwrap_or(end)))
    }
}

/// Regions that lie [`NEAR`] each other, as one part that grows.
#[derive(Default)]
struct Joined(Option<Part>);

impl Joined {
    /// Takes the next region; gives the part that this ends.
    fn add(&mut self, region: &Region) -> Option<Part> {
        let Region { start, end, .. } = *region;
        match &mut self.0 {
            Some(part) if start <= part.end + NEAR => {
                part.end = end;
                None
            }
            last => last.replace(Part { start, end }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_near_each_other_are_one_part() {
        let mut joined = Joined::default();
        let regions = [(0, 1), (2, 3), (100, 101)].map(|(start, end)| Region {
            start: start * PAGE_SIZE,
            end: end * PAGE_SIZE,
            categories: 0,
        });
        let mut parts: Vec<Part> = regions.iter().filter_map(|r| joined.add(r)).collect();
        parts.extend(joined.0);
        let shape: Vec<_> = parts
            .iter()
            .map(|p| (p.start / PAGE_SIZE, p.end / PAGE_SIZE))
            .collect();
        assert_eq!(shape, [(0, 3), (100, 101)]);
    }

    #[test]
    fn two_halves_at_a_time_are_the_whole() {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
        let len = usize::try_from(4 * WIDE).unwrap();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, of which single bytes are written, and which nothing refers to afterwards.
        let Ok(start) = (unsafe { mmap_anonymous(std::ptr::null_mut(), len, access, flags) })
        else {
            eprintln!("skipped: no address space is to be had (vm.overcommit_memory)");
            return;
        };
        // SAFETY: ours; where there are no huge pages it fails, and none come.
        let _ = unsafe { madvise(start, len, Advice::LinuxNoHugepage) };
        // In both halves, at their borders, and more in each than one call gives.
        let first = (0..1500).map(|i| i * 2 * NEAR);
        let second = first.clone().map(|at| 2 * WIDE + at);
        let last = 4 * WIDE - PAGE_SIZE;
        for at in first.chain(second).chain([2 * WIDE - PAGE_SIZE, last]) {
            let at = usize::try_from(at).unwrap();
            // SAFETY: inside the mapping.
            unsafe { start.cast::<u8>().add(at).write_volatile(1) };
        }
        let pagemap = Pagemap::of_self().unwrap();
        let (from, to) = (start as u64, start as u64 + 4 * WIDE);
        let mut scanner = Scanner::default();
        let mut found = Vec::new();
        let each = |part| {
            found.push(part);
            Ok(())
        };
        let can = scanner
            .scan(&pagemap, VirtAddr(from), VirtAddr(to), each)
            .unwrap();
        let (mut alone, mut at) = (Vec::new(), from);
        while can && at < to {
            at = scanner.once(&pagemap, at, to, 0).unwrap().unwrap();
            alone.extend(scanner.regions.iter().map(|r| (r.start, r.end)));
        }
        // SAFETY: as above.
        unsafe { munmap(start, len) }.unwrap();
        if !can {
            eprintln!("skipped: this kernel has no PAGEMAP_SCAN");
            return;
        }
        let pages: u64 = found.iter().map(|p| (p.end - p.start) / PAGE_SIZE).sum();
        assert!(pages >= 3002, "{pages}");
        let found: Vec<_> = found.iter().map(|p| (p.start, p.end)).collect();
        assert_eq!(found, alone);
    }

    #[test]
    fn the_argument_has_the_size_that_the_kernel_checks() {
        assert_eq!(size_of::<ScanArg>(), 96);
        assert_eq!(PAGEMAP_SCAN >> 16 & 0x3fff, 96);
    }
}
