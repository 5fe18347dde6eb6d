//! What holds for one page of a process, as far as anybody can know: pure.

use serde::{Serialize, Serializer};

use super::check::{Check, Id};
use crate::{process::FrameFlags, state::PageState};

/// What holds for one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PageFacts {
    /// What is there.
    #[serde(serialize_with = "name")]
    pub state: PageState,
    /// The frame's flags, by the kernel's names; null where they cannot be read.
    pub flags: Option<Vec<&'static str>>,
    /// How often it is mapped; null where that cannot be read.
    pub mapcount: Option<u64>,
    /// Always null: the kernel shows nobody whether a page is pinned (/proc/kpagecount counts mappings).
    pub pinned: Option<bool>,
    /// What follows for moving it.
    pub holds: Vec<&'static str>,
}

/// Whether a mapping of this name is memory of memfd_secret(2): files of a mount that nobody else reaches, and that have no name there (mm/secretmem.c,
/// 6.1 to 7.3).
pub(super) fn is_secret(mapping: &str) -> bool {
    mapping == "/secretmem (deleted)"
}

fn name<S: Serializer>(state: &PageState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

impl PageFacts {
    /// From its state, the flags and the count of its frame, and what its mapping is called.
    pub fn new(
        state: PageState,
        flags: Option<FrameFlags>,
        mapcount: Option<u64>,
        mapping: &str,
    ) -> Self {
        let has = |flag| flags.is_some_and(|flags: FrameFlags| flags.has(flag));
        let first = match state {
            PageState::Swapped { swap: Some(_) } => {
                "swapped out: it comes back in a frame that the kernel chooses then"
            }
            PageState::Swapped { swap: None } => {
                "swapped out, or being moved: it comes back in a frame that the kernel chooses then"
            }
            PageState::Migrating { .. } => {
                "being moved at this moment: it comes back in another frame"
            }
            PageState::Absent => {
                "nothing is there: the first touch brings a page (a device's memory is not shown here)"
            }
            PageState::Guard => "a guard region: a touch is a SIGSEGV, no page comes",
            PageState::Poisoned => "the memory was bad: a touch is a SIGBUS",
            PageState::Zero => "the shared zero page: the first write replaces it",
            PageState::Present { .. } | PageState::Hidden | PageState::Device { .. } => "",
        };
        let mut holds = Vec::new();
        let mut say = |when: bool, what| {
            if when {
                holds.push(what);
            }
        };
        say(!first.is_empty(), first);
        say(
            has(FrameFlags::HUGE),
            "a hugetlb page: not moved by compaction, NUMA balancing, KSM or swap",
        );
        let is_locked = has(FrameFlags::UNEVICTABLE) || has(FrameFlags::MLOCKED);
        // secretmem_migrate_folio, mm/secretmem.c, 6.1 to 7.3.
        match is_secret(mapping) {
            true => say(true, "of memfd_secret(2): nothing moves it"),
            false => say(is_locked, "locked: not swapped out; all else may move it"),
        }
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
        let is_there = matches!(state, PageState::Present { .. } | PageState::Hidden);
        say(is_there, "whether it is pinned cannot be known");
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
            PageState::Swapped { .. } => {
                "have the process touch it, or mlock it: swapoff -a brings all back"
            }
            PageState::Absent => "have the process touch it",
            PageState::Migrating { .. } => "ask again",
            PageState::Guard | PageState::Poisoned => "take another address",
            _ => return None,
        };
        let what = self.holds.first().copied().unwrap_or_default();
        let what = format!("no page in RAM is behind the address: {what}");
        let evidence = format!("{} (pagemap)", self.state.name());
        Some(Check::unknown(Id::Movable, what, evidence).mend(mend))
    }
}

#[cfg(test)]
mod tests {
    use v2p_common::Pfn;

    use super::*;
    use crate::state::SwapPlace;

    #[test]
    fn a_locked_page_that_is_shared_is_both() {
        let flags = FrameFlags(FrameFlags::ANON.0 | FrameFlags::UNEVICTABLE.0);
        let state = PageState::Present { pfn: Pfn(77) };
        let facts = PageFacts::new(state, Some(flags), Some(2), "");
        assert_eq!((facts.state, facts.pinned), (state, None));
        assert_eq!(facts.holds.len(), 3, "{facts:?}");
        assert_eq!(facts.no_page(), None);
        let secret = PageFacts::new(state, Some(flags), Some(1), "/secretmem (deleted)");
        assert!(secret.holds[0].ends_with("nothing moves it"), "{secret:?}");
    }

    #[test]
    fn a_page_that_is_not_there_has_its_state_and_what_brings_it() {
        let swap = Some(SwapPlace {
            device: 0,
            offset: 5,
        });
        for (state, mend) in [
            (PageState::Absent, "touch it"),
            (PageState::Swapped { swap }, "mlock"),
            (PageState::Swapped { swap: None }, "mlock"),
            (PageState::Guard, "another address"),
            (PageState::Poisoned, "another address"),
            (PageState::Migrating { pfn: Pfn(9) }, "again"),
        ] {
            let facts = PageFacts::new(state, None, None, "");
            assert_eq!((facts.state, facts.holds.len()), (state, 1), "{facts:?}");
            let why = facts.no_page().unwrap();
            assert!(why.mend.unwrap().contains(mend), "{state:?}");
            assert!(why.what.starts_with("no page in RAM"), "{}", why.what);
        }
    }
}
