//! Where the kernel maps all physical memory, found without symbols.
//!
//! `page_offset_base` is no symbol that user space can read on every kernel (KALLSYMS_ALL may be
//! off) and is randomized at boot in steps of 1 GiB (arch/x86/mm/kaslr.c, 6.1 to 7.3). But a process's
//! `pgd` is a direct-map address, so the base lies some whole GiB below it. A candidate is
//! believed when a walk with it, from our own pgd, ends at a frame that, read through
//! the same candidate, holds 64 random bytes that we put into our page. Neither
//! pagemap nor a symbol is asked, so the walk stays a route of its own.

use anyhow::Result;
use v2p_common::{
    PHYSICAL_BITS, Pfn, VirtAddr,
    control::Control,
    pte::{Entry, EntryState, Level, Paging, WalkEnd},
};

use crate::{
    carrier::{Carrier, Walk},
    exit::Failure,
    page::OwnPage,
};

const GIB: u64 = 1 << 30;
/// A pgd lies in RAM; 64 TiB is what four levels can map, and more than machines have.
const MAX_GIB: u64 = 64 * 1024;
/// Our page may be on its way to another frame just then, or a page in its place; so all are tried some times.
const ROUNDS: u32 = 3;
/// Memory encryption (SME, SEV, TDX) takes some away; then no candidate is ever proven.
const PHYSICAL_MASK: u64 = (1 << PHYSICAL_BITS) - 1;

/// The direct map, proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectMap {
    /// Virtual address of physical address 0.
    pub base: u64,
    /// The tables' layout.
    pub paging: Paging,
}

impl DirectMap {
    /// Where frame `pfn` lies in it.
    pub const fn address(self, pfn: Pfn) -> VirtAddr {
        VirtAddr(self.base.wrapping_add(pfn.base().0))
    }

    /// Its own entry for frame `pfn`, by a `walk` to [`Self::address`]; `None`: it has none. The kernel's half is in every process's tables.
    pub fn entry(self, pfn: Pfn, walk: &Walk) -> Option<Entry> {
        let there = walk.pfn(self.address(pfn)) == Some(pfn);
        let leaf = |end: &WalkEnd| matches!(end.state, EntryState::Leaf(_));
        let end = walk.end.filter(|end| there && leaf(end));
        end.map(|end| end.entry).filter(|entry| entry.is_present())
    }

    fn store(self, control: &Control) {
        control.direct_map.base.set(self.base);
        control.direct_map.levels.set(self.paging.levels);
        control
            .direct_map
            .physical_mask
            .set(self.paging.physical_mask);
    }
}

const fn candidate(base: u64, levels: u64) -> DirectMap {
    DirectMap {
        base,
        paging: Paging {
            levels,
            physical_mask: PHYSICAL_MASK,
        },
    }
}

/// Finds the base and the number of levels, and leaves them in the control block.
///
/// # Errors
/// Exit code 3 where no candidate stands the test.
pub fn learn(carrier: &mut Carrier) -> Result<DirectMap> {
    let page = OwnPage::new()?;
    let nonce = page.put_nonce()?;
    let try_with = |carrier: &mut Carrier, candidate: DirectMap| -> Result<Walk> {
        candidate.store(carrier.control());
        carrier.walk_own(page.va())
    };
    // With a base of 0 the walk fails below the top table, but tells where that is.
    let nowhere = candidate(0, 4);
    let pgd = try_with(carrier, nowhere)?.pgd;
    let top = pgd & !(GIB - 1);
    let places = (0..ROUNDS).flat_map(|_| 0..MAX_GIB);
    for k in places {
        let Some(base) = top.checked_sub(k * GIB) else {
            continue;
        };
        for levels in [4, 5] {
            let candidate = candidate(base, levels);
            let walk = try_with(carrier, candidate)?;
            let Some(pfn) = walk.pfn(page.va()) else {
                continue;
            };
            if walk.end.is_some_and(|end| end.level <= Level::Pud)
                && carrier.read_physical(pfn.at(nonce.offset))? == Some(nonce.bytes)
            {
                return Ok(candidate);
            }
        }
    }
    nowhere.store(carrier.control());
    Err(Failure::unsupported(
        "the kernel's direct map was not found: no candidate led a page-table walk to our own page",
    )
    .hint("memory encryption (SME, SEV, TDX) and Xen PV are not supported; please report the kernel otherwise")
    .into())
}
