//! Which pages of a process KSM has merged.

use v2p_common::pagemap::{PagemapState, PagemapWord};

use crate::{
    page::ksm_flag_tells,
    process::{FrameFlags, frame_flags, is_merging},
};

/// Asks for single pages.
pub(super) struct Merged {
    /// There are some, and the kernel's flag tells them.
    asks: bool,
}

impl Merged {
    /// For the pages of process `pid`.
    pub(super) fn of(pid: u32) -> Self {
        Self {
            asks: is_merging(pid) && ksm_flag_tells(),
        }
    }

    /// Whether the page with this word is one of KSM.
    pub(super) fn is(&self, word: PagemapWord) -> bool {
        self.asks
            && matches!(word.state(), PagemapState::Present(pfn)
                if frame_flags(pfn).is_ok_and(|flags| flags.has(FrameFlags::KSM)))
    }
}
