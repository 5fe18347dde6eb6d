//! What pages mostly are, told for many at once: present, in base pages, in frames that are shown. Pure.
//!
//! The words and entries stay as the kernel gave them; what they say of a page is decoded when it is asked for.

use v2p_common::{PAGE_SHIFT, PAGE_SIZE, Pfn, VirtAddr, pagemap::PagemapWord, pte::SPECIAL};

use super::page::{Decoder, Marks, Page, Verdict};
use crate::state::PageState;

/// Pages that lie one after the other, each present in a base page that is not the zero page; by both
/// routes in the same frame, where both were asked.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    start: VirtAddr,
    raw: Raw<'a>,
    frames: EntryFrames,
}

/// What the routes that were asked brought for some pages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raw<'a> {
    /// Pagemap's words.
    Words(&'a [u64]),
    /// Entries of a page table.
    Entries(&'a [u64]),
    /// Both, equally many.
    Both(&'a [u64], &'a [u64]),
}

/// The frame bits of a page-table entry.
#[derive(Clone, Copy, Debug)]
struct EntryFrames {
    mask: u64,
}

/// The frame bits of a pagemap word (`PM_PFRAME_MASK`, fs/proc/task_mmu.c).
const WORD_FRAME: u64 = (1 << 55) - 1;
/// No frame has this number.
const NO_FRAME: u64 = 1 << 62;
/// Pages that are looked at together.
const CHUNK: usize = 64;

impl EntryFrames {
    const fn of(decoder: &Decoder) -> Self {
        Self {
            mask: match decoder.paging {
                Some(paging) => paging.physical_mask & !(PAGE_SIZE - 1),
                None => 0,
            },
        }
    }

    const fn pfn(self, entry: u64) -> u64 {
        (entry & self.mask) >> PAGE_SHIFT
    }
}

impl<'a> Raw<'a> {
    pub(super) const fn len(self) -> usize {
        match self {
            Self::Words(raw) | Self::Entries(raw) | Self::Both(raw, _) => raw.len(),
        }
    }

    /// The first `n`, and the rest.
    pub(super) fn split(self, n: usize) -> (Self, Self) {
        let at = |raw: &'a [u64]| raw.split_at(n.min(raw.len()));
        match self {
            Self::Words(words) => {
                let (a, b) = at(words);
                (Self::Words(a), Self::Words(b))
            }
            Self::Entries(entries) => {
                let (a, b) = at(entries);
                (Self::Entries(a), Self::Entries(b))
            }
            Self::Both(words, entries) => {
                let ((a, b), (c, d)) = (at(words), at(entries));
                (Self::Both(a, c), Self::Both(b, d))
            }
        }
    }

    /// How many pages at the beginning are plain.
    pub(super) fn plain(self, decoder: &Decoder) -> usize {
        let frames = EntryFrames::of(decoder);
        let zero = decoder.zero_pfn.map_or(NO_FRAME, |pfn| pfn.0);
        let all = |raw: Self| raw.all_plain(frames, zero);
        if !all(self.split(1).0) {
            return 0;
        }
        let (mut plain, mut rest) = (0, self);
        for size in [CHUNK, 1] {
            while rest.len() > 0 {
                let (now, later) = rest.split(size);
                if !all(now) {
                    break;
                }
                plain += now.len();
                rest = later;
            }
        }
        plain
    }

    /// Whether all pages are plain: without a branch a page, so that the compiler can take several at a time. Every
    /// term of the sums has bit 63 where the page is not plain.
    fn all_plain(self, frames: EntryFrames, zero: u64) -> bool {
        // Bit 63 of x - 1 is that x is 0, and of 0 - x that it is not, for x below 2^63.
        let is_zero = |x: u64| x.wrapping_sub(1);
        let is_not_zero = |x: u64| 0u64.wrapping_sub(x);
        let odd_word = |word: u64| {
            let pfn = word & WORD_FRAME;
            !word | is_zero(pfn) | is_zero(pfn ^ zero)
        };
        // Not present; or special, which may be a device's.
        let odd_entry = |entry: u64| !entry << 63 | entry << SPECIAL.leading_zeros();
        let odd = match self {
            Self::Words(words) => words.iter().fold(0, |odd, word| odd | odd_word(*word)),
            Self::Entries(entries) => entries.iter().fold(0, |odd, entry| {
                odd | odd_entry(*entry) | is_zero(frames.pfn(*entry) ^ zero)
            }),
            Self::Both(words, entries) => {
                words.iter().zip(entries).fold(0, |odd, (word, entry)| {
                    let differ = is_not_zero((word & WORD_FRAME) ^ frames.pfn(*entry));
                    odd | odd_word(*word) | odd_entry(*entry) | differ
                })
            }
        };
        odd >> 63 == 0
    }
}

impl<'a> Plain<'a> {
    /// Of pages that [`Raw::plain`] says are plain, the first being `start`.
    pub(super) const fn new(start: VirtAddr, raw: Raw<'a>, decoder: &Decoder) -> Self {
        Self {
            start,
            raw,
            frames: EntryFrames::of(decoder),
        }
    }

    /// The first page.
    pub const fn start(&self) -> VirtAddr {
        self.start
    }

    /// How many pages.
    pub const fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frame of each page, in order.
    pub fn frames(&self) -> impl Iterator<Item = Pfn> + use<'a> {
        let (raw, mask, shift) = match self.raw {
            Raw::Words(words) | Raw::Both(words, _) => (words, WORD_FRAME, 0),
            Raw::Entries(entries) => (entries, self.frames.mask, PAGE_SHIFT),
        };
        raw.iter().map(move |raw| Pfn((raw & mask) >> shift))
    }

    /// Each page, in order.
    pub fn pages(&self) -> impl Iterator<Item = Page> + use<'a> {
        let start = self.start.0;
        let (words, page_size, verdict): (&[u64], _, _) = match self.raw {
            Raw::Words(words) => (words, None, Verdict::Single),
            Raw::Entries(_) => (&[], Some(PAGE_SIZE), Verdict::Single),
            Raw::Both(words, _) => (words, Some(PAGE_SIZE), Verdict::Agree),
        };
        (0u64..)
            .zip(self.frames())
            .enumerate()
            .map(move |(i, (n, pfn))| {
                let word = words.get(i).copied().map(PagemapWord);
                Page {
                    va: VirtAddr(start + n * PAGE_SIZE),
                    state: PageState::Present { pfn },
                    page_size,
                    marks: word.map(Marks::of).unwrap_or_default(),
                    frame: None,
                    node: None,
                    verdict,
                }
            })
    }
}
