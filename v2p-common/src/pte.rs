//! One x86-64 page-table entry -> what it maps, and how a walk goes down.
//!
//! arch/x86/include/asm/pgtable_types.h, pgtable_64.h:224-236 (6.1; the same
//! in 6.12 and 7.3) and pgtable-invert.h for the L1TF inversion.

use crate::{PAGE_SHIFT, PHYSICAL_BITS, PageSize, Pfn, VirtAddr};

const PRESENT: u64 = 1 << 0;
/// The bit of [`Entry::is_writable`].
pub const RW: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
/// The bit of [`Entry::is_dirty`].
pub const DIRTY: u64 = 1 << 6;
/// _PAGE_SAVED_DIRTY (arch/x86/include/asm/pgtable_types.h, 6.12 to 7.3): where [`DIRTY`] goes as an entry is made read-only. Before 6.6 _PAGE_DEVMAP, of pages of DAX.
pub const SAVED_DIRTY: u64 = 1 << 58;
/// The bit of a present entry of a page table that [`Entry::is_special`] asks for: software bit 1.
pub const SPECIAL: u64 = 1 << 9;
const PSE: u64 = 1 << 7;
/// Means PROT_NONE only while PRESENT is clear; else it is the global bit.
const PROTNONE: u64 = 1 << 8;

/// Entries in one table.
pub const ENTRIES: u64 = 512;

/// A level of the page tables, from the leaf up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Page table: maps 4 KiB an entry.
    Pte = 0,
    /// Page middle directory: 2 MiB an entry.
    Pmd = 1,
    /// Page upper directory: 1 GiB an entry.
    Pud = 2,
    /// 512 GiB an entry; folded into the PGD with four levels.
    P4d = 3,
    /// The top with five levels: 256 TiB an entry.
    Pgd = 4,
}

impl Level {
    /// The level with this number (0 is the page table), where there is one.
    pub const fn from_u32(n: u32) -> Option<Self> {
        Some(match n {
            0 => Self::Pte,
            1 => Self::Pmd,
            2 => Self::Pud,
            3 => Self::P4d,
            4 => Self::Pgd,
            _ => return None,
        })
    }

    /// log2 of the bytes that one entry of this level covers.
    #[inline(always)]
    pub const fn shift(self) -> u32 {
        PAGE_SHIFT + 9 * self as u32
    }

    /// The index into a table of this level for `va`.
    #[inline(always)]
    pub const fn index(self, va: VirtAddr) -> u64 {
        (va.0 >> self.shift()) & (ENTRIES - 1)
    }

    /// What a leaf at this level maps; `None` where the level has no leaves.
    pub const fn page_size(self) -> Option<PageSize> {
        match self {
            Self::Pte => Some(PageSize::Base),
            Self::Pmd => Some(PageSize::Pmd),
            Self::Pud => Some(PageSize::Pud),
            Self::P4d | Self::Pgd => None,
        }
    }
}

/// How this kernel's page tables are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// 4 or 5.
    pub levels: u64,
    /// The bits that a physical address may have (the kernel's variable of that name).
    pub physical_mask: u64,
}

impl Paging {
    /// Bits of a PFN in a swap-form entry: SWP_PFN_BITS of include/linux/swapops.h, which is
    /// MAX_PHYSMEM_BITS - PAGE_SHIFT, and MAX_PHYSMEM_BITS is 52 with five levels and 46 with four
    /// (arch/x86/include/asm/sparsemem.h, 6.1 to 7.3). Young and dirty stand right above.
    pub const fn migration_pfn_mask(self) -> u64 {
        let physmem_bits = if self.levels == 5 { 52 } else { 46 };
        (1 << (physmem_bits - PAGE_SHIFT)) - 1
    }

    /// Whether the tables can map `va`: all bits above those that they are indexed by are the same as the highest of these.
    pub const fn can_map(self, va: VirtAddr) -> bool {
        let unused = 64 - (PAGE_SHIFT as u64 + 9 * self.levels);
        (va.0 << unused).cast_signed() >> unused == va.0.cast_signed()
    }
}

/// One entry of a page table of any level, undecoded.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry(pub u64);

