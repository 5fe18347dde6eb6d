//! One page: what each route says of it, as a state and a verdict. Pure.

use v2p_common::{
    PAGE_SHIFT, Pfn, VirtAddr,
    pagemap::{PagemapState, PagemapWord},
    pte::{Entry, EntryState, Level, Paging},
};

use crate::{
    page::{self, ZeroFrames},
    process::FrameFlags,
    state::{PageState, SwapPlace, Verdict},
};

/// One page, or some that lie one after the other and are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// The first page's address.
    pub va: VirtAddr,
    /// What lies behind it.
    pub state: PageState,
    /// Bytes that the page-table leaf maps, or that a huge entry in swap form stands for; `None`: the route does not tell, or
    /// there is no leaf.
    pub page_size: Option<u64>,
    /// Flags of pagemap's word.
    pub marks: Marks,
    /// What /proc/kpageflags says of the frame, with the flags that were asked for: without [`Translator::with_all_flags`](super::Translator::with_all_flags) none that would cut every run; `None`: not asked, or there is no
    /// frame.
    pub frame: Option<FrameFlags>,
    /// How often the frame is mapped, by /proc/kpagecount; `None`: not asked, or there is no frame.
    pub mapped: Option<u32>,
    /// The NUMA node of the frame, where there are several.
    pub node: Option<u32>,
    /// What the routes say together.
    pub verdict: Verdict,
}

/// The flags of a pagemap word, by their names here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks(u64);

impl Marks {
    const NAMES: [(u32, &'static str); 4] = [
        (56, "exclusive"),
        (61, "file"),
        (55, "soft-dirty"),
        (57, "uffd-wp"),
    ];

    /// Those of a word.
    pub const fn of(word: PagemapWord) -> Self {
        let [(a, _), (b, _), (c, _), (d, _)] = Self::NAMES;
        Self(word.0 & (1 << a | 1 << b | 1 << c | 1 << d))
    }

    const fn without_soft_dirty(self) -> Self {
        Self(self.0 & !(1 << 55))
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let set = move |(bit, _): &(u32, _)| self.0 >> bit & 1 != 0;
        Self::NAMES.into_iter().filter(set).map(|(_, name)| name)
    }
}

/// What has to be known to decode.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// The tables' layout; `None`: no walk.
    pub paging: Option<Paging>,
    /// The frames of zeros.
    pub zero: ZeroFrames,
}

/// Swap types below this are swap devices on every kernel: at most ten of the 32 are special (include/linux/swap.h: marker, device-private,
/// migration, poison, and up to 6.1 a failed swap-in; 6.1 to 7.3).
const FIRST_SPECIAL: u8 = 22;
/// The last type: a marker (SWP_PTE_MARKER) from 6.2 on, and up to 6.1 a page whose swap-in failed (SWP_SWAPIN_ERROR), with its old frame.
const LAST: u8 = 31;
/// A special entry whose offset is below it is a marker, whose offset are bits: no page of a process lies below 1 MiB.
const LOW_FRAME: u64 = 256;
const MARKER_POISONED: u64 = 1 << 1;
const MARKER_GUARD: u64 = 1 << 2;

/// Whether an entry in swap form is a marker.
const fn is_marker(kind: u8, offset: u64) -> bool {
    kind >= FIRST_SPECIAL && offset < LOW_FRAME
}

impl Decoder {
    /// The state that pagemap's word gives.
    pub fn word(&self, word: PagemapWord) -> PageState {
        match word.state() {
            PagemapState::Present(pfn) => self.present(pfn),
            PagemapState::Hidden => PageState::Hidden,
            PagemapState::Absent => PageState::Absent,
            PagemapState::Guard => PageState::Guard,
            // swp_offset_pfn, fs/proc/task_mmu.c, 6.1 to 7.3: the number of a frame alone.
            PagemapState::SwapEntry { kind, offset } => swap_form(kind, offset),
        }
    }

