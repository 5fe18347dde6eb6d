//! /proc/kpageflags and /proc/kpagecount: what the kernel says of a frame.
//!
//! Bits as in include/uapi/linux/kernel-page-flags.h; readable by root alone, also under lockdown.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result};
use v2p_common::Pfn;

const FLAGS: &str = "/proc/kpageflags";
const COUNTS: &str = "/proc/kpagecount";

/// The flags of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameFlags(pub u64);

/// The flags with their bits and the kernel's names.
macro_rules! flags {
    ($($name:ident = $bit:literal $text:literal),* $(,)?) => {
        impl FrameFlags {
            $(#[doc = concat!("Bit ", $bit, ", `", $text, "`.")]
            pub const $name: Self = Self(1 << $bit);)*

            const NAMED: u64 = 0 $(| Self::$name.0)*;

            /// The kernel's names of the flags that are set, of those known here.
            pub fn names(self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if self.has(Self::$name) { names.push($text); })*
                names
            }
        }
    };
}
// Those of include/linux/kernel-page-flags.h, for who works on the kernel, change their meanings from version to version: all but the first two are left out.
flags! {
    LOCKED = 0 "locked", ERROR = 1 "error", REFERENCED = 2 "referenced", UPTODATE = 3 "uptodate", DIRTY = 4 "dirty", LRU = 5 "lru",
    ACTIVE = 6 "active", SLAB = 7 "slab", WRITEBACK = 8 "writeback", RECLAIM = 9 "reclaim", BUDDY = 10 "buddy", MMAP = 11 "mmap", ANON = 12 "anon",
    SWAPCACHE = 13 "swapcache", SWAPBACKED = 14 "swapbacked", COMPOUND_HEAD = 15 "compound_head", COMPOUND_TAIL = 16 "compound_tail",
    HUGE = 17 "huge", UNEVICTABLE = 18 "unevictable", HWPOISON = 19 "hwpoison", NOPAGE = 20 "nopage", KSM = 21 "ksm", THP = 22 "thp",
    OFFLINE = 23 "offline", ZERO_PAGE = 24 "zero_page", IDLE = 25 "idle", PGTABLE = 26 "pgtable",
    RESERVED = 32 "reserved", MLOCKED = 33 "mlocked",
}

impl FrameFlags {
    /// Those that are the same for all pages of a folio, and for more than a moment: the others would cut every run of pages.
    #[must_use]
    pub const fn steady(self) -> Self {
        const PASSING: u64 = FrameFlags::LOCKED.0
            | FrameFlags::ERROR.0
            | FrameFlags::REFERENCED.0
            | FrameFlags::UPTODATE.0
            | FrameFlags::DIRTY.0
            | FrameFlags::ACTIVE.0
            | FrameFlags::WRITEBACK.0
            | FrameFlags::RECLAIM.0
            | FrameFlags::COMPOUND_HEAD.0
            | FrameFlags::COMPOUND_TAIL.0
            | FrameFlags::IDLE.0;
        Self(self.known().0 & !PASSING)
    }

    /// Those that have names here.
    #[must_use]
    pub const fn known(self) -> Self {
        Self(self.0 & Self::NAMED)
    }

    /// Whether all bits of `flag` are set.
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }
}

/// The flags of frame `pfn`.
///
/// # Errors
/// Where the file cannot be read, or ends before the frame.
pub fn frame_flags(pfn: Pfn) -> Result<FrameFlags> {
    word_of(FLAGS, pfn).map(FrameFlags)
}

/// How often frame `pfn` is mapped.
///
/// # Errors
/// As [`frame_flags`].
pub fn frame_mapcount(pfn: Pfn) -> Result<u64> {
    word_of(COUNTS, pfn)
}

/// /proc/kpageflags or /proc/kpagecount, for many frames: one word a frame.
pub struct FrameFile {
    path: &'static str,
    file: File,
}

/// Frames nearer than this are read as one: the words between cost less than another system call (55 ns a word, 0.3 us
/// a call on 6.18).
const NEAR: u64 = 6;
/// Frames in one read.
const CHUNK: u64 = 4096;

impl FrameFile {
    /// Opens the flags.
    ///
    /// # Errors
    /// Why not: it is root's.
    pub fn flags() -> io::Result<Self> {
        Self::open(FLAGS)
    }

    /// Opens the counts of mappings.
    ///
    /// # Errors
    /// As [`Self::flags`].
    pub fn counts() -> io::Result<Self> {
        Self::open(COUNTS)
    }

    /// Of a machine without memory.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self::open("/dev/null").unwrap()
    }

    fn open(path: &'static str) -> io::Result<Self> {
        Ok(Self {
            path,
            file: File::open(path)?,
        })
    }

    /// Hands the word of every frame of `frames` to `each`, in order; `None` for frames beyond the end of memory. Where they are sorted, those
    /// that lie near each other are read at once.
    ///
    /// # Errors
    /// Those of the read.
    pub fn of(&self, frames: &[Pfn], mut each: impl FnMut(Option<u64>)) -> Result<()> {
        let mut rest = frames;
        let mut buffer = Vec::new();
        while let Some(first) = rest.first().copied() {
            let mut last = first;
            let near = |pfn: &&Pfn| {
                let goes_on = pfn.0 <= last.0 + NEAR && pfn.0.wrapping_sub(first.0) < CHUNK;
                last = if goes_on { last.max(**pfn) } else { last };
                goes_on
            };
            let count = rest.iter().take_while(near).count();
            let (now, later) = rest.split_at(count);
            rest = later;
            let len = usize::try_from((last.0 - first.0 + 1) * 8)?;
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            let place = buffer.get_mut(..len).unwrap_or_default();
            let read = self.file.read_at(place, first.0 * 8);
            let n = read.context(self.path)?;
            let (words, _) = buffer.get(..n).unwrap_or_default().as_chunks::<8>();
            for pfn in now {
                let word = words.get(usize::try_from(pfn.0 - first.0)?);
                each(word.map(|word| u64::from_ne_bytes(*word)));
            }
        }
        Ok(())
    }
}

fn word_of(path: &str, pfn: Pfn) -> Result<u64> {
    let mut bytes = [0; 8];
    File::open(path)
        .and_then(|f| f.read_exact_at(&mut bytes, pfn.0.saturating_mul(8)))
        .with_context(|| format!("{path} for PFN {pfn}"))?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_as_the_kernel_names_them() {
        let flags = FrameFlags(FrameFlags::MMAP.0 | FrameFlags::ANON.0);
        assert_eq!(flags.names(), ["mmap", "anon"]);
        assert!(!flags.has(FrameFlags::SLAB));
    }
}
