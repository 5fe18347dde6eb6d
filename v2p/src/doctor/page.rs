//! What holds for one page of a process, as far as anybody can know: pure.

use serde::Serialize;
use v2p_common::pagemap::{PagemapState, PagemapWord};

use super::check::{Check, Id};
use crate::process::FrameFlags;

/// What holds for one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PageFacts {
    /// `present`, `hidden`, `swapped`, `absent`, `guard`.
    pub state: &'static str,
    /// The frame's flags, by the kernel's names; null where they cannot be read.
    pub flags: Option<Vec<&'static str>>,
    /// How often it is mapped; null where that cannot be read.
    pub mapcount: Option<u64>,
    /// Always null: the kernel shows nobody whether a page is pinned (/proc/kpagecount counts mappings).
    pub pinned: Option<bool>,
    /// What follows for moving it.
    pub holds: Vec<&'static str>,
}

const SWAPPED: &str = "swapped";
const GUARD: &str = "guard";
const ABSENT: &str = "absent";

impl PageFacts {
    /// From pagemap's word, and the frame's flags and count.
    pub fn new(word: PagemapWord, flags: Option<FrameFlags>, mapcount: Option<u64>) -> Self {
        let state = match word.state() {
            PagemapState::Present(_) => "present",
            PagemapState::Hidden => "hidden",
            PagemapState::SwapEntry { .. } => SWAPPED,
            PagemapState::Guard => GUARD,
            PagemapState::Absent => ABSENT,
        };
        let has = |flag| flags.is_some_and(|flags: FrameFlags| flags.has(flag));
        let mut holds = Vec::new();
        let mut say = |when: bool, what| {
            if when {
                holds.push(what);
            }
        };
        say(
            state == SWAPPED,
            "swapped out, or being moved: it comes back in a frame that the kernel chooses then",
        );
        say(
            state == ABSENT,
            "nothing is there: the first touch brings a page (a device's memory is not shown here)",
        );
        say(
            state == GUARD,
            "a guard region: a touch is a SIGSEGV, no page comes",
        );
        say(
            has(FrameFlags::HUGE),
            "a hugetlb page: not moved by compaction, NUMA balancing, KSM or swap",
        );
        let is_locked = has(FrameFlags::UNEVICTABLE) || has(FrameFlags::MLOCKED);
        say(is_locked, "locked: not swapped out; all else may move it");
        say(
            has(FrameFlags::ZERO_PAGE),
            "the shared zero page: the first write replaces it",
        );
        say(
            mapcount.is_some_and(|n| n > 1),
            "mapped more than once: a write may copy it first (after fork, private files)",
        );
        say(
            has(FrameFlags::LRU)
                && !has(FrameFlags::ANON)
                && !has(FrameFlags::SWAPBACKED)
                && !is_locked,
            "a page of a file: reclaim may drop it and bring it back elsewhere",
        );
        say(
            has(FrameFlags::THP),
            "part of a huge page, moved as a whole",
        );
        say(state == "present", "whether it is pinned cannot be known");
        Self {
            state,
            flags: flags.map(FrameFlags::names),
            mapcount,
            pinned: None,
            holds,
        }
    }

    /// Why /dev/mem cannot reach it, where no page is there.
    pub fn no_page(&self) -> Option<Check> {
        let mend = match self.state {
            SWAPPED => "have the process touch it, or mlock it: swapoff -a brings all back",
            ABSENT => "have the process touch it",
            GUARD => "take another address",
            _ => return None,
        };
        let what = self.holds.first().copied().unwrap_or_default();
        let what = format!("no page in RAM is behind the address: {what}");
        Some(Check::unknown(Id::Movable, what, format!("{} (pagemap)", self.state)).mend(mend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_page_that_is_shared_is_both() {
        let flags = FrameFlags(FrameFlags::ANON.0 | FrameFlags::UNEVICTABLE.0);
        let facts = PageFacts::new(PagemapWord(1 << 63 | 77), Some(flags), Some(2));
        assert_eq!((facts.state, facts.pinned), ("present", None));
        assert_eq!(facts.holds.len(), 3, "{facts:?}");
        assert_eq!(facts.no_page(), None);
    }

    #[test]
    fn a_page_that_is_not_there_has_its_state_and_what_brings_it() {
        // Swapped: bit 62; guard: bit 58 too (Documentation/admin-guide/mm/pagemap.rst).
        for (word, state, mend) in [
            (0, "absent", "touch it"),
            (1 << 62 | 5 << 5, "swapped", "mlock"),
            (1 << 62 | 1 << 58, "guard", "another address"),
        ] {
            let facts = PageFacts::new(PagemapWord(word), None, None);
            assert_eq!((facts.state, facts.holds.len()), (state, 1), "{facts:?}");
            let why = facts.no_page().unwrap();
            assert!(why.mend.unwrap().contains(mend), "{state}");
            assert!(why.what.starts_with("no page in RAM"), "{}", why.what);
        }
    }
}
