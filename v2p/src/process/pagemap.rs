//! /proc/PID/pagemap: one 64-bit word for every page of the address space.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    sync::OnceLock,
};

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, VirtAddr, pagemap::PagemapWord};

use super::{
    maps::USER_END,
    space::{at_a_root, is_over, over},
};
use crate::{exit::Failure, kernel};

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
        // That of a thread that has ended does not open, or is empty (6.1).
        let done = at_a_root(pid, |root| {
            let pagemap = Self::open(&root.join("pagemap"))?;
            match pagemap.word(VirtAddr(0)) {
                Ok(None) => Err(over()),
                _ => Ok(pagemap),
            }
        });
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

    /// The word of the page that holds `va`, by one pread. `None`: the address space is gone, or ends before.
    ///
    /// # Errors
    /// As [`Self::read_words`]; and it may be another page's, as there.
    pub fn word(&self, va: VirtAddr) -> Result<Option<PagemapWord>> {
        let mut word = [0];
        let read = self.read_words(va, &mut word)?;
        Ok((read == 1).then(|| PagemapWord(word[0])))
    }

    /// Reads the words of the pages from `start` on into `words`, by one pread; gives how many came, which
    /// is 0 where the address space is gone. Before Linux 6.5 they may be those of pages that lie 2 MiB further on: [`Self::read_surely`].
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

    /// As [`Self::read_words`], and on kernels whose pagemap leaves out huge pages as they go, again until two readings of a page
    /// are the same, up to nine.
    ///
    /// # Errors
    /// As [`Self::read_words`].
    pub fn read_surely(&self, start: VirtAddr, words: &mut [u64]) -> Result<usize> {
        let read = self.read_words(start, words)?;
        if !leaves_out() {
            return Ok(read);
        }
        until_equal(words.get_mut(..read).unwrap_or_default(), |first, again| {
            self.read_words(VirtAddr(start.0 + first as u64 * PAGE_SIZE), again)
        })
    }

    /// The word of the page that holds `va`, for sure. `None`: the address space is gone, or ends before.
    ///
    /// # Errors
    /// As [`Self::read_words`].
    pub fn word_surely(&self, va: VirtAddr) -> Result<Option<PagemapWord>> {
        let mut word = [0];
        let read = self.read_surely(va, &mut word)?;
        Ok((read == 1).then(|| PagemapWord(word[0])))
    }

    /// Hands the word of every page from `start` up to `end` to `each`, in order, reading in bulk, surely.
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
        let mut buffer = vec![0; CHUNK];
        let mut va = start.page();
        while va < end {
            let pages = (end.0 - va.0).div_ceil(PAGE_SIZE);
            let want = usize::try_from(pages).unwrap_or(CHUNK).min(CHUNK);
            let words = buffer.get_mut(..want).unwrap_or_default();
            let read = self.read_surely(va, words)?;
            if read == 0 {
                return Ok(false);
            }
            for word in words.iter().take(read) {
                each(va, PagemapWord(*word));
                va = VirtAddr(va.0.saturating_add(PAGE_SIZE));
            }
        }
        Ok(true)
    }
}

/// Whether this kernel's pagemap may leave out the words of 2 MiB whose huge page goes in that moment, and tell those of what follows in their
/// place: pagemap_pmd_range returns where pmd_trans_unstable says so, fs/proc/task_mmu.c, 6.1 to 6.4. No trial would show it.
fn leaves_out() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| kernel::version().is_none_or(|version| version < (6, 5)))
}

/// How often at most.
const ATTEMPTS: usize = 8;

/// Has `words` read again until each was the same twice in a row, and then stays so; what never is, since it moves all the while, is as it was read last. `read`
/// takes which is the first, and gives how many came. Gives how many there are for sure.
fn until_equal(
    words: &mut [u64],
    mut read: impl FnMut(usize, &mut [u64]) -> Result<usize>,
) -> Result<usize> {
    let mut again = words.to_vec();
    let mut sure = vec![false; words.len()];
    for _ in 0..ATTEMPTS {
        let first = sure.iter().position(|sure| !sure);
        let last = sure.iter().rposition(|sure| !sure);
        let (Some(first), Some(last)) = (first, last) else {
            break;
        };
        let now = again.get_mut(first..=last).unwrap_or_default();
        let came = read(first, now)?;
        if came < now.len() {
            return Ok(first + came);
        }
        let before = words.iter_mut().zip(&mut sure).skip(first);
        for ((word, sure), now) in before.zip(now) {
            if !*sure {
                *sure = word == now;
                *word = *now;
            }
        }
    }
    Ok(words.len())
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

    /// Of four blocks the second is left out once, while a page of the last is another with each reading.
    #[test]
    fn words_that_were_left_out_once_are_their_own_pages_in_the_end() {
        const BLOCK: usize = 512;
        for left_out in 0..=ATTEMPTS {
            let mut readings = 0;
            let mut read = |first: usize, words: &mut [u64]| {
                let shift = if readings == left_out { BLOCK } else { 0 };
                readings += 1;
                for (i, word) in (first..).zip(&mut *words) {
                    let shift = if i >= BLOCK { shift } else { 0 };
                    *word = match i + shift {
                        2000 => 1_000_000 + readings as u64,
                        i => i as u64,
                    };
                }
                Ok(words.len())
            };
            let mut words = vec![0; 4 * BLOCK];
            read(0, &mut words).unwrap();
            let all = until_equal(&mut words, &mut read).unwrap();
            assert_eq!(all, words.len());
            let wrong = |(i, word): &(usize, &u64)| *i as u64 != **word && *i != 2000;
            assert_eq!(words.iter().enumerate().find(wrong), None, "{left_out}");
            assert!(readings <= ATTEMPTS + 1);
        }
    }

    #[test]
    fn what_is_gone_before_it_is_sure_is_not_told() {
        let mut words = [1, 2, 3, 4];
        let mut readings = 0;
        let all = until_equal(&mut words, |_, again| {
            readings += 1;
            again.fill(9);
            Ok(if readings == 1 { 4 } else { 1 })
        });
        assert_eq!(all.unwrap(), 1);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_answer_of_no() {
        let error = Pagemap::of(u32::MAX / 4).err().unwrap();
        assert_eq!(crate::exit::code(&error), crate::exit::NO);
    }
}
