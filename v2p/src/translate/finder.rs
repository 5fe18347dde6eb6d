//! Frames -> the pages that map them: a sink that keeps only those.

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

    /// The word of the filter that has the bit for `pfn`.
    const fn word(pfn: Pfn) -> usize {
        (pfn.0 >> 6 & 63) as usize
    }

    /// Whether `pfn` is among them.
    pub fn has(&self, pfn: Pfn) -> bool {
        let word = self.filter.get(Self::word(pfn));
        word.is_some_and(|word| word >> (pfn.0 & 63) & 1 != 0)
            && self.frames.binary_search(&pfn).is_ok()
    }
}

/// Keeps the pages that map a wanted frame, whosever it is.
pub struct Finder<'a> {
    /// What to look for.
    wanted: &'a Wanted,
    /// Pages that were compared.
    pub pages: u64,
    /// Those that were found.
    pub found: Vec<Page>,
}

impl<'a> Finder<'a> {
    /// Has found nothing yet.
    pub const fn new(wanted: &'a Wanted) -> Self {
        Self {
            wanted,
            pages: 0,
            found: Vec::new(),
        }
    }
}

impl Sink for Finder<'_> {
    fn page(&mut self, page: Page, pages: u64) -> Result<()> {
        if let Some(pfn) = page.any_frame() {
            self.pages += pages;
            if self.wanted.has(pfn) {
                self.found.push(page);
            }
        }
        Ok(())
    }

    fn plain(&mut self, pages: &Plain<'_>) -> Result<()> {
        self.pages += pages.len() as u64;
        if pages.frames().any(|pfn| self.wanted.has(pfn)) {
            let wanted = |page: &Page| page.pfn().is_some_and(|pfn| self.wanted.has(pfn));
            self.found.extend(pages.pages().filter(wanted));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