/// What one entry says at its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryState {
    /// All zero: nothing was ever mapped here, or it was unmapped.
    Empty,
    /// A lower table at this frame.
    Table(Pfn),
    /// A page: the frame of its first base page.
    Leaf(Pfn),
    /// Not present: a swap, migration, poison or marker entry.
    SwapEntry {
        /// Swap type, 0..32.
        kind: u8,
        /// Slot on the device, or the old PFN (see [`Entry::migration_pfn`]).
        offset: u64,
    },
}

impl Entry {
    /// Decodes an entry of `level`. `physical_mask` has the bits that a physical
    /// address may have (the kernel's variable of that name).
    #[inline(always)]
    pub const fn state(self, level: Level, physical_mask: u64) -> EntryState {
        let v = self.0;
        if v == 0 {
            return EntryState::Empty;
        }
        let leaf_level = matches!(level, Level::Pte | Level::Pmd | Level::Pud);
        let present = v & PRESENT != 0;
        // pte_present and pmd_present differ: a PMD under split has PSE but no PRESENT.
        let protnone = !present
            && leaf_level
            && (v & PROTNONE != 0 || (matches!(level, Level::Pmd | Level::Pud) && v & PSE != 0));
        if !present && !protnone {
            return EntryState::SwapEntry {
                kind: (v >> 59) as u8,
                offset: (!v << 5) >> 14,
            };
        }
        // L1TF: the PFN bits of a non-present entry are stored inverted.
        let plain = if present { v } else { !v };
        let huge = matches!(level, Level::Pmd | Level::Pud) && v & PSE != 0;
        if matches!(level, Level::Pte) || huge {
            let size_mask = !((1u64 << level.shift()) - 1);
            EntryState::Leaf(Pfn((plain & physical_mask & size_mask) >> PAGE_SHIFT))
        } else {
            EntryState::Table(Pfn((plain & physical_mask & !0xfff) >> PAGE_SHIFT))
        }
    }

    /// The old PFN of a migration entry: its offset less the young and dirty bits.
    pub const fn migration_pfn(self, paging: Paging) -> Pfn {
        Pfn(((!self.0 << 5) >> 14) & paging.migration_pfn_mask())
    }

    /// Whether the CPU finds something by it: a page, or a lower table.
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether a present one lets the CPU write.
    pub const fn is_writable(self) -> bool {
        self.0 & RW != 0
    }

    /// Whether the CPU has written through a present one since the kernel last asked.
    pub const fn is_dirty(self) -> bool {
        self.0 & (DIRTY | SAVED_DIRTY) != 0
    }

    /// Whether the bits that name a frame are the same in both, and not 0.
    #[inline(always)]
    pub const fn has_frame_of(self, other: Self) -> bool {
        const FRAME: u64 = (1 << PHYSICAL_BITS) - (1 << PAGE_SHIFT);
        self.0 & FRAME != 0 && (self.0 ^ other.0) & FRAME == 0
    }

    /// Whether an entry of a page table that maps something, though it may be for nobody (PROT_NONE), is marked as having no page behind it that the kernel keeps account of: a
    /// device's memory, a page that the kernel maps itself, or the zero page (`_PAGE_SPECIAL`, set by pte_mkspecial in
    /// arch/x86/include/asm/pgtable.h, 6.1 to 7.3).
    pub const fn is_special(self) -> bool {
        self.0 & (PRESENT | PROTNONE) != 0 && self.0 & SPECIAL != 0
    }

    /// Whether two readings are the same entry but for the accessed and dirty bits,
    /// which the CPU sets on its own at any moment.
    pub const fn same_but_accessed_dirty(self, other: Self) -> bool {
        (self.0 ^ other.0) & !(ACCESSED | DIRTY) == 0
    }
}

/// Where a walk of the page tables ended for one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkEnd {
    /// The level whose entry ended the walk.
    pub level: Level,
    /// That entry.
    pub entry: Entry,
    /// What it says.
    pub state: EntryState,
}