    /// The state of the page at `va` that the entry at the end of its walk gives, and the size of the leaf.
    pub fn entry(&self, level: Level, entry: Entry, va: VirtAddr) -> (PageState, Option<u64>) {
        let Some(paging) = self.paging else {
            return (PageState::Absent, None);
        };
        let inside = va.page_number() & ((1 << (level.shift() - PAGE_SHIFT)) - 1);
        match entry.state(level, paging.physical_mask) {
            EntryState::Leaf(Pfn(first)) => {
                let size = level.page_size().map(v2p_common::PageSize::bytes);
                let state = match self.present(Pfn(first + inside)) {
                    PageState::Present { pfn } if level == Level::Pte && entry.is_special() => {
                        PageState::Device { pfn }
                    }
                    state => state,
                };
                (state, size)
            }
            EntryState::SwapEntry { kind, offset } => {
                let huge = level.page_size().filter(|_| level != Level::Pte);
                // What is not a marker counts its pages.
                let inside = if is_marker(kind, offset) { 0 } else { inside };
                // Of a frame's number the bits above it (young and dirty) are none, which pagemap leaves out itself.
                let offset = match kind {
                    FIRST_SPECIAL.. => offset & paging.migration_pfn_mask(),
                    _ => offset,
                };
                let state = swap_form(kind, offset.wrapping_add(inside));
                (state, huge.map(v2p_common::PageSize::bytes))
            }
            EntryState::Empty | EntryState::Table(_) => (PageState::Absent, None),
        }
    }

    fn present(&self, pfn: Pfn) -> PageState {
        if self.zero.has(pfn) {
            PageState::Zero
        } else {
            PageState::Present { pfn }
        }
    }

    /// A page by one route or both. `None` for a route that was not asked; without either it is absent.
    pub fn page(
        &self,
        va: VirtAddr,
        word: Option<PagemapWord>,
        walked: Option<(Level, Entry)>,
    ) -> Page {
        let by_word = word.map(|word| self.word(word));
        let by_walk = walked.map(|(level, entry)| self.entry(level, entry, va));
        let (state, verdict) = match (by_word, by_walk) {
            (Some(a), Some((b, _))) if a == b => (a, Verdict::Agree),
            (Some(a), Some((b, _))) if withheld(a, b) => (b, Verdict::Single),
            // Pagemap has no word for it where the mapping may have other pages too (VM_MIXEDMAP).
            (Some(PageState::Present { pfn: a }), Some((PageState::Device { pfn: b }, _)))
                if a == b =>
            {
                (PageState::Device { pfn: b }, Verdict::Agree)
            }
            (Some(a), Some(_)) => (a, Verdict::Disagree),
            (Some(a), None) => (a, Verdict::Single),
            (None, Some((b, _))) => (b, Verdict::Single),
            (None, None) => (PageState::Absent, Verdict::Single),
        };
        Page {
            va,
            state,
            page_size: by_walk.and_then(|(_, size)| size),
            marks: match (state, word) {
                // Of a mapping that is new every hole has the mark (pte_hole of pagemap, fs/proc/task_mmu.c, 6.1 to 7.3), of which holes that were not
                // read tell nothing.
                (PageState::Absent, Some(word)) => Marks::of(word).without_soft_dirty(),
                (_, word) => word.map(Marks::of).unwrap_or_default(),
            },
            frame: None,
            mapped: None,
            node: None,
            verdict,
        }
    }

    /// Two routes that differ go on differing: what that means. Pagemap takes for holes what only the walk shows:
    /// memory of devices, and pages that the kernel maps itself (VM_PFNMAP); and of hugetlb all that is not
    /// present, a migration or a poisoned page (pagemap_hugetlb_range, fs/proc/task_mmu.c, 6.1 to 6.18).
    pub fn settle(&self, page: Page, word: PagemapWord, walked: (Level, Entry)) -> Page {
        let (by_walk, page_size) = self.entry(walked.0, walked.1, page.va);
        let state = match (self.word(word), by_walk) {
            // A base page of a device has a special entry: this one is a private copy in such a mapping.
            (PageState::Absent, PageState::Present { pfn }) if walked.0 == Level::Pte => {
                PageState::Present { pfn }
            }
            (PageState::Absent, PageState::Present { pfn }) => PageState::Device { pfn },
            (
                PageState::Absent,
                PageState::Device { .. }
                | PageState::Migrating { .. }
                | PageState::Poisoned
                // Of such a private copy that was swapped out.
                | PageState::Swapped { .. },
            ) => by_walk,
            _ => return page,
        };
        Page {
            state,
            page_size,
            verdict: Verdict::Single,
            ..page
        }
    }
}

