//! Blocks that follow each other, read by the route and handed out page by page.

use std::ops::Range;

use anyhow::{Context as _, Result};
use v2p_common::{
    PAGE_SIZE, VirtAddr,
    control::{AT_ONCE, BLOCK_BYTES},
};

use super::{Translator, steady::Steady};
use crate::{
    process::Pagemap,
    state::PageState,
    translate::{
        block::{Block, Piece},
        page::Page,
        route::Route,
        settle::{settle, walk_alone},
        sink::Sink,
        walker::{Walker, block_of, blocks, pages},
    },
};

impl Translator {
    /// Reads at most [`super::BLOCKS`] blocks by the route; gives how many pages are not absent. `None`: the address
    /// space is gone.
    pub(super) fn read<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        start: u64,
        end: u64,
        sink: &mut S,
    ) -> Result<Option<u64>> {
        let mut populated = 0;
        let mut at = start;
        while at < end {
            let at_once = match self.route {
                Route::Walk => AT_ONCE,
                _ => super::BLOCKS,
            };
            let next = block_of(at).saturating_add(at_once as u64 * BLOCK_BYTES);
            let next = next.min(end);
            let alive = match (self.route, &mut self.walker) {
                (Route::Walk, Some(walker)) => walker.copy(pagemap, at, next)?,
                _ => self.words(pagemap, at, next)?,
            };
            if !alive {
                return Ok(None);
            }
            let mut steady = Steady::default();
            while at < next {
                match self.blocks(pagemap, at..next, &steady, &mut populated, sink)? {
                    None => return Ok(None),
                    Some(handed) if handed < next => {
                        at = handed;
                        match self.ask_all_again(pagemap, at..next)? {
                            None => return Ok(None),
                            Some(found) => steady = found,
                        }
                    }
                    Some(handed) => at = handed,
                }
            }
        }
        Ok(Some(populated))
    }

    /// Reads pagemap's words, and lets the tables be copied where there is a walk. False: the address space is gone.
    pub(super) fn words(&mut self, pagemap: &Pagemap, start: u64, end: u64) -> Result<bool> {
        let pages = pages(start, end)?;
        let words = self.words.get_mut(..pages);
        let words = words.context("too many pages at a time")?;
        let va = VirtAddr(start);
        let read = match &mut self.walker {
            Some(walker) => {
                let blocks = blocks(start, end)?;
                walker.carrier.tables(pagemap, va, blocks, words)?
            }
            None => pagemap.read_surely(va, words)?,
        };
        Ok(read == pages)
    }

    /// The blocks that were read last, which lie in `span`.
    pub(super) fn read_last(&self, span: Range<u64>) -> Result<impl Iterator<Item = Block<'_>>> {
        let by_walk = self.route == Route::Walk;
        let walker = self.walker.as_ref();
        let mut words = self.words.as_slice();
        let mut at = span.start;
        let block = move |index| {
            let next = (block_of(at) + BLOCK_BYTES).min(span.end);
            let va = VirtAddr(at);
            let pages = usize::try_from((next - at) / PAGE_SIZE).unwrap_or(0);
            let (now, later) = words.split_at(pages.min(words.len()));
            (words, at) = (later, next);
            Block {
                start: va,
                pages,
                words: (!by_walk).then_some(now),
                walked: walker.map(|walker| walker.walked(index, va, pages)),
            }
        };
        Ok((0..blocks(span.start, span.end)?).map(block))
    }

    /// Hands out the blocks that were read last, which lie in `span`, and counts the pages that are not absent. Gives how far it came: up to where the
    /// routes begin to differ on so many pages that all should be asked about at once, which those of `steady` were. `None`: the
    /// address space is gone.
    fn blocks<S: Sink>(
        &self,
        pagemap: &Pagemap,
        span: Range<u64>,
        steady: &Steady,
        populated: &mut u64,
        sink: &mut S,
    ) -> Result<Option<u64>> {
        let decoder = self.decoder;
        let end = span.end;
        for block in self.read_last(span)? {
            for piece in block.pieces(decoder) {
                let page = match piece {
                    Piece::Plain(plain) => {
                        *populated += plain.len() as u64;
                        sink.plain(&plain)?;
                        continue;
                    }
                    Piece::Nothing(page, pages) => {
                        sink.nothing(page, pages)?;
                        continue;
                    }
                    Piece::Page(page) => Some(page),
                    Piece::Differ(page) => match block.told_by_one(page.va, &decoder) {
                        Some(page) if steady.has(page.va) => Some(page),
                        Some(page)
                            if steady.is_none()
                                && block.many_are_told_by_one(page.va, &decoder) =>
                        {
                            return Ok(Some(page.va.0));
                        }
                        _ => self.ask_again(pagemap, page, true)?,
                    },
                    Piece::Unwalked(page) => self.ask_again(pagemap, page, false)?,
                };
                let Some(page) = page else { return Ok(None) };
                *populated += u64::from(page.state != PageState::Absent);
                sink.page(page, 1)?;
            }
        }
        Ok(Some(end))
    }

    /// Asks again about `page` alone. `compared`: the routes were both asked before, and differed or are in doubt. `None`: the address
    /// space is gone.
    pub(super) fn ask_again(
        &self,
        pagemap: &Pagemap,
        page: Page,
        compared: bool,
    ) -> Result<Option<Page>> {
        let Self {
            walker, decoder, ..
        } = self;
        let Some(Walker { carrier, .. }) = walker else {
            let word = pagemap.word_surely(page.va)?;
            return Ok(word.map(|word| decoder.page(page.va, Some(word), None)));
        };
        if self.route == Route::Walk {
            return walk_alone(page.va, carrier, decoder, pagemap);
        }
        settle(page, compared, carrier, decoder, pagemap)
    }
}
