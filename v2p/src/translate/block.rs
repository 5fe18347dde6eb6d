//! One block, 2 MiB of address space under one page table, as the kernel gave it -> pages. Pure.

use v2p_common::{
    PAGE_SIZE, VirtAddr,
    control::Table,
    pagemap::PagemapWord,
    pte::{Entry, Level},
};

use super::{
    page::{Decoder, Page},
    plain::{Leaf, Plain, Raw},
};
use crate::state::{PageState, Verdict};

/// Pages of one block, by the routes that were asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    /// The first page.
    pub(super) start: VirtAddr,
    /// How many pages.
    pub(super) pages: usize,
    /// Pagemap's words of them; `None`: not asked.
    pub(super) words: Option<&'a [u64]>,
    /// What the walk brought; `None`: not asked.
    pub(super) walked: Option<Walked<'a>>,
}

/// What a walk brought for a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Walked<'a> {
    /// The entries of its pages.
    Entries(&'a [u64]),
    /// The entry above the page table that ended the walk, for all of them.
    Above(Level, Entry),
    /// Nothing: the kernel did not come by with the lock, or a table could not be read.
    Nothing,
}

/// Pages of a block.
pub(super) enum Piece<'a> {
    /// Plain ones.
    Plain(Plain<'a>),
    /// Some that hold nothing: the first, and how many.
    Nothing(Page, u64),
    /// One that is not.
    Page(Page),
    /// One on which the routes differ.
    Differ(Page),
    /// One that the walk did not bring; what pagemap says of it.
    Unwalked(Page),
}

impl<'a> Walked<'a> {
    /// Of the table that was copied for the block, for `pages` pages from its `first` on.
    pub(super) fn of(table: Option<&'a Table>, first: usize, pages: usize) -> Self {
        let Some(table) = table else {
            return Self::Nothing;
        };
        if table.level == 0 {
            let entries = table.entries.get(first..first + pages);
            return entries.map_or(Self::Nothing, Self::Entries);
        }
        let level = u32::try_from(table.level).ok().and_then(Level::from_u32);
        level.map_or(Self::Nothing, |level| {
            Self::Above(level, Entry(table.entry))
        })
    }

    /// Level and entry of page `index`.
    fn entry(self, index: usize) -> Option<(Level, Entry)> {
        match self {
            Self::Entries(entries) => Some((Level::Pte, Entry(*entries.get(index)?))),
            Self::Above(level, entry) => Some((level, entry)),
            Self::Nothing => None,
        }
    }
}

impl<'a> Block<'a> {
    /// Its pages, in order.
    pub(super) fn pieces(self, decoder: Decoder) -> impl Iterator<Item = Piece<'a>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= self.pages {
                return None;
            }
            let va = VirtAddr(self.start.0 + at as u64 * PAGE_SIZE);
            let raw = self.raw(va, at, &decoder);
            let plain = raw.map_or(0, |raw| raw.plain(&decoder));
            if let (Some(raw), 1..) = (raw, plain) {
                at += plain;
                return Some(Piece::Plain(Plain::new(va, raw.split(plain).0, &decoder)));
            }
            let nothing = raw.map_or(0, Raw::nothing);
            let (piece, pages) = match self.page(va, at, &decoder) {
                Piece::Page(page) if nothing > 0 => (Piece::Nothing(page, nothing as u64), nothing),
                piece => (piece, 1),
            };
            at += pages;
            Some(piece)
        })
    }

    /// What there is from page `at` on, where all of it is a value a page, or one large leaf.
    fn raw(self, va: VirtAddr, at: usize, decoder: &Decoder) -> Option<Raw<'a>> {
        let rest = |raw: &'a [u64]| raw.get(at..);
        let words = match self.words {
            Some(words) => Some(rest(words)?),
            None => None,
        };
        Some(match (words, self.walked) {
            (Some(words), None) => Raw::Words(words),
            (None, Some(Walked::Entries(entries))) => Raw::Entries(rest(entries)?),
            (Some(words), Some(Walked::Entries(entries))) => Raw::Both(words, rest(entries)?),
            (words, Some(Walked::Above(level, entry))) => {
                let (state, size) = decoder.entry(level, entry, va);
                let (PageState::Present { pfn }, Some(size)) = (state, size) else {
                    return None;
                };
                let leaf = Leaf { first: pfn.0, size };
                match words {
                    Some(words) => Raw::WordsAndLeaf(words, leaf),
                    None => Raw::Leaf(leaf, self.pages - at),
                }
            }
            _ => return None,
        })
    }

    /// Page `at`, which lies at `va`.
    fn page(self, va: VirtAddr, at: usize, decoder: &Decoder) -> Piece<'a> {
        let word = self.words.and_then(|words| words.get(at)).copied();
        let walked = self.walked.map(|walked| walked.entry(at));
        let page = decoder.page(va, word.map(PagemapWord), walked.flatten());
        match (walked, page.verdict) {
            (Some(None), _) => Piece::Unwalked(page),
            (_, Verdict::Disagree) => Piece::Differ(page),
            _ => Piece::Page(page),
        }
    }
}