impl WalkEnd {
    /// The frame of the base page that holds `va`, where the walk ended in a leaf.
    pub const fn pfn(&self, va: VirtAddr) -> Option<Pfn> {
        match self.state {
            EntryState::Leaf(Pfn(first)) => {
                let inside = (1u64 << (self.level.shift() - PAGE_SHIFT)) - 1;
                Some(Pfn(first + (va.page_number() & inside)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: u64 = (1 << 52) - 1;

    #[test]
    fn an_address_has_the_bits_that_tables_are_indexed_by() {
        let can = |levels, va| {
            let paging = Paging {
                levels,
                physical_mask: MASK,
            };
            paging.can_map(VirtAddr(va))
        };
        for (levels, bits) in [(4, 48), (5, 57)] {
            let half: u64 = 1 << (bits - 1);
            for va in [0, half - 1, half.wrapping_neg(), u64::MAX] {
                assert!(can(levels, va), "{va:#x}");
            }
            for va in [half, half.wrapping_neg() - 1, 1 << 63, 1 << bits | 0x1000] {
                assert!(!can(levels, va), "{va:#x}");
            }
        }
    }

    #[test]
    fn a_present_pte_is_a_leaf() {
        let pte = Entry(0x8000_0001_2345_6867);
        assert_eq!(
            pte.state(Level::Pte, MASK),
            EntryState::Leaf(Pfn(0x12_3456))
        );
    }

    #[test]
    fn software_bits_above_the_address_are_not_part_of_the_pfn() {
        let pte = Entry(1 << 58 | 0x1_2345_6867);
        assert_eq!(
            pte.state(Level::Pte, MASK),
            EntryState::Leaf(Pfn(0x12_3456))
        );
    }

    #[test]
    fn a_prot_none_pte_holds_its_pfn_inverted() {
        let pte = Entry((!0x1_2345_6000 & MASK & !0xfff) | PROTNONE);
        assert_eq!(
            pte.state(Level::Pte, MASK),
            EntryState::Leaf(Pfn(0x12_3456))
        );
    }

    #[test]
    fn a_huge_pmd_is_a_leaf_and_its_pat_bit_is_no_address() {
        let pmd = Entry(0x4020_1000 | PSE | PRESENT);
        assert_eq!(pmd.state(Level::Pmd, MASK), EntryState::Leaf(Pfn(0x4_0200)));
    }

    #[test]
    fn a_pmd_without_pse_leads_to_a_table() {
        let pmd = Entry(0x4020_1067);
        assert_eq!(
            pmd.state(Level::Pmd, MASK),
            EntryState::Table(Pfn(0x4_0201))
        );
    }

    #[test]
    fn bit_7_of_a_pte_is_pat_and_no_page_size() {
        let pte = Entry(0x4020_1067 | PSE);
        assert_eq!(pte.state(Level::Pte, MASK), EntryState::Leaf(Pfn(0x4_0201)));
    }

    #[test]
    fn a_swap_entry_gives_type_and_offset() {
        // arch/x86/include/asm/pgtable_64.h: type in the top five bits, offset inverted.
        let (kind, offset) = (28u64, 0x12_3456u64);
        let entry = Entry(kind << 59 | (!offset << 14) >> 5);
        assert_eq!(
            entry.state(Level::Pte, MASK),
            EntryState::SwapEntry { kind: 28, offset }
        );
    }

    #[test]
    fn young_and_dirty_of_a_migration_entry_are_not_part_of_the_old_pfn() {
        for (levels, young) in [(4, 34), (5, 40)] {
            let offset = 0x12_3456u64 | 3 << young;
            let entry = Entry(28 << 59 | (!offset << 14) >> 5);
            let paging = Paging {
                levels,
                physical_mask: MASK,
            };
            assert_eq!(
                entry.migration_pfn(paging),
                Pfn(0x12_3456),
                "{levels} levels"
            );
        }
    }

    #[test]
    fn an_address_inside_a_huge_page_has_its_own_frame() {
        let end = WalkEnd {
            level: Level::Pmd,
            entry: Entry(0),
            state: EntryState::Leaf(Pfn(0x4_0200)),
        };
        assert_eq!(end.pfn(VirtAddr(0x7f00_0020_3123)), Some(Pfn(0x4_0203)));
    }

    #[test]
    fn the_accessed_bit_does_not_make_another_entry() {
        assert!(Entry(0x1067).same_but_accessed_dirty(Entry(0x1007)));
        assert!(!Entry(0x1067).same_but_accessed_dirty(Entry(0x2067)));
    }
}
