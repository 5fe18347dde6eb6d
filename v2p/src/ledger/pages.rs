//! What lies behind every page, eight bytes each: sparse over the address space, dense where it is populated.

use std::{collections::BTreeMap, ops::Range};

use v2p_common::{Pfn, control::BLOCK_PAGES};

use super::page_set::Bits;
use crate::state::{PageState, SwapPlace};

/// Pages in a block, as page numbers go.
const BLOCK: u64 = BLOCK_PAGES as u64;

/// A block grows by half as many words as it has, between these: no more than the larger are ever allocated in vain.
const GROWTH: (usize, usize) = (4, 32);

/// Bits of the payload of a packed state.
const PAYLOAD_BITS: u32 = 60;
/// Bits of the slot in a packed swap place; a swap entry has no more (SWP_OFFSET, arch/x86/include/asm/pgtable_64.h).
const OFFSET_BITS: u32 = 50;

/// States by page number. A page that is not in it is absent.
#[derive(Default)]
pub(super) struct Pages {
    blocks: BTreeMap<u64, Block>,
}

/// The states of 2 MiB of address space.
#[derive(Default)]
struct Block {
    /// Which pages are there, a bit each.
    there: Bits,
    /// Their packed states, in the order of the pages.
    states: Vec<u64>,
}

impl Block {
    fn get(&self, page: u64) -> PageState {
        let there = self.there.has(page);
        let packed = there
            .then(|| self.states.get(self.there.rank(page)))
            .flatten();
        packed.map_or(PageState::Absent, |packed| unpack(*packed))
    }

    fn put(&mut self, page: u64, state: PageState) {
        // The place of its state is that in the order of those that are there.
        let (place, there) = (self.there.rank(page), self.there.has(page));
        if state == PageState::Absent {
            if there {
                self.there.put(page, false);
                self.states.remove(place);
            }
            return;
        }
        if !there {
            self.there.put(page, true);
            if self.states.len() == self.states.capacity() {
                let (least, most) = GROWTH;
                self.states
                    .reserve_exact((self.states.len() / 2).clamp(least, most));
            }
            self.states.insert(place, 0);
        }
        if let Some(packed) = self.states.get_mut(place) {
            *packed = pack(state);
        }
    }
}

impl Pages {
    pub(super) fn get(&self, page: u64) -> PageState {
        self.blocks
            .get(&(page / BLOCK))
            .map_or(PageState::Absent, |block| block.get(page))
    }

    pub(super) fn put(&mut self, page: u64, state: PageState) {
        let block = page / BLOCK;
        if state != PageState::Absent {
            self.blocks.entry(block).or_default().put(page, state);
        } else if let Some(found) = self.blocks.get_mut(&block) {
            found.put(page, state);
            if found.states.is_empty() {
                self.blocks.remove(&block);
            }
        }
    }

    /// The pages in `range` that are not absent, in order.
    pub(super) fn range(&self, range: Range<u64>) -> impl Iterator<Item = (u64, PageState)> {
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK).max(range.start / BLOCK);
        self.blocks.range(blocks).flat_map(move |(number, block)| {
            let first = number * BLOCK;
            let pages = first.max(range.start)..(first + BLOCK).min(range.end);
            pages
                .filter(|page| block.there.has(*page))
                .map(|page| (page, block.get(page)))
        })
    }

    /// How many pages are not absent.
    pub(super) fn len(&self) -> usize {
        self.blocks.values().map(|block| block.states.len()).sum()
    }

    /// For the test that holds it to its bound: bytes that it takes, about: what the blocks hold, and a node's share for each.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let blocks = self.blocks.values();
        blocks
            .map(|block| block.states.capacity() * 8 + 2 * size_of::<(u64, Block)>())
            .sum()
    }
}