/// So many pages one after the other that one route alone can tell are asked about at once.
const MANY: usize = 64;

impl Block<'_> {
    /// What the routes said of page `index`, where both did.
    pub(super) fn said(&self, index: usize) -> Option<(u64, Level, Entry)> {
        let word = *self.words?.get(index)?;
        let (level, entry) = self.walked?.entry(index)?;
        Some((word, level, entry))
    }

    /// The page at `va`, where the routes differ and one of them alone can tell, if they go on doing so.
    pub(super) fn told_by_one(&self, va: VirtAddr, decoder: &Decoder) -> Option<Page> {
        let index = (va.0 - self.start.0) / PAGE_SIZE;
        self.told_by_one_at(usize::try_from(index).ok()?, decoder)
    }

    /// Whether it is so of many pages, from that at `va` on.
    pub(super) fn many_are_told_by_one(&self, va: VirtAddr, decoder: &Decoder) -> bool {
        let first = usize::try_from((va.0 - self.start.0) / PAGE_SIZE).unwrap_or(self.pages);
        let is_so = |i| self.told_by_one_at(i, decoder).is_some();
        self.pages - first >= MANY && (first..first + MANY).all(is_so)
    }

    fn told_by_one_at(&self, index: usize, decoder: &Decoder) -> Option<Page> {
        let va = VirtAddr(self.start.0 + index as u64 * PAGE_SIZE);
        let (word, level, entry) = self.said(index)?;
        let (word, walked) = (PagemapWord(word), (level, entry));
        let page = decoder.page(va, Some(word), Some(walked));
        let page = decoder.settle(page, word, walked);
        (page.verdict == Verdict::Single).then_some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::ZeroFrames;
    use v2p_common::{Pfn, pte::Paging};

    const DECODER: Decoder = Decoder {
        paging: Some(Paging {
            levels: 4,
            physical_mask: (1 << 52) - 1,
        }),
        zero: ZeroFrames {
            page: Some(Pfn(5)),
            huge: None,
        },
    };
    const START: VirtAddr = VirtAddr(0x7f00_0000_0000);

    /// All pages of a block, and how many of them came as plain ones.
    fn pages(block: Block<'_>) -> (Vec<Page>, usize) {
        let (mut pages, mut plain) = (Vec::new(), 0);
        for piece in block.pieces(DECODER) {
            match piece {
                Piece::Plain(some) => {
                    let frames: Vec<_> = some.pages().filter_map(|page| page.pfn()).collect();
                    let folded = some.fold_frames(Vec::new(), |mut all, pfn| {
                        all.push(pfn);
                        all
                    });
                    assert_eq!((some.len(), &frames), (folded.len(), &folded));
                    plain += some.len();
                    pages.extend(some.pages());
                }
                Piece::Nothing(page, nothing) => pages.extend((0..nothing).map(|i| Page {
                    va: VirtAddr(page.va.0 + i * PAGE_SIZE),
                    ..page
                })),
                piece => pages.push(one(piece)),
            }
        }
        (pages, plain)
    }

    /// The page of a piece that is one.
    fn one(piece: Piece<'_>) -> Page {
        match piece {
            Piece::Page(page) | Piece::Differ(page) | Piece::Unwalked(page) => page,
            _ => panic!("many pages"),
        }
    }

    /// The same, page by page.
    fn one_by_one(block: Block<'_>) -> Vec<Page> {
        (0..block.pages)
            .map(|i| {
                let va = VirtAddr(START.0 + i as u64 * PAGE_SIZE);
                one(block.page(va, i, &DECODER))
            })
            .collect()
    }

    /// Words and entries of every kind, each beside each.
    fn mixture() -> (Vec<u64>, Vec<u64>) {
        let present = |pfn: u64| (1 << 63 | 1 << 56 | pfn, pfn << 12 | 0x67);
        let migrating = 1 << 62 | 9 << 5 | 27;
        let prot_none = (!9u64 << 12) & ((1 << 52) - 1) & !0xfff | 0x100;
        let words = [
            0,
            1 << 55,
            1 << 63,
            present(5).0,
            present(9).0,
            present(10).0,
            migrating,
        ];
        let entries = [
            0,
            present(5).1,
            present(9).1,
            present(10).1,
            7 << 59 | 1 << 40,
            prot_none,
            // Special: a device's memory, and the zero page.
            present(9).1 | 1 << 9,
            present(5).1 | 1 << 9,
        ];
        let mut all = (Vec::new(), Vec::new());
        for word in words {
            for entry in entries {
                all.0.push(word);
                all.1.push(entry);
            }
        }
        // And stretches of plain ones around them, of lengths that no chunk has.
        for pfn in 100..250 {
            let (word, entry) = present(pfn);
            all.0.push(word);
            all.1.push(entry);
        }
        // Nothing by both, by one, by the other.
        all.0.extend([0, 0, 0, 1 << 63 | 7, 0, 0]);
        all.1.extend([0, 0, 7 << 12 | 0x67, 0, 0, 0]);
        for pfn in 300..333 {
            let (word, entry) = present(pfn);
            all.0.push(word);
            all.1.push(entry);
        }
        all
    }

    #[test]
    fn many_at_once_are_the_pages_that_they_are_one_by_one() {
        // The two stretches of plain ones.
        const LEAST: usize = 150 + 33;
        let (words, entries) = mixture();
        let walked = Some(Walked::Entries(&entries));
        for (words, walked) in [
            (Some(words.as_slice()), None),
            (None, walked),
            (Some(words.as_slice()), walked),
        ] {
            let block = Block {
                start: START,
                pages: entries.len(),
                words,
                walked,
            };
            let (many, plain) = pages(block);
            assert_eq!(many, one_by_one(block));
            assert!(plain >= LEAST && plain < entries.len(), "{plain}");
            let present = many
                .iter()
                .filter(|p| matches!(p.state, PageState::Present { .. }))
                .count();
            assert!(plain <= present, "{plain} of {present}");
        }
    }

    #[test]
    fn one_page_on_which_the_routes_differ_is_found_among_many() {
        for odd in [0, 1, 31, 32, 33, 300, 511] {
            let words: Vec<u64> = (0..512).map(|i| 1 << 63 | (1000 + i)).collect();
            let mut entries: Vec<u64> = (0..512).map(|i| (1000 + i) << 12 | 0x67).collect();
            entries[odd] ^= 1 << 12;
            let block = Block {
                start: START,
                pages: 512,
                words: Some(&words),
                walked: Some(Walked::Entries(&entries)),
            };
            let (many, plain) = pages(block);
            assert_eq!((many.len(), plain), (512, 511));
            for (i, page) in many.iter().enumerate() {
                assert_eq!(page.verdict == Verdict::Disagree, i == odd, "{i}");
            }
            let mut pieces = block.pieces(DECODER);
            assert!(pieces.any(|piece| matches!(piece, Piece::Differ(_))));
        }
    }

    #[test]
    fn what_the_walk_did_not_bring_is_to_be_asked_again() {
        let words = [1 << 63 | 9; 3];
        let block = Block {
            start: START,
            pages: 3,
            words: Some(&words),
            walked: Some(Walked::of(None, 0, 3)),
        };
        let pieces: Vec<_> = block.pieces(DECODER).collect();
        let unwalked = |piece: &Piece<'_>| matches!(piece, Piece::Unwalked(_));
        assert!(pieces.len() == 3 && pieces.iter().all(unwalked));
    }

    #[test]
    fn a_huge_page_is_the_same_leaf_for_every_page_of_its_block() {
        let table = |entry| Table {
            number: 1,
            level: 1,
            entry,
            entries: [0; 512],
        };
        let whole = table(0x4000_0000 | 0xe7);
        // From the fourth page of the huge one on.
        let frames = 0x4_0003..0x4_0003 + 300;
        let words: Vec<u64> = frames.clone().map(|pfn| 1 << 63 | pfn).collect();
        let (start, pages_) = (VirtAddr(START.0 + 3 * PAGE_SIZE), words.len());
        let block = |words, table| Block {
            start,
            pages: pages_,
            words,
            walked: Some(Walked::of(Some(table), 3, pages_)),
        };
        for words in [None, Some(words.as_slice())] {
            let (many, plain) = pages(block(words, &whole));
            assert_eq!((many.len(), plain), (pages_, pages_));
            for (i, (page, pfn)) in many.iter().zip(frames.clone()).enumerate() {
                let va = VirtAddr(start.0 + i as u64 * PAGE_SIZE);
                assert_eq!(*page, one(block(words, &whole).page(va, i, &DECODER)));
                assert_eq!(
                    (page.pfn(), page.page_size),
                    (Some(Pfn(pfn)), Some(2 << 20))
                );
            }
        }
        let mut odd = words.clone();
        odd[77] += 1;
        let (many, plain) = pages(block(Some(&odd), &whole));
        assert_eq!(plain, pages_ - 1);
        for (i, page) in many.iter().enumerate() {
            assert_eq!(page.verdict == Verdict::Disagree, i == 77, "{i}");
        }
        // An entry in swap form is no leaf.
        let moving = table(31 << 59);
        assert_eq!(pages(block(Some(&words), &moving)).1, 0);
    }
}
