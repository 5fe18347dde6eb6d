//! Which pages of a process KSM has merged.

use std::fs;

use v2p_common::pagemap::{PagemapState, PagemapWord};

use crate::{
    page::OwnPage,
    process::{FrameFlags, Pagemap, frame_flags},
};

/// Asks for single pages.
pub(super) struct Merged {
    /// There are some, and the kernel's flag tells them.
    asks: bool,
}

impl Merged {
    /// For the pages of process `pid`.
    pub(super) fn of(pid: u32) -> Self {
        // Counted since 5.19; where there is no such file, there is no KSM.
        let count = fs::read_to_string(format!("/proc/{pid}/ksm_merging_pages"));
        let some = count.is_ok_and(|count| count.trim() != "0");
        Self {
            asks: some && flag_tells(),
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
