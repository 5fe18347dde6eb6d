//! What is known of the frames beside their numbers: flags, how often they are mapped, nodes.

use std::thread;

use anyhow::{Result, anyhow};
use v2p_common::Pfn;

use super::page::Page;
use crate::{
    process::{FrameFile, FrameFlags, Nodes},
    state::PageState,
};

/// So many frames are worth a thread.
const MANY: usize = 4096;

/// Adds what is known of the frames to their pages.
pub(super) struct Frames {
    /// `None`: not asked, or not ours to read.
    flags: Option<FrameFile>,
    /// `None`: not asked, or not ours to read.
    counts: Option<FrameFile>,
    /// Why the flags cannot be read.
    pub(super) missing: Option<String>,
    nodes: Nodes,
    order: Vec<(Pfn, usize)>,
    asked: Vec<Pfn>,
    found: Vec<(Pfn, u64)>,
    /// Pages whose frames are bad, as they were before that was known.
    accused: Vec<Page>,
}

impl Frames {
    pub(super) fn new() -> Self {
        let (flags, missing) = match FrameFile::flags() {
            Ok(flags) => (Some(flags), None),
            Err(e) => (None, Some(format!("/proc/kpageflags: {e}"))),
        };
        Self {
            flags,
            counts: None,
            missing,
            nodes: Nodes::read(),
            order: Vec::new(),
            asked: Vec::new(),
            found: Vec::new(),
            accused: Vec::new(),
        }
    }

    /// The pages that [`Self::add`] has called poisoned since, as they were before: what was in migration may have left the frame by the time
    /// at which that was found bad.
    pub(super) fn take_accused(&mut self) -> Vec<Page> {
        std::mem::take(&mut self.accused)
    }

    pub(super) fn without_flags(&mut self) {
        self.flags = None;
        self.missing = None;
    }

    pub(super) fn without_nodes(&mut self) {
        self.nodes = Nodes::default();
    }

    pub(super) fn with_counts(&mut self) {
        self.counts = FrameFile::counts().ok();
    }

    /// Whether nothing is to be added to any page.
    pub(super) const fn say_nothing(&self) -> bool {
        self.flags.is_none() && self.counts.is_none() && self.nodes.is_single()
    }

    /// Adds what there is.
    ///
    /// # Errors
    /// Those of reading /proc/kpageflags and /proc/kpagecount.
    pub(super) fn add(&mut self, pages: &mut [Page]) -> Result<()> {
        if !self.nodes.is_single() {
            for page in pages.iter_mut() {
                page.node = page.pfn().and_then(|pfn| self.nodes.of(pfn));
            }
        }
        if self.flags.is_some() || self.counts.is_some() {
            self.ask_about(pages);
        }
        let Self {
            flags,
            counts,
            order,
            asked,
            found,
            accused,
            ..
        } = self;
        if let Some(flags) = flags {
            // Frames beyond the end of memory have no words.
            let add = |page: &mut Page, word: Option<u64>| {
                let before = *page;
                page.add_frame(word.map_or(FrameFlags::NOPAGE, FrameFlags));
                if page.state == PageState::Poisoned {
                    accused.push(before);
                }
            };
            ask(flags, asked, order, found, pages, add)?;
            tell_bad_leaves(flags, pages, accused)?;
        }
        if let Some(counts) = counts {
            let add = |page: &mut Page, word: Option<u64>| {
                if matches!(page.state, PageState::Present { .. }) {
                    page.mapped = word.and_then(|word| u32::try_from(word).ok());
                }
            };
            ask(counts, asked, order, found, pages, add)?;
        }
        Ok(())
    }

    /// Puts the frames in order, so that those near each other are read at once.
    fn ask_about(&mut self, pages: &[Page]) {
        let Self { order, asked, .. } = self;
        order.clear();
        asked.clear();
        let to_ask = pages.iter().enumerate();
        order.extend(to_ask.filter_map(|(i, page)| Some((page.frame_to_ask()?, i))));
        order.sort_unstable();
        asked.extend(order.iter().map(|(pfn, _)| *pfn));
    }
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
    file.of(&all, |_, word| {
        is_bad |= FrameFlags(word).has(FrameFlags::HWPOISON);
    })?;
    Ok(is_bad)
}

/// Hands each frame's word to its page by `add`.
fn ask(
    file: &FrameFile,
    asked: &[Pfn],
    order: &[(Pfn, usize)],
    found: &mut Vec<(Pfn, u64)>,
    pages: &mut [Page],
    mut add: impl FnMut(&mut Page, Option<u64>),
) -> Result<()> {
    found.clear();
    // The kernel takes most of the time of a translation for these words: two processors share it.
    let (mine, others) = asked.split_at(match asked.len() {
        n if n < MANY => n,
        n => n / 2,
    });
    let read_others = || {
        let mut found = Vec::with_capacity(others.len());
        file.of(others, |pfn, word| found.push((pfn, word)))?;
        anyhow::Ok(found)
    };
    let others = thread::scope(|scope| {
        let helper = match others {
            [] => None,
            // Where there is no thread to be had, it is done without.
            _ => thread::Builder::new().spawn_scoped(scope, read_others).ok(),
        };
        file.of(mine, |pfn, word| found.push((pfn, word)))?;
        match helper {
            Some(helper) => helper
                .join()
                .map_err(|_| anyhow!("the reader of frames died"))?,
            None => read_others(),
        }
    })?;
    found.extend(others);
    let mut found = found.iter().peekable();
    for (pfn, i) in order {
        let word = found.next_if(|(of, _)| of == pfn).map(|(_, word)| *word);
        if let Some(page) = pages.get_mut(*i) {
            add(page, word);
        }
    }
    Ok(())
}
