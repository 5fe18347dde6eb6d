//! One word of /proc/PID/pagemap -> what the kernel says of that page.
//!
//! Bits as in Documentation/admin-guide/mm/pagemap.rst and
//! fs/proc/task_mmu.c (6.1 line 1344, 6.12 line 1649, 7.3 line 1956).

use crate::Pfn;

/// The bits of a word that hold the frame (`PM_PFRAME_MASK`).
pub const PFN_MASK: u64 = (1 << 55) - 1;
/// Mapped once, by this process (PM_MMAP_EXCLUSIVE).
const EXCLUSIVE: u64 = 1 << 56;
/// 6.18 and later: a guard region (MADV_GUARD_INSTALL), together with SWAP.
const GUARD: u64 = 1 << 58;
/// A page of a file, or of shared memory.
const FILE: u64 = 1 << 61;
const SWAP: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;

/// What one pagemap word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagemapState {
    /// Neither present nor swapped. A page that the walker treats as a hole
    /// (VM_PFNMAP) looks the same.
    Absent,
    /// Mapped, in this frame.
    Present(Pfn),
    /// Mapped, but the kernel withholds the frame: whoever opened the file had
    /// no CAP_SYS_ADMIN in the initial user namespace.
    Hidden,
    /// A guard region: touching it is a SIGSEGV.
    Guard,
    /// Bit 62: a swap entry, or a migration, poison or marker entry in swap form.
    /// The raw type (0..32) and offset; both are 0 where the kernel withholds them.
    SwapEntry {
        /// The swap type; small ones are swap devices, the top ones special.
        kind: u8,
        /// The slot on the device; for a migration entry the old PFN.
        offset: u64,
    },
}

/// One word of pagemap, undecoded.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagemapWord(pub u64);

impl PagemapWord {
    /// The state of the page. PFN 0 is never a user page on x86-64 (the frame holds
    /// the real-mode area), so a present page with PFN 0 is a withheld one.
    pub const fn state(self) -> PagemapState {
        let w = self.0;
        if w & PRESENT != 0 {
            return match w & PFN_MASK {
                0 => PagemapState::Hidden,
                pfn => PagemapState::Present(Pfn(pfn)),
            };
        }
        if w & SWAP == 0 {
            return PagemapState::Absent;
        }
        if w & GUARD != 0 {
            return PagemapState::Guard;
        }
        PagemapState::SwapEntry {
            kind: (w & 0x1f) as u8,
            offset: (w & PFN_MASK) >> 5,
        }
    }

    /// Whether something is there that is no file's and not shared memory.
    pub const fn is_anonymous(self) -> bool {
        self.0 & (PRESENT | SWAP) != 0 && self.0 & FILE == 0
    }

    /// Whether nobody else maps the page; false too where nothing is there.
    pub const fn is_exclusive(self) -> bool {
        self.0 & EXCLUSIVE != 0
    }

    /// The frame, where the page is present and the frame is shown.
    pub const fn pfn(self) -> Option<Pfn> {
        match self.state() {
            PagemapState::Present(pfn) => Some(pfn),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untouched_page_is_absent_even_with_the_soft_dirty_bit() {
        assert_eq!(PagemapWord(0).state(), PagemapState::Absent);
        assert_eq!(PagemapWord(1 << 55).state(), PagemapState::Absent);
    }

    #[test]
    fn a_present_page_has_its_pfn() {
        let word = PagemapWord(0x8180_0000_0012_3456);
        assert_eq!(word.state(), PagemapState::Present(Pfn(0x12_3456)));
    }

    #[test]
    fn a_withheld_pfn_is_hidden_and_never_zero() {
        let word = PagemapWord(1 << 63);
        assert_eq!(word.state(), PagemapState::Hidden);
        assert_eq!(word.pfn(), None);
    }

    #[test]
    fn a_swap_entry_is_not_an_address() {
        let word = PagemapWord(1 << 62 | 0x1234 << 5 | 3);
        assert_eq!(
            word.state(),
            PagemapState::SwapEntry {
                kind: 3,
                offset: 0x1234
            }
        );
        assert_eq!(word.pfn(), None);
    }

    #[test]
    fn a_guard_region_is_told_from_swap() {
        assert_eq!(
            PagemapWord(1 << 62 | 1 << 58 | 0x9f).state(),
            PagemapState::Guard
        );
    }
}
