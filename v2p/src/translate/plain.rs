//! What pages mostly are, told for many at once: present, in base pages, in frames that are shown. Pure.
//!
//! The words and entries stay as the kernel gave them; what they say of a page is decoded when it is asked for.

use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn, VirtAddr,
    pagemap::{PFN_MASK, PagemapWord},
    pte::SPECIAL,
};

use super::page::{Decoder, Marks, Page};
use crate::{
    page::ZeroFrames,
    state::{PageState, Verdict},
};

/// Pages that lie one after the other, each present in a frame that is not the zero page, under leaves of one size; by
/// both routes in the same frame, where both were asked.
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
    /// So many pages of a large leaf.
    Leaf(Leaf, usize),
    /// Pagemap's words, and the large leaf that all are of.
    WordsAndLeaf(&'a [u64], Leaf),
}

/// Part of a large leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    /// The frame of its first page.
    pub(super) first: u64,
    /// Bytes that all of the leaf maps.
    pub(super) size: u64,
}

/// The frame bits of a page-table entry.
#[derive(Clone, Copy, Debug)]
struct EntryFrames {
    mask: u64,
}

/// No frame has this number.
const NO_FRAME: u64 = 1 << 62;
/// Of the frames in a huge page, which begins at a multiple of so many.
const HUGE_SHIFT: u32 = PageSize::Pmd.shift() - PAGE_SHIFT;
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

impl Leaf {
    const fn after(self, pages: usize) -> Self {
        Self {
            first: self.first + pages as u64,
            ..self
        }
    }
}

impl<'a> Raw<'a> {
    pub(super) const fn len(self) -> usize {
        match self {
            Self::Words(raw)
            | Self::Entries(raw)
            | Self::Both(raw, _)
            | Self::WordsAndLeaf(raw, _) => raw.len(),
            Self::Leaf(_, pages) => pages,
        }
    }

    /// The first `n`, and the rest.
    pub(super) fn split(self, n: usize) -> (Self, Self) {
        let n = n.min(self.len());
        match self {
            Self::Words(words) => {
                let (a, b) = words.split_at(n);
                (Self::Words(a), Self::Words(b))
            }
            Self::Entries(entries) => {
                let (a, b) = entries.split_at(n);
                (Self::Entries(a), Self::Entries(b))
            }
            Self::Both(words, entries) => {
                let ((a, b), (c, d)) = (words.split_at(n), entries.split_at(n));
                (Self::Both(a, c), Self::Both(b, d))
            }
            Self::Leaf(leaf, pages) => (Self::Leaf(leaf, n), Self::Leaf(leaf.after(n), pages - n)),
            Self::WordsAndLeaf(words, leaf) => {
                let (a, b) = words.split_at(n);
                (
                    Self::WordsAndLeaf(a, leaf),
                    Self::WordsAndLeaf(b, leaf.after(n)),
                )
            }
        }
    }

