//! What is known of the frames beside their numbers: flags, how often they are mapped, nodes.

use std::sync::Arc;

use anyhow::Result;
use v2p_common::Pfn;

use super::page::Page;
use crate::{
    process::{FrameFile, FrameFlags, Nodes},
    state::PageState,
};

/// What is to be added to pages, and the files that say it.
#[derive(Clone)]
pub(super) struct Frames {
    /// `None`: not asked, or not ours to read.
    flags: Option<Arc<FrameFile>>,
    all_flags: bool,
    /// `None`: not asked, or not ours to read.
    counts: Option<Arc<FrameFile>>,
    /// Why the flags cannot be read.
    pub(super) missing: Option<String>,
    nodes: Nodes,
}

/// Frames that are asked about together, and the answers. Small, since it goes from one processor to another and back.
#[derive(Default)]
pub(super) struct Asked {
    /// As their pages come.
    frames: Vec<Pfn>,
    /// A word each, or [`BEYOND`]; none where it is not asked.
    flags: Vec<u64>,
    counts: Vec<u64>,
    order: Vec<(Pfn, u32)>,
    sorted: Vec<Pfn>,
}

/// Of a frame beyond the end of memory, which has no word.
const BEYOND: u64 = u64::MAX;

/// The first frame of a huge page that has bad memory, and how many there are.
pub(super) type BadLeaf = (Pfn, u64);

/// The flags in a word that was asked for.
const fn flags_in(word: u64) -> FrameFlags {
    match word {
        BEYOND => FrameFlags::NOPAGE,
        word => FrameFlags(word),
    }
}

impl Frames {
    pub(super) fn new() -> Self {
        let (flags, missing) = match FrameFile::flags() {
            Ok(flags) => (Some(Arc::new(flags)), None),
            Err(e) => (None, Some(format!("/proc/kpageflags: {e}"))),
        };
        Self {
            flags,
            all_flags: false,
            counts: None,
            missing,
            nodes: Nodes::read(),
        }
    }

    pub(super) fn without_flags(&mut self) {
        self.flags = None;
        self.missing = None;
    }

    pub(super) fn without_nodes(&mut self) {
        self.nodes = Nodes::default();
    }

    pub(super) const fn with_all_flags(&mut self) {
        self.all_flags = true;
    }

    pub(super) fn with_counts(&mut self) {
        self.counts = FrameFile::counts().ok().map(Arc::new);
    }

    /// Whether nothing is to be added to any page.
    pub(super) const fn say_nothing(&self) -> bool {
        self.flags.is_none() && self.counts.is_none() && self.nodes.is_single()
    }

    /// Asks about the frames in `asked`.
    ///
    /// # Errors
    /// Those of reading /proc/kpageflags and /proc/kpagecount.
    pub(super) fn ask(&self, asked: &mut Asked) -> Result<()> {
        let Asked {
            frames,
            flags,
            counts,
            order,
            sorted,
        } = asked;
        if self.flags.is_none() && self.counts.is_none() {
            return Ok(());
        }
        // In order, so that those near each other are read at once; stable, since such a sort sees the stretches that are in order.
        order.clear();
        order.extend(frames.iter().copied().zip(0..));
        order.sort_by_key(|(pfn, _)| *pfn);
        sorted.clear();
        sorted.extend(order.iter().map(|(pfn, _)| *pfn));
        for (file, words) in [(&self.flags, flags), (&self.counts, counts)] {
            words.clear();
            let Some(file) = file else { continue };
            words.resize(frames.len(), BEYOND);
            let mut order = order.iter();
            file.of(sorted, |word| {
                if let (Some((_, i)), Some(word)) = (order.next(), word)
                    && let Some(place) = words.get_mut(*i as usize)
                {
                    *place = word;
                }
            })?;
        }
        Ok(())
    }

    /// Of `pages`, the leaves of those that look like a migration, and are bad memory since one of the leaf's frames is: the mark of that goes from the first frame of a huge
    /// page to the bad one as the page is given up (folio_clear_hugetlb_hwpoison, mm/memory-failure.c, 6.1 to 7.3). All are asked, once a leaf.
    ///
    /// # Errors
    /// Those of reading /proc/kpageflags.
    pub(super) fn bad_leaves(&self, pages: &[Page]) -> Result<Vec<BadLeaf>> {
        let mut bad = Vec::new();
        let Some(file) = &self.flags else {
            return Ok(bad);
        };
        let mut last = None;
        for page in pages {
            let leaf = page.leaf_in_doubt().filter(|(_, frames)| *frames > 1);
            let Some(leaf) = leaf.filter(|leaf| last.replace(*leaf) != Some(*leaf)) else {
                continue;
            };
            if leaf_is_bad(file, leaf)? {
                bad.push(leaf);
            }
        }
        Ok(bad)
    }