/// Into 64 bits: what kind in the top four, and what belongs to it.
const fn pack(state: PageState) -> u64 {
    let (kind, payload) = match state {
        PageState::Absent => (0, 0),
        PageState::Present { pfn: Pfn(pfn) } => (1, pfn),
        PageState::Zero => (2, 0),
        PageState::Swapped { swap: None } => (3, 0),
        PageState::Swapped {
            swap: Some(SwapPlace { device, offset }),
        } => (
            4,
            (device as u64) << OFFSET_BITS | offset & ((1 << OFFSET_BITS) - 1),
        ),
        PageState::Migrating { pfn: Pfn(pfn) } => (5, pfn),
        PageState::Device { pfn: Pfn(pfn) } => (6, pfn),
        PageState::Poisoned => (7, 0),
        PageState::Guard => (8, 0),
        PageState::Hidden => (9, 0),
    };
    kind << PAYLOAD_BITS | payload & ((1 << PAYLOAD_BITS) - 1)
}

const fn unpack(packed: u64) -> PageState {
    let payload = packed & ((1 << PAYLOAD_BITS) - 1);
    let pfn = Pfn(payload);
    match packed >> PAYLOAD_BITS {
        1 => PageState::Present { pfn },
        2 => PageState::Zero,
        3 => PageState::Swapped { swap: None },
        4 => PageState::Swapped {
            swap: Some(SwapPlace {
                device: (payload >> OFFSET_BITS & 0xff) as u8,
                offset: payload & ((1 << OFFSET_BITS) - 1),
            }),
        },
        5 => PageState::Migrating { pfn },
        6 => PageState::Device { pfn },
        7 => PageState::Poisoned,
        8 => PageState::Guard,
        9 => PageState::Hidden,
        _ => PageState::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(pfn: u64) -> PageState {
        PageState::Present { pfn: Pfn(pfn) }
    }

    #[test]
    fn every_state_comes_back_as_it_went_in() {
        let swap = |device, offset| PageState::Swapped {
            swap: Some(SwapPlace { device, offset }),
        };
        let pfn = Pfn((1 << 40) - 1);
        for state in [
            PageState::Absent,
            present(0),
            PageState::Present { pfn },
            PageState::Zero,
            swap(0, 0),
            swap(31, (1 << 50) - 1),
            PageState::Swapped { swap: None },
            PageState::Migrating { pfn },
            PageState::Device { pfn },
            PageState::Poisoned,
            PageState::Guard,
            PageState::Hidden,
        ] {
            assert_eq!(unpack(pack(state)), state);
        }
    }

    #[test]
    fn pages_go_in_and_out_in_any_order() {
        let mut pages = Pages::default();
        let numbers = [511, 0, 512, 63, 64, 1 << 35, 300];
        for (i, page) in numbers.into_iter().enumerate() {
            pages.put(page, present(i as u64));
        }
        for (i, page) in numbers.into_iter().enumerate() {
            assert_eq!(pages.get(page), present(i as u64), "{page}");
        }
        assert_eq!(pages.len(), numbers.len());
        pages.put(63, PageState::Absent);
        assert_eq!(pages.get(63), PageState::Absent);
        assert_eq!(pages.get(64), present(4));
        let found: Vec<u64> = pages.range(1..513).map(|(page, _)| page).collect();
        assert_eq!(found, [64, 300, 511, 512]);
        for page in numbers {
            pages.put(page, PageState::Absent);
        }
        assert_eq!((pages.len(), pages.bytes()), (0, 0));
    }

    #[test]
    fn a_resident_page_costs_no_more_than_24_bytes() {
        // 1 GiB, filled from its end, as the worst order for a vector.
        let mut pages = Pages::default();
        for page in (0..1 << 18).rev() {
            pages.put(page, present(page));
        }
        assert!(pages.bytes() <= 24 * pages.len(), "{}", pages.bytes());
        // Of each 2 MiB so many, from the fewest on of which it holds.
        for there in 14..=BLOCK {
            let mut sparse = Pages::default();
            for page in (0..64).flat_map(|block| (0..there).map(move |i| block * BLOCK + i)) {
                sparse.put(page, present(page));
            }
            let (bytes, pages) = (sparse.bytes(), sparse.len());
            assert!(bytes <= 24 * pages, "{there}: {bytes}");
        }
        // One alone.
        let mut lone = Pages::default();
        lone.put(1, present(1));
        assert!(lone.bytes() <= 224, "{}", lone.bytes());
    }
}