    /// How many pages at the beginning are plain.
    pub(super) fn plain(self, decoder: &Decoder) -> usize {
        let frames = EntryFrames::of(decoder);
        let ZeroFrames { page, huge } = decoder.zero;
        let zeros = [page, huge].map(|pfn| pfn.map_or(NO_FRAME, |pfn| pfn.0));
        let all = |raw: Self| raw.all_plain(frames, zeros);
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

    /// How many pages at the beginning hold nothing and never did, by all routes that were asked.
    pub(super) fn nothing(self) -> usize {
        let none = |raw: &[u64]| raw.iter().take_while(|raw| **raw == 0).count();
        match self {
            Self::Words(raw) | Self::Entries(raw) => none(raw),
            Self::Both(words, entries) => none(words).min(none(entries)),
            Self::Leaf(..) | Self::WordsAndLeaf(..) => 0,
        }
    }

    /// Whether all pages are plain: without a branch a page, so that the compiler can take several at a time. Every
    /// term of the sums has bit 63 where the page is not plain.
    fn all_plain(self, frames: EntryFrames, [zero, huge]: [u64; 2]) -> bool {
        // Bit 63 of x - 1 is that x is 0, and of 0 - x that it is not, for x below 2^63.
        let is_zero = |x: u64| x.wrapping_sub(1);
        let is_not_zero = |x: u64| 0u64.wrapping_sub(x);
        let is_of_zeros = |pfn: u64| is_zero(pfn ^ zero) | is_zero((pfn ^ huge) >> HUGE_SHIFT);
        let odd_word = |word: u64| {
            let pfn = word & PFN_MASK;
            !word | is_zero(pfn) | is_of_zeros(pfn)
        };
        // Not present; or special, which may be a device's.
        let odd_entry = |entry: u64| !entry << 63 | entry << SPECIAL.leading_zeros();
        let has_zero = |leaf: Leaf, pages| {
            let end = leaf.first + pages as u64;
            let has = (leaf.first..end).contains(&zero);
            let lies_in = huge < end && leaf.first < huge + (1 << HUGE_SHIFT);
            u64::from(has || lies_in) << 63
        };
        let odd = match self {
            Self::Leaf(leaf, pages) => has_zero(leaf, pages),
            Self::WordsAndLeaf(words, leaf) => {
                let frames = words.iter().zip(leaf.first..);
                frames.fold(has_zero(leaf, words.len()), |odd, (word, pfn)| {
                    odd | odd_word(*word) | is_not_zero((word & PFN_MASK) ^ pfn)
                })
            }
            Self::Words(words) => words.iter().fold(0, |odd, word| odd | odd_word(*word)),
            Self::Entries(entries) => entries.iter().fold(0, |odd, entry| {
                odd | odd_entry(*entry) | is_of_zeros(frames.pfn(*entry))
            }),
            Self::Both(words, entries) => {
                words.iter().zip(entries).fold(0, |odd, (word, entry)| {
                    let differ = is_not_zero((word & PFN_MASK) ^ frames.pfn(*entry));
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
    #[inline]
    pub const fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether both routes were asked, and named the same frames.
    pub const fn are_compared(&self) -> bool {
        matches!(self.raw, Raw::Both(..) | Raw::WordsAndLeaf(..))
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Goes through the frames of the pages, in order: a loop of its own for each form, so that the compiler can take
    /// several at a time.
    #[inline]
    pub fn fold_frames<T>(&self, start: T, mut each: impl FnMut(T, Pfn) -> T) -> T {
        let frames = self.frames;
        match self.raw {
            Raw::Words(words) | Raw::Both(words, _) | Raw::WordsAndLeaf(words, _) => words
                .iter()
                .fold(start, |so_far, word| each(so_far, Pfn(word & PFN_MASK))),
            Raw::Entries(entries) => entries
                .iter()
                .fold(start, |so_far, entry| each(so_far, Pfn(frames.pfn(*entry)))),
            Raw::Leaf(leaf, pages) => (leaf.first..leaf.first + pages as u64)
                .fold(start, |so_far, pfn| each(so_far, Pfn(pfn))),
        }
    }

    /// Each page, in order.
    pub fn pages(&self) -> impl Iterator<Item = Page> + use<'a> {
        let Self { start, raw, .. } = *self;
        let frames = self.frames;
        let (words, page_size, verdict): (&[u64], _, _) = match raw {
            Raw::Words(words) => (words, None, Verdict::Single),
            Raw::Entries(_) => (&[], Some(PAGE_SIZE), Verdict::Single),
            Raw::Both(words, _) => (words, Some(PAGE_SIZE), Verdict::Agree),
            Raw::Leaf(leaf, _) => (&[], Some(leaf.size), Verdict::Single),
            Raw::WordsAndLeaf(words, leaf) => (words, Some(leaf.size), Verdict::Agree),
        };
        (0..raw.len()).filter_map(move |i| {
            let word = words.get(i).copied().map(PagemapWord);
            let pfn = match (raw, word) {
                (_, Some(word)) => word.0 & PFN_MASK,
                (Raw::Entries(entries), None) => frames.pfn(*entries.get(i)?),
                (Raw::Leaf(leaf, _), None) => leaf.after(i).first,
                _ => return None,
            };
            Some(Page {
                va: VirtAddr(start.0 + i as u64 * PAGE_SIZE),
                state: PageState::Present { pfn: Pfn(pfn) },
                page_size,
                marks: word.map(Marks::of).unwrap_or_default(),
                frame: None,
                mapped: None,
                node: None,
                verdict,
            })
        })
    }
}
