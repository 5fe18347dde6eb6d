//! Words, entries and large leaves, made up: told in bulk they are the pages that they are one by one.

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    prop_assert, prop_assert_eq,
    test_runner::TestCaseResult,
};
use v2p_common::{
    PAGE_SIZE, Pfn, VirtAddr,
    pagemap::PagemapWord,
    pte::{Entry, Level, Paging},
};

use super::{
    block::{Block, Piece, Walked},
    page::{Decoder, Page},
};
use crate::{outside::hold, page::ZeroFrames, state::Verdict};

const START: VirtAddr = VirtAddr(0x7f00_0000_0000);

fn decoder() -> impl Strategy<Value = Decoder> {
    // A zero page that is often met.
    let zero = prop_oneof![Just(None), (1u64..12).prop_map(|pfn| Some(Pfn(pfn)))];
    let huge = prop_oneof![Just(None), Just(Some(Pfn(0))), Just(Some(Pfn(512)))];
    (4u64..=5, 36u32..=52, zero, huge).prop_map(|(levels, bits, page, huge)| Decoder {
        paging: Some(Paging {
            levels,
            physical_mask: (1 << bits) - 1,
        }),
        zero: ZeroFrames { page, huge },
    })
}

/// A word and an entry of one page: mostly those of a page that is there, by both routes in the same frame.
fn both() -> impl Strategy<Value = (u64, u64)> {
    let present = |pfn: u64| (1 << 63 | 1 << 56 | pfn, pfn << 12 | 0x67);
    let bit = |(word, entry): (u64, u64), at: u32| (word ^ 1 << (at % 64), entry ^ 1 << (at % 61));
    prop_oneof![
        12 => (1u64..12).prop_map(present),
        4 => (1u64..1 << 24).prop_map(present),
        2 => Just((0, 0)),
        1 => ((1u64..12).prop_map(present), any::<u32>()).prop_map(move |(both, at)| bit(both, at)),
        1 => (any::<u64>(), any::<u64>()),
    ]
}

/// Stretches of what is alike, so that chunks are met that are plain, and some that are not quite.
fn pages() -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
    vec((both(), 1usize..90, any::<bool>()), 1..8).prop_map(|stretches| {
        let mut all = (Vec::new(), Vec::new());
        for ((word, entry), len, counts) in stretches {
            for i in 0..len as u64 {
                let on = if counts { i } else { 0 };
                all.0.push(word.wrapping_add(on));
                all.1.push(entry.wrapping_add(on << 12));
            }
        }
        all.0.truncate(512);
        all.1.truncate(512);
        all
    })
}

/// In bulk, and one by one.
fn assert_same(block: Block<'_>, decoder: Decoder) -> TestCaseResult {
    let at = |i: usize| VirtAddr(START.0 + i as u64 * PAGE_SIZE);
    let one = |i: usize| {
        let word = block.words.and_then(|words| words.get(i)).copied();
        let walked = block.walked.and_then(|walked| match walked {
            Walked::Entries(entries) => Some((Level::Pte, Entry(*entries.get(i)?))),
            Walked::Above(level, entry) => Some((level, entry)),
            Walked::Nothing => None,
        });
        decoder.page(at(i), word.map(PagemapWord), walked)
    };
    let mut i = 0;
    let mut expect = |page: Page| {
        let same = one(i) == page;
        prop_assert!(same, "page {i}: {page:x?}, alone {:x?}", one(i));
        i += 1;
        Ok(())
    };
    for piece in block.pieces(decoder) {
        match piece {
            Piece::Plain(some) => {
                let frames = some.fold_frames(Vec::new(), |mut all, pfn| {
                    all.push(pfn);
                    all
                });
                prop_assert_eq!(frames.len(), some.len());
                for (page, frame) in some.pages().zip(frames) {
                    prop_assert_eq!(page.pfn(), Some(frame));
                    expect(page)?;
                }
            }
            Piece::Nothing(page, pages) => {
                for n in 0..pages {
                    let va = VirtAddr(page.va.0 + n * PAGE_SIZE);
                    expect(Page { va, ..page })?;
                }
            }
            Piece::Differ(page) => {
                prop_assert_eq!(page.verdict, Verdict::Disagree);
                expect(page)?;
            }
            Piece::Page(page) => {
                prop_assert!(page.verdict != Verdict::Disagree);
                expect(page)?;
            }
            Piece::Unwalked(page) => expect(page)?,
        }
    }
    prop_assert_eq!(i, block.pages);
    Ok(())
}

#[test]
fn many_at_once_are_the_pages_that_they_are_one_by_one() {
    hold(
        (pages(), decoder(), 0u32..3),
        |((words, entries), decoder, routes)| {
            let block = Block {
                start: START,
                pages: words.len(),
                words: (routes != 1).then_some(words.as_slice()),
                walked: (routes != 0).then_some(Walked::Entries(&entries)),
            };
            assert_same(block, decoder)
        },
    );
}

#[test]
fn pages_of_an_entry_above_are_those_that_they_are_one_by_one() {
    let leaf = prop_oneof![
        // A huge page whose frames the words may name, and anything at all.
        4 => (1u64..8).prop_map(|n| n << 21 | 0xe7),
        1 => any::<u64>(),
    ];
    let words = prop_oneof![
        (1u64..8, 1usize..513)
            .prop_map(|(n, len)| { (n << 9..).take(len).map(|pfn| 1 << 63 | pfn).collect() }),
        pages().prop_map(|(words, _)| words),
    ];
    let level = (1u32..4).prop_map(|n| Level::from_u32(n).expect("a level"));
    let all = (leaf, level, words, decoder(), any::<bool>());
    hold(
        all,
        |(entry, level, words, decoder, asked): (_, _, Vec<u64>, _, _)| {
            let block = Block {
                start: START,
                pages: words.len(),
                words: asked.then_some(words.as_slice()),
                walked: Some(Walked::Above(level, Entry(entry))),
            };
            assert_same(block, decoder)
        },
    );
}
