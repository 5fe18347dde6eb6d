//! Frames -> the pages that map them: a sink that hands on only those.

use anyhow::Result;
use v2p_common::Pfn;

use super::{page::Page, plain::Plain, sink::Sink};

/// Frames to look for.
#[derive(Clone, Debug)]
pub struct Wanted {
    frames: Vec<Pfn>,
    /// A bit for the low bits of every frame wanted: tells nearly all others apart at once.
    filter: Box<[u64; 64]>,
}

impl Wanted {
    /// These frames.
    pub fn new(frames: &[Pfn]) -> Self {
        let mut sorted = frames.to_vec();
        sorted.sort_unstable();
        let mut filter = Box::new([0; 64]);
        for pfn in frames {
            if let Some(word) = filter.get_mut(Self::word(*pfn)) {
                *word |= 1 << (pfn.0 & 63);
            }
        }
        Self {
            frames: sorted,
            filter,
        }
    }

    /// Whether any of the frames of `pages` is among them.
    #[inline]
    fn has_any_of(&self, pages: &Plain<'_>) -> bool {
        match self.frames.as_slice() {
            // Without a branch a frame, so that the compiler can take several at a time: bit 63 of x - 1 is that x is 0.
            [one] => {
                let hit = |hit, pfn: Pfn| hit | (pfn.0 ^ one.0).wrapping_sub(1);
                pages.fold_frames(0, hit) >> 63 != 0
            }
            _ => pages.fold_frames(false, |hit, pfn| hit || self.has(pfn)),
        }
    }

    /// The word of the filter that has the bit for `pfn`.
    const fn word(pfn: Pfn) -> usize {
        (pfn.0 >> 6 & 63) as usize
    }

    /// Whether `pfn` is among them.
    #[inline]
    pub fn has(&self, pfn: Pfn) -> bool {
        if let [one] = self.frames.as_slice() {
            return *one == pfn;
        }
        let word = self.filter.get(Self::word(pfn));
        word.is_some_and(|word| word >> (pfn.0 & 63) & 1 != 0)
            && self.frames.binary_search(&pfn).is_ok()
    }
}

/// Hands on the pages whose entries name a wanted frame, whosever it is: those that map it, and those that are in migration out of it.
pub struct Finder<'a, F> {
    /// What to look for.
    wanted: &'a Wanted,
    /// Takes what is found, each with the frame.
    found: F,
    /// Pages that map a frame: all were compared.
    pub pages: u64,
}

impl<'a, F: FnMut(&Page, Pfn) -> Result<()>> Finder<'a, F> {
    /// Has found nothing yet. An error of `found` ends the reading.
    pub const fn new(wanted: &'a Wanted, found: F) -> Self {
        Self {
            wanted,
            found,
            pages: 0,
        }
    }
}

impl<F: FnMut(&Page, Pfn) -> Result<()>> Sink for Finder<'_, F> {
    #[inline]
    fn nothing(&mut self, _: Page, _: u64) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn page(&mut self, page: Page, pages: u64) -> Result<()> {
        if page.any_frame().is_some() {
            self.pages += pages;
        }
        match page.named_frame() {
            Some(pfn) if self.wanted.has(pfn) => (self.found)(&page, pfn),
            _ => Ok(()),
        }
    }

    #[inline]
    fn plain(&mut self, pages: &Plain<'_>) -> Result<()> {
        self.pages += pages.len() as u64;
        if !self.wanted.has_any_of(pages) {
            return Ok(());
        }
        pages.pages().try_for_each(|page| match page.pfn() {
            Some(pfn) if self.wanted.has(pfn) => (self.found)(&page, pfn),
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::{page::Decoder, plain::Raw};
    use v2p_common::{VirtAddr, pagemap::PagemapWord};

    #[test]
    fn a_page_among_plain_ones_is_found() {
        let decoder = Decoder {
            paging: None,
            zero: crate::page::ZeroFrames::UNKNOWN,
        };
        let words: Vec<u64> = (100..300).map(|pfn| 1 << 63 | pfn).collect();
        let plain = Plain::new(VirtAddr(0x1000), Raw::Words(&words), &decoder);
        for wanted in [&[Pfn(107)][..], &[Pfn(107), Pfn(9)], &[Pfn(9)], &[]] {
            let wanted = Wanted::new(wanted);
            let mut found = Vec::new();
            let mut finder = Finder::new(&wanted, |page: &Page, pfn: Pfn| {
                found.push((page.va.0, pfn.0));
                Ok(())
            });
            finder.plain(&plain).unwrap();
            assert_eq!(finder.pages, 200);
            let is_there = wanted.has(Pfn(107));
            assert_eq!(
                found,
                if is_there {
                    vec![(0x8000, 107)]
                } else {
                    Vec::new()
                }
            );
        }
    }

    #[test]
    fn a_page_that_is_moved_out_of_a_wanted_frame_is_found_and_maps_nothing() {
        let decoder = Decoder {
            paging: None,
            zero: crate::page::ZeroFrames::UNKNOWN,
        };
        let wanted = Wanted::new(&[Pfn(777)]);
        for (pfn, expected) in [(777, 1), (778, 0)] {
            let word = PagemapWord(1 << 62 | pfn << 5 | 28);
            let mut found = 0;
            let mut finder = Finder::new(&wanted, |page: &Page, _| {
                assert_eq!(page.any_frame(), None);
                found += 1;
                Ok(())
            });
            let page = decoder.page(VirtAddr(0x1000), Some(word), None);
            finder.page(page, 1).unwrap();
            assert_eq!((finder.pages, found), (0, expected));
        }
    }

    #[test]
    fn only_what_is_wanted_is_found() {
        let wanted = Wanted::new(&[Pfn(9), Pfn(4096 + 7), Pfn(1 << 33)]);
        let has = [9, 4096 + 7, 1 << 33].map(|pfn| wanted.has(Pfn(pfn)));
        assert_eq!(has, [true; 3]);
        // Alike in their low bits, and others.
        let others = [4096 + 9, 7, 0, 1 << 34, 10].map(|pfn| wanted.has(Pfn(pfn)));
        assert_eq!(others, [false; 5]);
    }
}
