//! /proc/kpageflags and /proc/kpagecount: what the kernel says of a frame.
//!
//! Bits as in include/uapi/linux/kernel-page-flags.h; readable by root alone, also under lockdown.

use std::{fs::File, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result};
use v2p_common::Pfn;

/// The flags of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameFlags(pub u64);

/// The flags that v2p asks about, with their bits and the kernel's names.
macro_rules! flags {
    ($($name:ident = $bit:literal $text:literal),* $(,)?) => {
        impl FrameFlags {
            $(#[doc = concat!("Bit ", $bit, ", `", $text, "`.")]
            pub const $name: Self = Self(1 << $bit);)*

            /// The kernel's names of the flags that are set, of those known here.
            pub fn names(self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if self.has(Self::$name) { names.push($text); })*
                names
            }
        }
    };
}
flags! {
    LRU = 5 "lru", SLAB = 7 "slab", BUDDY = 10 "buddy", MMAP = 11 "mmap", ANON = 12 "anon",
    SWAPCACHE = 13 "swapcache", SWAPBACKED = 14 "swapbacked", COMPOUND_HEAD = 15 "compound_head",
    COMPOUND_TAIL = 16 "compound_tail", HUGE = 17 "huge", UNEVICTABLE = 18 "unevictable",
    HWPOISON = 19 "hwpoison", NOPAGE = 20 "nopage", KSM = 21 "ksm", THP = 22 "thp",
    OFFLINE = 23 "offline", ZERO_PAGE = 24 "zero_page", PGTABLE = 26 "pgtable",
    RESERVED = 32 "reserved", MLOCKED = 33 "mlocked",
}

impl FrameFlags {
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
    word_of("/proc/kpageflags", pfn).map(FrameFlags)
}

/// How often frame `pfn` is mapped.
///
/// # Errors
/// As [`frame_flags`].
pub fn frame_mapcount(pfn: Pfn) -> Result<u64> {
    word_of("/proc/kpagecount", pfn)
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
