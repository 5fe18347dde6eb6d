//! What is known of the frames beside their numbers: flags, how often they are mapped, nodes.

use std::{iter::repeat_n, sync::Arc};

use anyhow::Result;
use v2p_common::Pfn;

use super::{page::Page, plain::Plain, sink::Sink};
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

/// Frames of pages that follow each other, which are asked about together, and the answers. Takes the pages as a [`Sink`]. Small, since it goes from one
/// processor to another and back.
#[derive(Default)]
pub(super) struct Asked {
    /// One a page, or [`NONE`].
    frames: Vec<Pfn>,
    /// A word a page, or [`BEYOND`]; none where it is not asked.
    flags: Vec<u64>,
    counts: Vec<u64>,
    /// Huge pages that look like a migration; once they are asked about, those that are bad memory.
    leaves: Vec<Leaf>,
}

/// The first frame of a huge page, and how many there are.
type Leaf = (Pfn, u64);

/// In which order frames are asked about: room for it, which is used time and again.
#[derive(Default)]
pub(super) struct Order {
    /// The frame, and below it the number of its page.
    pages: Vec<u64>,
    frames: Vec<Pfn>,
}

/// Of a page that has no frame to ask about: more than any can be.
const NONE: Pfn = Pfn(u64::MAX);
/// Of a frame beyond the end of memory, which has no word.
const BEYOND: u64 = u64::MAX;
/// Bits of the number of a page among those that are asked about together; a PFN has 40 at most.
const NUMBER: u32 = 24;

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
        self.ask_nothing() && self.nodes.is_single()
    }

    /// Whether nothing has to be asked for what is to be added.
    pub(super) const fn ask_nothing(&self) -> bool {
        self.flags.is_none() && self.counts.is_none()
    }

    /// Asks about the frames in `asked`.
    ///
    /// # Errors
    /// Those of reading /proc/kpageflags and /proc/kpagecount.
    pub(super) fn ask(&self, asked: &mut Asked, order: &mut Order) -> Result<()> {
        if self.ask_nothing() {
            return Ok(());
        }
        let Order { pages, frames } = order;
        // In order, so that those near each other are read at once; stable, since such a sort sees the stretches that are in order.
        pages.clear();
        let numbered = asked.frames.iter().zip(0..);
        let place = |(pfn, i): (&Pfn, u64)| {
            (pfn.0 < 1 << (u64::BITS - NUMBER)).then_some(pfn.0 << NUMBER | i)
        };
        pages.extend(numbered.filter_map(place));
        pages.sort();
        frames.clear();
        frames.extend(pages.iter().map(|page| Pfn(page >> NUMBER)));
        for (file, words) in [
            (&self.flags, &mut asked.flags),
            (&self.counts, &mut asked.counts),
        ] {
            words.clear();
            let Some(file) = file else { continue };
            words.resize(asked.frames.len(), BEYOND);
            let mut pages = pages.iter();
            file.of(frames, |word| {
                let place = pages.next().and_then(|page| {
                    let number = page & ((1 << NUMBER) - 1);
                    words.get_mut(usize::try_from(number).ok()?)
                });
                if let (Some(place), Some(word)) = (place, word) {
                    *place = word;
                }
            })?;
        }
        let mut bad = Vec::new();
        if let Some(file) = &self.flags {
            for leaf in asked.leaves.drain(..) {
                if leaf_is_bad(file, leaf)? {
                    bad.push(leaf);
                }
            }
        }
        asked.leaves = bad;
        Ok(())
    }

    /// Adds the node of its frame to `page`.
    pub(super) fn add_node(&self, page: &mut Page) {
        if !self.nodes.is_single() {
            page.node = page.pfn().and_then(|pfn| self.nodes.of(pfn));
        }
    }

    /// Adds to `page` what there is, of which `asked` has the answers as those of page `number`. False: they are not the page's, or may not be. Either it was not in that
    /// frame as it was asked for, or it had left the frame when that was asked about: no process maps it then.
    pub(super) fn add(&self, asked: &Asked, number: usize, page: &mut Page) -> bool {
        self.add_node(page);
        if self.ask_nothing() {
            return true;
        }
        let Some(pfn) = page.frame_to_ask() else {
            return true;
        };
        if asked.frames.get(number) != Some(&pfn) {
            return false;
        }
        let is_present = page.pfn().is_some();
        let leaf = page.leaf_in_doubt();
        if leaf.is_some_and(|leaf| asked.leaves.contains(&leaf)) {
            page.state = PageState::Poisoned;
        }
        let mut is_its = true;
        if let Some(word) = asked.flags.get(number) {
            let flags = match *word {
                BEYOND => FrameFlags::NOPAGE,
                word => FrameFlags(word),
            };
            page.add_frame(flags);
            page.frame = page.frame.map(match self.all_flags {
                true => FrameFlags::known,
                false => FrameFlags::steady,
            });
            is_its = match is_present {
                true => may_be_mapped(flags),
                // As that was asked for, it was in the frame still, and what has become of it since the flags do not say.
                false => !flags.has(FrameFlags::MMAP),
            };
        }
        if let (Some(word), PageState::Present { .. }) = (asked.counts.get(number), page.state) {
            page.mapped = u32::try_from(*word).ok();
        }
        is_its
    }
}

impl Asked {
    /// What is to be asked about one page.
    pub(super) fn about(page: &Page) -> Self {
        let mut asked = Self::default();
        asked.push(page);
        asked
    }

