//! Pages by number, a bit each: they come by the hundred thousand, mostly beside each other.

use std::{collections::BTreeMap, ops::Range};

use v2p_common::control::BLOCK_PAGES;

/// Pages in a block.
const BLOCK: u64 = BLOCK_PAGES as u64;
/// Pages in a word.
const WORD: u64 = 64;

/// The pages of a block that are meant, a bit each.
#[derive(Default)]
pub(super) struct Bits([u64; BLOCK_PAGES / 64]);

impl Bits {
    /// The word of a page, and its bit there.
    const fn place(page: u64) -> (usize, u64) {
        ((page % BLOCK / WORD) as usize, 1 << (page % WORD))
    }

    pub(super) fn has(&self, page: u64) -> bool {
        let (word, bit) = Self::place(page);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn put(&mut self, page: u64, is_meant: bool) {
        let (word, bit) = Self::place(page);
        if let Some(word) = self.0.get_mut(word) {
            *word = if is_meant { *word | bit } else { *word & !bit };
        }
    }

    /// How many pages before this one are meant.
    pub(super) fn rank(&self, page: u64) -> usize {
        let (word, bit) = Self::place(page);
        let before = self.0.iter().take(word).map(|w| w.count_ones());
        let inside = self.0.get(word).map_or(0, |w| (w & (bit - 1)).count_ones());
        (before.sum::<u32>() + inside) as usize
    }

    /// Takes those in `range` out, of the block whose first page is `first`; whether there were any.
    fn remove(&mut self, first: u64, range: &Range<u64>) -> bool {
        let mut any = false;
        for (word, start) in self
            .0
            .iter_mut()
            .zip((first / WORD..).map(|word| word * WORD))
        {
            let bits = bits(start, range);
            any |= *word & bits != 0;
            *word &= !bits;
        }
        any
    }
}

/// The bits of a word that begins with page `start`, of the pages in `range`.
const fn bits(start: u64, range: &Range<u64>) -> u64 {
    let from = range.start.saturating_sub(start);
    let to = range.end.saturating_sub(start);
    if from >= WORD || to <= from {
        return 0;
    }
    let below = if to >= WORD { u64::MAX } else { (1 << to) - 1 };
    below & !((1 << from) - 1)
}

/// A set of pages.
#[derive(Default)]
pub(super) struct PageSet {
    blocks: BTreeMap<u64, Bits>,
}

impl PageSet {
    pub(super) fn insert(&mut self, page: u64) {
        self.blocks.entry(page / BLOCK).or_default().put(page, true);
    }

    pub(super) fn contains(&self, page: u64) -> bool {
        let block = self.blocks.get(&(page / BLOCK));
        block.is_some_and(|block| block.has(page))
    }

    /// Takes those in `range` out; whether there were any.
    pub(super) fn remove(&mut self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let mut any = false;
        for (number, block) in self.blocks.range_mut(blocks) {
            any |= block.remove(number * BLOCK, range);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_a_set_of_numbers_is(
            steps in prop::collection::vec((0u64..2000, 0u64..300, any::<bool>()), 0..200),
            far in prop::sample::select(vec![0, 1 << 35, u64::MAX / BLOCK * BLOCK - 4 * BLOCK]),
        ) {
            let (mut set, mut model) = (PageSet::default(), BTreeSet::new());
            for (page, pages, comes) in steps {
                let range = far + page..far + page + pages;
                if comes {
                    range.clone().for_each(|page| set.insert(page));
                    model.extend(range);
                } else {
                    let there = model.range(range.clone()).copied().collect::<Vec<_>>();
                    prop_assert_eq!(set.remove(&range), !there.is_empty());
                    there.iter().for_each(|page| _ = model.remove(page));
                }
            }
            for page in far..far + 2300 {
                prop_assert_eq!(set.contains(page), model.contains(&page));
            }
        }
    }
}
