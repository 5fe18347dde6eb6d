//! Pages by number, a bit each: they come by the hundred thousand, mostly beside each other.

use std::{collections::BTreeMap, ops::Range};

/// Pages in a word.
const WORD: u64 = 64;
/// Pages in a block.
const BLOCK: u64 = 8 * WORD;

/// A set of pages.
#[derive(Default)]
pub(super) struct PageSet {
    blocks: BTreeMap<u64, [u64; (BLOCK / WORD) as usize]>,
}

/// The bits of a word that begins with page `start`, of the pages in `range`.
const fn bits(start: u64, range: &Range<u64>) -> u64 {
    let (from, to) = (
        range.start.saturating_sub(start),
        range.end.saturating_sub(start),
    );
    if from >= WORD || to <= from {
        return 0;
    }
    let below = if to >= WORD { u64::MAX } else { (1 << to) - 1 };
    below & !((1 << from) - 1)
}

/// Its place in a block, and its bit there.
const fn place(page: u64) -> (usize, u64) {
    ((page % BLOCK / WORD) as usize, 1 << (page % WORD))
}

impl PageSet {
    pub(super) fn insert(&mut self, page: u64) {
        let (word, bit) = place(page);
        let block = self.blocks.entry(page / BLOCK).or_default();
        if let Some(word) = block.get_mut(word) {
            *word |= bit;
        }
    }

    pub(super) fn contains(&self, page: u64) -> bool {
        let (word, bit) = place(page);
        let block = self.blocks.get(&(page / BLOCK));
        block
            .and_then(|block| block.get(word))
            .is_some_and(|word| word & bit != 0)
    }

    /// Takes those in `range` out; whether there were any.
    pub(super) fn remove(&mut self, range: &Range<u64>) -> bool {
        let mut any = false;
        for (number, block) in self
            .blocks
            .range_mut(range.start / BLOCK..range.end.div_ceil(BLOCK))
        {
            let starts = (number * BLOCK / WORD..).map(|word| word * WORD);
            for (word, start) in block.iter_mut().zip(starts) {
                let bits = bits(start, range);
                any |= *word & bits != 0;
                *word &= !bits;
            }
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
