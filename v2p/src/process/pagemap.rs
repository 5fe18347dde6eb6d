//! /proc/PID/pagemap: one 64-bit word for every page of the address space.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, VirtAddr, pagemap::PagemapWord};

use super::{maps::USER_END, space::roots};
use crate::exit::Failure;

const OWN: &str = "/proc/self/pagemap";

/// Words in a pread of [`Pagemap::words`]: 16 MiB of address space.
const CHUNK: usize = 4096;

/// An open pagemap. It belongs to the address space that the process had when it was opened:
/// after an exec or the end, reads give nothing.
pub struct Pagemap {
    file: File,
    path: String,
    own: bool,
}

impl Pagemap {
    /// Opens that of process `pid`.
    ///
    /// # Errors
    /// Exit code 1 where there is no such process, 3 where we may not read it.
    pub fn of(pid: u32) -> Result<Self> {
        if pid == std::process::id() {
            return Self::of_self();
        }
        // A thread that has ended has no memory, but another may. Its file does not open, or is empty (6.1).
        let is_over = |e: &io::Error| e.raw_os_error() == Some(libc::ESRCH);
        let opened = roots(pid).map(|root| {
            let pagemap = Self::open(&root.join("pagemap"))?;
            match pagemap.word(VirtAddr(0)) {
                Ok(None) => Err(io::Error::from_raw_os_error(libc::ESRCH)),
                _ => Ok(pagemap),
            }
        });
        let done = { opened }.find(|opened| !opened.as_ref().is_err_and(is_over));
        let done = done.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ESRCH)));
        let path = format!("/proc/{pid}/pagemap");
        Ok(done.map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => super::no_rights(&path, &e),
            // A kernel thread, or a process that is just ending, has no address space to open.
            _ if is_over(&e) => Failure::no(format!("{path}: the process has no address space")),
            io::ErrorKind::NotFound => Failure::no(format!("{path}: there is no such process")),
            _ => Failure::failed(format!("{path}: {e}")),
        })?)
    }

    /// Opens our own.
    ///
    /// # Errors
    /// Exit code 3 where this kernel or this /proc has none.
    pub fn of_self() -> Result<Self> {
        Ok(Self::open(Path::new(OWN)).map_err(|e| super::no_pagemap(&e))?)
    }

    /// Opens the one at `path`. ESRCH: the task has no address space.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            path: path.display().to_string(),
            own: path == Path::new(OWN),
        })
    }

    /// Where the addresses of the process end (`task_size` of its mm): reads beyond give nothing. `None`: the address space
    /// is gone.
    ///
    /// # Errors
    /// Those of the read.
    pub fn end(&self) -> Result<Option<VirtAddr>> {
        let (mut below, mut beyond) = (0, USER_END / PAGE_SIZE);
        if self.word(VirtAddr(0))?.is_none() {
            return Ok(None);
        }
        while beyond - below > 1 {
            let middle = below.midpoint(beyond);
            match self.word(VirtAddr(middle * PAGE_SIZE))? {
                Some(_) => below = middle,
                None => beyond = middle,
            }
        }
        // It may have gone meanwhile.
        let alive = self.word(VirtAddr(0))?.is_some();
        Ok(alive.then_some(VirtAddr(beyond * PAGE_SIZE)))
    }

    /// Whether this is our own.
    pub const fn is_own(&self) -> bool {
        self.own
    }

    /// The word of the page that holds `va`. `None`: the address space is gone, or ends before.
    ///
    /// # Errors
    /// Those of the read.
    pub fn word(&self, va: VirtAddr) -> Result<Option<PagemapWord>> {
        let mut bytes = [0; 8];
        let n = self
            .file
            .read_at(&mut bytes, va.page_number() * 8)
            .with_context(|| self.path.clone())?;
        Ok((n == bytes.len()).then(|| PagemapWord(u64::from_ne_bytes(bytes))))
    }

    /// Reads the words of the pages from `start` on into `words`, by one pread; gives how many came, which
    /// is 0 where the address space is gone.
    ///
    /// # Errors
    /// Those of the read.
    pub fn read_words(&self, start: VirtAddr, words: &mut [u64]) -> Result<usize> {
        // SAFETY: any bytes are words, and u64 has no padding; the slice covers the words exactly.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(words))
        };
        let n = self
            .file
            .read_at(bytes, start.page_number() * 8)
            .with_context(|| self.path.clone())?;
        Ok(n / 8)
    }

    /// Hands the word of every page from `start` up to `end` to `each`, in order, reading in bulk.
    /// False: the address space ended before all was read.
    ///
    /// # Errors
    /// Those of the read.
    pub fn words(
        &self,
        start: VirtAddr,
        end: VirtAddr,
        mut each: impl FnMut(VirtAddr, PagemapWord),
    ) -> Result<bool> {
        let mut buffer = vec![0u8; 8 * CHUNK];
        let mut va = start.page();
        while va < end {
            let pages = (end.0 - va.0).div_ceil(PAGE_SIZE);
            let want = usize::try_from(pages).unwrap_or(CHUNK).min(CHUNK) * 8;
            let Some(buffer) = buffer.get_mut(..want) else {
                break;
            };
            let n = self
                .file
                .read_at(buffer, va.page_number() * 8)
                .with_context(|| self.path.clone())?;
            if n == 0 {
                return Ok(false);
            }
            let (words, _) = buffer.get(..n).unwrap_or_default().as_chunks::<8>();
            for word in words {
                each(va, PagemapWord(u64::from_ne_bytes(*word)));
                va = VirtAddr(va.0.saturating_add(PAGE_SIZE));
            }
        }
        Ok(true)
    }
}

impl AsFd for Pagemap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::OwnPage;
    use v2p_common::pagemap::PagemapState;

    #[test]
    fn a_written_page_of_our_own_is_not_absent() {
        let page = OwnPage::new().unwrap();
        let word = Pagemap::of_self()
            .unwrap()
            .word(page.va())
            .unwrap()
            .unwrap();
        assert!(matches!(
            word.state(),
            PagemapState::Present(_) | PagemapState::Hidden
        ));
    }

    #[test]
    fn our_addresses_end_where_the_cpus_user_half_does_or_before() {
        let end = Pagemap::of_self().unwrap().end().unwrap().unwrap();
        let on_the_stack = 0u64;
        assert!(end.0 > std::ptr::from_ref(&on_the_stack) as u64 && end.0 <= USER_END);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_answer_of_no() {
        let error = Pagemap::of(u32::MAX / 4).err().unwrap();
        assert_eq!(crate::exit::code(&error), crate::exit::NO);
    }
}
