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

impl Frames {
    pub(super) fn new() -> Self {
        let (flags, missing) = match FrameFile::flags() {
            Ok(flags) => (Some(Arc::new(flags)), None),
            Err(e) => (None, Some(format!("/proc/kpageflags: {e}"))),
        };
        Self {
            flags,
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

    /// Adds to `pages` what there is. Those whose frames were found bad, or of a kind that no process has, come to `accused`, as they were before
    /// that was known: they may have left the frame by then.
    ///
    /// # Errors
    /// Those of reading /proc/kpageflags.
    pub(super) fn add(
        &self,
        asked: &Asked,
        pages: &mut [Page],
        accused: &mut Vec<Page>,
    ) -> Result<()> {
        let mut flags = asked.flags.iter();
        let mut counts = asked.counts.iter();
        for page in &mut *pages {
            if !self.nodes.is_single() {
                page.node = page.pfn().and_then(|pfn| self.nodes.of(pfn));
            }
            if page.frame_to_ask().is_none() {
                continue;
            }
            if let Some(word) = flags.next() {
                let before = *page;
                page.add_frame(match *word {
                    BEYOND => FrameFlags::NOPAGE,
                    word => FrameFlags(word),
                });
                let is_others = page.frame.is_some_and(is_others);
                if page.state == PageState::Poisoned || is_others {
                    accused.push(before);
                }
            }
            if let (Some(word), PageState::Present { .. }) = (counts.next(), page.state) {
                page.mapped = u32::try_from(*word).ok();
            }
        }
        match &self.flags {
            Some(flags) => tell_bad_leaves(flags, pages, accused),
            None => Ok(()),
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
}

/// Whether a frame with these flags is no process's: free, the kernel's, or taken out of use.
fn is_others(flags: FrameFlags) -> bool {
    let kinds = [
        FrameFlags::BUDDY,
        FrameFlags::SLAB,
        FrameFlags::PGTABLE,
        FrameFlags::HWPOISON,
    ];
    kinds.iter().any(|kind| flags.has(*kind))
}

/// What looks like a migration is bad memory where any frame of its leaf is: the mark of that goes from the first frame of a huge page to
/// the bad one as the page is given up (folio_clear_hugetlb_hwpoison, mm/memory-failure.c, 6.1 to 7.3). All are asked, once a leaf.
fn tell_bad_leaves(file: &FrameFile, pages: &mut [Page], accused: &mut Vec<Page>) -> Result<()> {
    let mut last = None;
    for page in pages {
        let Some(leaf) = page.leaf_in_doubt().filter(|(_, frames)| *frames > 1) else {
            continue;
        };
        let is_bad = match last {
            Some((known, answer)) if known == leaf => answer,
            _ => leaf_is_bad(file, leaf)?,
        };
        last = Some((leaf, is_bad));
        if is_bad {
            accused.push(*page);
            page.state = PageState::Poisoned;
        }
    }
    Ok(())
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
    fn a_page_whose_frame_is_another_s_by_now_is_to_be_asked_again() {
        let decoder = Decoder {
            paging: None,
            zero: ZeroFrames::UNKNOWN,
        };
        let words = [
            FrameFlags::ANON,
            FrameFlags::BUDDY,
            FrameFlags::SLAB,
            FrameFlags::LRU,
            FrameFlags::HWPOISON,
        ];
        let mut pages: Vec<Page> = (0..words.len() as u64)
            .map(|i| {
                let va = v2p_common::VirtAddr(0x7000_0000_0000 + i * v2p_common::PAGE_SIZE);
                decoder.page(va, Some(PagemapWord(1 << 63 | (0x1000 + i))), None)
            })
            .collect();
        let mut asked = Asked::default();
        asked.about(&pages);
        asked.flags = words.iter().map(|flags| flags.0).collect();
        let mut frames = Frames::new();
        frames.without_flags();
        let (before, mut accused) = (pages.clone(), Vec::new());
        frames.add(&asked, &mut pages, &mut accused).unwrap();
        let accused: Vec<_> = accused.iter().map(|page| page.va).collect();
        assert_eq!(accused, [1, 2, 4].map(|i: usize| before[i].va));
    }
}
