//! What is known of the frames beside their numbers: flags and nodes.

use anyhow::Result;
use v2p_common::Pfn;

use super::page::Page;
use crate::process::{FlagsFile, FrameFlags, Nodes};

/// Adds what is known of the frames to their pages.
pub(super) struct Frames {
    /// `None`: not asked, or not ours to read.
    flags: Option<FlagsFile>,
    nodes: Nodes,
    order: Vec<(Pfn, usize)>,
    asked: Vec<Pfn>,
    found: Vec<(Pfn, FrameFlags)>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            flags: FlagsFile::open(),
            nodes: Nodes::read(),
            order: Vec::new(),
            asked: Vec::new(),
            found: Vec::new(),
        }
    }

    pub(super) fn without_flags(&mut self) {
        self.flags = None;
    }

    /// Whether nothing is to be added to any page.
    pub(super) const fn say_nothing(&self) -> bool {
        self.flags.is_none() && self.nodes.is_single()
    }

    /// Adds what there is.
    ///
    /// # Errors
    /// Those of reading /proc/kpageflags.
    pub(super) fn add(&mut self, pages: &mut [Page]) -> Result<()> {
        let Self {
            flags,
            nodes,
            order,
            asked,
            found,
        } = self;
        if !nodes.is_single() {
            for page in pages.iter_mut() {
                page.node = page.pfn().and_then(|pfn| nodes.of(pfn));
            }
        }
        let Some(flags) = flags else { return Ok(()) };
        order.clear();
        asked.clear();
        found.clear();
        let to_ask = pages.iter().enumerate();
        order.extend(to_ask.filter_map(|(i, page)| Some((page.frame_to_ask()?, i))));
        // By frame, so that those near each other are read at once.
        order.sort_unstable();
        asked.extend(order.iter().map(|(pfn, _)| *pfn));
        flags.of(asked, |pfn, flags| found.push((pfn, flags)))?;
        let mut found = found.iter().peekable();
        for (pfn, i) in order {
            // Frames beyond the end of memory have no flags.
            if let Some((_, flags)) = found.next_if(|(of, _)| of == pfn)
                && let Some(page) = pages.get_mut(*i)
            {
                page.add_frame(*flags);
            }
        }
        Ok(())
    }
}