    /// Adds to `pages` what there is. `bad`: what [`Self::bad_leaves`] gave of them.
    pub(super) fn add(&self, asked: &Asked, bad: &[BadLeaf], pages: &mut [Page]) {
        let mut flags = asked.flags.iter();
        let mut counts = asked.counts.iter();
        for page in pages {
            if !self.nodes.is_single() {
                page.node = page.pfn().and_then(|pfn| self.nodes.of(pfn));
            }
            if page.frame_to_ask().is_none() {
                continue;
            }
            if page.leaf_in_doubt().is_some_and(|leaf| bad.contains(&leaf)) {
                page.state = PageState::Poisoned;
            }
            if let Some(word) = flags.next() {
                page.add_frame(flags_in(*word));
                if !self.all_flags {
                    page.frame = page.frame.map(FrameFlags::steady);
                }
            }
            if let (Some(word), PageState::Present { .. }) = (counts.next(), page.state) {
                page.mapped = u32::try_from(*word).ok();
            }
        }
    }
}

impl Asked {
    /// Sets out to ask about the frames of `pages`.
    pub(super) fn about(&mut self, pages: &[Page]) {
        self.frames.clear();
        self.frames
            .extend(pages.iter().filter_map(Page::frame_to_ask));
    }

    /// Whether there is no frame to ask about.
    pub(super) const fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Those of `pages` whose frames are mapped by no process, as far as their flags say, which were asked about.
    pub(super) fn that_no_one_maps<'a>(
        &'a self,
        pages: &'a [Page],
    ) -> impl Iterator<Item = Page> + 'a {
        let asked = pages.iter().filter(|page| page.frame_to_ask().is_some());
        let with_flags = asked.zip(&self.flags);
        let no_one_maps = |(page, word): (&Page, &u64)| {
            let flags = flags_in(*word);
            // Of the zero pages the mappings are not counted.
            let is_mapped = flags.has(FrameFlags::MMAP) || flags.has(FrameFlags::ZERO_PAGE);
            (page.pfn().is_some() && !is_mapped).then_some(*page)
        };
        with_flags.filter_map(no_one_maps)
    }
}

/// Whether any frame is marked as bad, of so many from `first` on.
///
/// # Errors
/// Those of reading /proc/kpageflags.
pub(crate) fn leaf_is_bad(file: &FrameFile, (first, frames): (Pfn, u64)) -> Result<bool> {
    let all: Vec<Pfn> = (first.0..first.0 + frames).map(Pfn).collect();
    let mut is_bad = false;
    file.of(&all, |word| {
        is_bad |= word.is_some_and(|word| FrameFlags(word).has(FrameFlags::HWPOISON));
    })?;
    Ok(is_bad)
}

#[cfg(test)]
mod tests {
    use v2p_common::pagemap::PagemapWord;

    use super::*;
    use crate::{page::ZeroFrames, translate::page::Decoder};

    #[test]
    fn a_page_whose_frame_no_one_maps_is_to_be_asked_about_again() {
        let decoder = Decoder {
            paging: None,
            zero: ZeroFrames::UNKNOWN,
        };
        let words = [
            FrameFlags::MMAP.0 | FrameFlags::ANON.0,
            FrameFlags::BUDDY.0,
            FrameFlags::LRU.0,
            FrameFlags::ZERO_PAGE.0,
            BEYOND,
        ];
        let mut pages: Vec<Page> = (0..words.len() as u64)
            .map(|i| {
                let va = v2p_common::VirtAddr(0x7000_0000_0000 + i * v2p_common::PAGE_SIZE);
                decoder.page(va, Some(PagemapWord(1 << 63 | (0x1000 + i))), None)
            })
            .collect();
        // Absent: nothing is asked about it.
        pages.insert(
            1,
            decoder.page(v2p_common::VirtAddr(0), Some(PagemapWord(0)), None),
        );
        let mut asked = Asked::default();
        asked.about(&pages);
        asked.flags = words.to_vec();
        let nobodys: Vec<_> = asked.that_no_one_maps(&pages).collect();
        assert_eq!(nobodys, [2, 3, 5].map(|i: usize| pages[i]));
    }
}