/// What an entry in swap form says.
const fn swap_form(kind: u8, offset: u64) -> PageState {
    match kind {
        // Without CAP_SYS_ADMIN both are withheld; slot 0 of a device holds its header, never a page.
        0 if offset == 0 => PageState::Swapped { swap: None },
        _ if is_marker(kind, offset) => match offset {
            bits if bits & MARKER_GUARD != 0 => PageState::Guard,
            bits if bits & MARKER_POISONED != 0 => PageState::Poisoned,
            // That write protection was asked for: nothing is there.
            _ => PageState::Absent,
        },
        LAST => PageState::Poisoned,
        _ if kind < FIRST_SPECIAL => PageState::Swapped {
            swap: Some(SwapPlace {
                device: kind,
                offset,
            }),
        },
        // In migration, poisoned or a device's: the frame tells, see `Page::add_frame`.
        _ => PageState::Migrating { pfn: Pfn(offset) },
    }
}

/// Whether pagemap's answer `word` is the one that it gives for `walked` to those from whom it withholds frames and slots.
const fn withheld(word: PageState, walked: PageState) -> bool {
    match word {
        PageState::Hidden => matches!(
            walked,
            PageState::Present { .. } | PageState::Device { .. } | PageState::Zero
        ),
        PageState::Swapped { swap: None } => matches!(
            walked,
            PageState::Swapped { .. }
                | PageState::Migrating { .. }
                | PageState::Poisoned
                | PageState::Guard
                // A marker that write protection was asked for.
                | PageState::Absent
        ),
        _ => false,
    }
}

impl Page {
    /// The frame, where there is one.
    pub const fn pfn(&self) -> Option<Pfn> {
        match self.state {
            PageState::Present { pfn } => Some(pfn),
            _ => None,
        }
    }

    /// The frame that it maps, whosever it is.
    pub const fn any_frame(&self) -> Option<Pfn> {
        match self.state {
            PageState::Present { pfn } | PageState::Device { pfn } => Some(pfn),
            _ => None,
        }
    }

    /// The frame that its entry names: the one that it maps, or that it is in migration out of.
    pub const fn named_frame(&self) -> Option<Pfn> {
        match self.state {
            PageState::Present { pfn }
            | PageState::Device { pfn }
            | PageState::Migrating { pfn } => Some(pfn),
            _ => None,
        }
    }

    /// The frame whose flags say more of the page.
    pub fn frame_to_ask(&self) -> Option<Pfn> {
        match self.state {
            PageState::Present { pfn } => Some(pfn),
            // Of a huge one the first has the flags (folio_set_hugetlb_hwpoison, mm/memory-failure.c, 6.1 to 7.3).
            PageState::Migrating { .. } => self.leaf_in_doubt().map(|(first, _)| first),
            _ => None,
        }
    }

    /// Of what looks like a migration: the first frame of its leaf, and how many there are.
    pub(crate) const fn leaf_in_doubt(&self) -> Option<(Pfn, u64)> {
        let PageState::Migrating { pfn: Pfn(pfn) } = self.state else {
            return None;
        };
        let pages = match self.page_size {
            Some(bytes) => bytes >> PAGE_SHIFT,
            None => 1,
        };
        Some((Pfn(pfn & !(pages - 1)), pages))
    }

    /// Takes what /proc/kpageflags says of [`Self::frame_to_ask`].
    pub fn add_frame(&mut self, flags: FrameFlags) {
        match self.state {
            PageState::Migrating { .. } if flags.has(FrameFlags::HWPOISON) => {
                self.state = PageState::Poisoned
            }
            PageState::Migrating { pfn } if flags.has(FrameFlags::NOPAGE) => {
                self.state = PageState::Device { pfn }
            }
            // The huge zero page has a frame of its own; its flag is the only sign (kpageflags bit 24).
            PageState::Present { .. } if flags.has(FrameFlags::ZERO_PAGE) => {
                self.state = PageState::Zero
            }
            PageState::Present { pfn } if flags.has(FrameFlags::NOPAGE) => {
                self.state = PageState::Device { pfn }
            }
            PageState::Present { .. } => self.frame = Some(page::believed(flags)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
