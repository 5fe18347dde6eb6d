//! Virtual and physical addresses and page frame numbers as types of their own,
//! so that none can be taken for another.

use core::fmt;

/// log2 of the base page size on x86-64.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a base page on x86-64.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// Bits of a physical address on x86-64, at most (arch/x86/include/asm/page_types.h).
pub const PHYSICAL_BITS: u32 = 52;

/// A virtual address, in bytes.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(pub u64);

/// A physical address, in bytes.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(pub u64);

/// A page frame number: a physical address divided by [`PAGE_SIZE`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(pub u64);

impl VirtAddr {
    /// The first address of the base page that holds this one.
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }

    /// Bytes from the start of the base page, 0..4096.
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// The number of the base page: the index of its word in /proc/PID/pagemap.
    pub const fn page_number(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }
}

impl PhysAddr {
    /// The frame that holds this address.
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl Pfn {
    /// Whether x86-64 can address it.
    pub const fn is_possible(self) -> bool {
        self.0 >> (PHYSICAL_BITS - PAGE_SHIFT) == 0
    }

    /// The frame's first physical address. PFNs have at most 40 bits on x86-64
    /// (52 physical bits); more wrap to nothing rather than overflow.
    pub const fn base(self) -> PhysAddr {
        PhysAddr(self.0 << PAGE_SHIFT)
    }

    /// The physical address `offset` bytes into the frame; `offset` < 4096.
    pub const fn at(self, offset: u64) -> PhysAddr {
        PhysAddr(self.base().0 | (offset & (PAGE_SIZE - 1)))
    }
}

/// How much address space one page-table leaf maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB, a leaf in a page table (PTE).
    Base,
    /// 2 MiB, a leaf in a page middle directory (PMD).
    Pmd,
    /// 1 GiB, a leaf in a page upper directory (PUD).
    Pud,
}

impl PageSize {
    /// log2 of the size in bytes.
    pub const fn shift(self) -> u32 {
        match self {
            Self::Base => 12,
            Self::Pmd => 21,
            Self::Pud => 30,
        }
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// Base pages.
    pub const fn pages(self) -> u64 {
        1 << (self.shift() - PAGE_SHIFT)
    }
}

macro_rules! shown_in_hex {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:#x})", stringify!($t), self.0)
            }
        }
    )*};
}
shown_in_hex!(VirtAddr, PhysAddr);

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pfn({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_splits_into_page_and_offset() {
        let va = VirtAddr(0x7fff_1234_5678);
        assert_eq!(va.page(), VirtAddr(0x7fff_1234_5000));
        assert_eq!(va.page_offset(), 0x678);
        assert_eq!(va.page_number(), 0x7_fff1_2345);
    }

    #[test]
    fn a_pfn_and_an_offset_make_a_physical_address() {
        assert_eq!(Pfn(0x1234).at(0x678), PhysAddr(0x123_4678));
        assert_eq!(PhysAddr(0x123_4678).pfn(), Pfn(0x1234));
    }

    #[test]
    fn page_sizes_are_those_of_x86_64() {
        assert_eq!(PageSize::Pmd.bytes(), 2 << 20);
        assert_eq!(PageSize::Pud.pages(), 262_144);
    }
}