    /// How many pages it is of.
    pub(super) const fn len(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.leaves.clear();
    }

    fn push(&mut self, page: &Page) {
        self.frames.push(page.frame_to_ask().unwrap_or(NONE));
        // The mark of bad memory goes from the first frame of a huge page to the bad one as the page is given up (folio_clear_hugetlb_hwpoison,
        // mm/memory-failure.c, 6.1 to 7.3): all are asked about, once a leaf.
        let leaf = page.leaf_in_doubt().filter(|(_, frames)| *frames > 1);
        if leaf.is_some_and(|leaf| self.leaves.last() != Some(&leaf)) {
            self.leaves.extend(leaf);
        }
    }
}

impl Sink for Asked {
    fn page(&mut self, page: Page, _: u64) -> Result<()> {
        self.push(&page);
        Ok(())
    }

    fn nothing(&mut self, _: Page, pages: u64) -> Result<()> {
        self.frames.extend(repeat_n(NONE, usize::try_from(pages)?));
        Ok(())
    }

    #[inline]
    fn plain(&mut self, pages: &Plain<'_>) -> Result<()> {
        self.frames.reserve(pages.len());
        pages.fold_frames((), |(), pfn| self.frames.push(pfn));
        Ok(())
    }
}

/// Whether a process may map a frame with these flags. How often is not counted of the zero pages, and of what is no memory of the kernel's own: that of
/// devices, or reserved.
fn may_be_mapped(flags: FrameFlags) -> bool {
    let kinds = [
        FrameFlags::MMAP,
        FrameFlags::ZERO_PAGE,
        FrameFlags::NOPAGE,
        FrameFlags::RESERVED,
    ];
    kinds.iter().any(|kind| flags.has(*kind))
}

/// Whether any frame is marked as bad, of so many from `first` on.
///
/// # Errors
/// Those of reading /proc/kpageflags.
pub(crate) fn leaf_is_bad(file: &FrameFile, (first, frames): Leaf) -> Result<bool> {
    let all: Vec<Pfn> = (first.0..first.0 + frames).map(Pfn).collect();
    let mut is_bad = false;
    file.of(&all, |word| {
        is_bad |= word.is_some_and(|word| FrameFlags(word).has(FrameFlags::HWPOISON));
    })?;
    Ok(is_bad)
}

#[cfg(test)]
mod tests {
    use v2p_common::{VirtAddr, pagemap::PagemapWord};

    use super::*;
    use crate::{page::ZeroFrames, translate::page::Decoder};

    fn of_no_memory() -> Frames {
        Frames {
            flags: Some(Arc::new(FrameFile::empty())),
            all_flags: false,
            counts: None,
            missing: None,
            nodes: Nodes::default(),
        }
    }

    fn present(pfn: u64) -> Page {
        let decoder = Decoder {
            paging: None,
            zero: ZeroFrames::UNKNOWN,
        };
        let word = PagemapWord(1 << 63 | pfn);
        decoder.page(VirtAddr(0x7000_0000_0000), Some(word), None)
    }

    #[test]
    fn what_is_told_of_a_frame_is_of_the_page_that_was_in_it() {
        let frames = of_no_memory();
        let words = [
            (FrameFlags::MMAP.0 | FrameFlags::ANON.0, true),
            (FrameFlags::BUDDY.0, false),
            (FrameFlags::LRU.0, false),
            (FrameFlags::ZERO_PAGE.0, true),
            (BEYOND, true),
            (FrameFlags::RESERVED.0, true),
        ];
        let mut asked = Asked::default();
        for i in 0..words.len() as u64 {
            asked.push(&present(0x1000 + i));
        }
        asked.flags = words.iter().map(|(flags, _)| *flags).collect();
        for (i, (_, is_its)) in words.into_iter().enumerate() {
            let mut page = present(0x1000 + i as u64);
            assert_eq!(frames.add(&asked, i, &mut page), is_its, "{i}");
            // In another frame by now.
            let mut moved = present(0x2000);
            assert!(!frames.add(&asked, i, &mut moved));
            assert_eq!(moved.frame, None);
        }
        // It went into migration, or was poisoned, after that was asked.
        let migrating = |pfn| Page {
            state: PageState::Migrating { pfn: Pfn(pfn) },
            ..present(pfn)
        };
        assert!(!frames.add(&asked, 0, &mut migrating(0x1000)));
        assert!(frames.add(&asked, 1, &mut migrating(0x1001)));
        let mut absent = Page {
            state: PageState::Absent,
            ..present(0)
        };
        assert!(frames.add(&asked, 1, &mut absent));
    }

    #[test]
    fn flags_that_pass_are_left_out_unless_all_are_wanted() {
        const UNNAMED: u64 = 1 << 40;
        let steady = FrameFlags::MMAP.0 | FrameFlags::ANON.0;
        let passing = FrameFlags::REFERENCED.0 | FrameFlags::COMPOUND_TAIL.0;
        let mut frames = of_no_memory();
        let mut asked = Asked::about(&present(7));
        asked.flags = vec![steady | passing | UNNAMED];
        for (all, told) in [(false, steady), (true, steady | passing)] {
            frames.all_flags = all;
            let mut page = present(7);
            assert!(frames.add(&asked, 0, &mut page));
            assert_eq!(page.frame, Some(FrameFlags(told)));
        }
    }
}
