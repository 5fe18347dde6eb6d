//! Which pages of a process KSM has merged.

use v2p_common::pagemap::{PagemapState, PagemapWord};

use crate::{
    page::OwnPage,
    process::{FrameFlags, Pagemap, frame_flags, is_merging},
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
            asks: is_merging(pid) && flag_tells(),
        }
    }

    /// Whether the page with this word is one of KSM.
    pub(super) fn is(&self, word: PagemapWord) -> bool {
        self.asks
            && matches!(word.state(), PagemapState::Present(pfn)
                if frame_flags(pfn).is_ok_and(|flags| flags.has(FrameFlags::KSM)))
    }
}

/// Whether the flag in /proc/kpageflags means what it says: 6.12 sets it for every anonymous page (fs/proc/page.c, a mask
/// tested for one bit of two). A page of our own that nobody has asked KSM to look at shows it.
fn flag_tells() -> bool {
    let flags = || {
        let page = OwnPage::new().ok()?;
        let word = Pagemap::of_self().ok()?.word(page.va()).ok()??;
        frame_flags(word.pfn()?).ok()
    };
    flags().is_some_and(|flags| !flags.has(FrameFlags::KSM))
}
