//! Pages with what is known of their frames, which is asked for after they were read: a page that has left its frame by then would be told with
//! what another's is like. So who has asked looks at the pages again, and asks anew about those that are not what they were.

use anyhow::Result;
use v2p_common::PAGE_SIZE;

use super::Translator;
use crate::{
    process::Pagemap,
    state::Verdict,
    translate::{
        ahead::{Batch, DEPTH},
        frames::Asked,
        page::Page,
        plain::Plain,
        settle::ATTEMPTS,
        sink::Sink,
        walker::pages,
    },
};

impl Translator {
    /// Reads at most [`super::BLOCKS`] blocks, with what is known of the frames; gives how many pages are not absent. `None`:
    /// the address space is gone. What is read may be handed out later: by the next chunk, or [`Self::hand_out`].
    pub(super) fn chunk<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        start: u64,
        end: u64,
        sink: &mut S,
    ) -> Result<Option<u64>> {
        if self.frames.say_nothing() {
            return self.read(pagemap, start, end, sink);
        }
        let mut batch = self.ahead.spare();
        batch.pages.reserve(pages(start, end)?);
        let populated = self.read(pagemap, start, end, &mut |page: Page, _| {
            batch.pages.push(page);
            Ok(())
        })?;
        let alive = self.ask(pagemap, batch, sink)?;
        Ok(populated.filter(|_| alive))
    }

    /// Asks about the frames of `batch`: many on another thread, while those before are handed out. False: the address space is gone.
    fn ask<S: Sink>(&mut self, pagemap: &Pagemap, batch: Batch, sink: &mut S) -> Result<bool> {
        let Some(mut batch) = self.ahead.ask(&self.frames, batch) else {
            return self.hand_out(pagemap, DEPTH, sink);
        };
        let alive = self.hand_out(pagemap, 0, sink)?;
        batch.asked.about(&batch.pages);
        self.frames.ask(&mut batch.asked)?;
        Ok(alive && self.told(pagemap, batch, sink)?)
    }

    /// Hands out what was asked about ahead, but for so many batches. False: the address space is gone.
    pub(super) fn hand_out<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        but: usize,
        sink: &mut S,
    ) -> Result<bool> {
        while self.ahead.waiting() > but
            && let Some(batch) = self.ahead.take(&self.frames)?
        {
            if !self.told(pagemap, batch, sink)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands out pages whose frames were asked about. False: the address space is gone.
    fn told<S: Sink>(&mut self, pagemap: &Pagemap, mut batch: Batch, sink: &mut S) -> Result<bool> {
        let Batch { pages, asked } = &mut batch;
        let bad = self.frames.bad_leaves(pages)?;
        let Some(mut left) = self.that_left(pagemap, pages, asked)? else {
            return Ok(false);
        };
        // One that comes back into its frame was in another meanwhile, and its frame nobody's.
        let is_known = |va| left.binary_search_by_key(&va, |page| page.va).is_ok();
        let nobodys = asked.that_no_one_maps(pages);
        let came_back: Vec<_> = nobodys.filter(|page| !is_known(page.va)).collect();
        left.extend(came_back);
        self.frames.add(asked, &bad, pages);
        for _ in 0..ATTEMPTS {
            if left.is_empty() {
                break;
            }
            match self.once_more(pagemap, left, pages)? {
                None => return Ok(false),
                Some(again) => left = again,
            }
        }
        for page in &*pages {
            sink.page(*page, 1)?;
        }
        self.ahead.give_back(batch);
        Ok(true)
    }

    /// Those of `pages`, which follow each other, that are not any more what they were before their frames were asked about: as they are now. `None`: the
    /// address space is gone.
    fn that_left(
        &mut self,
        pagemap: &Pagemap,
        pages: &[Page],
        asked: &Asked,
    ) -> Result<Option<Vec<Page>>> {
        let (Some(first), Some(last), false) = (pages.first(), pages.last(), asked.is_empty())
        else {
            return Ok(Some(Vec::new()));
        };
        let (start, end) = (first.va.0, last.va.0 + PAGE_SIZE);
        let mut again = Again {
            before: pages,
            left: Vec::new(),
        };
        let read = self.read(pagemap, start, end, &mut again)?;
        Ok(read.map(|_| again.left))
    }

    /// Asks about the frames of pages that are `now` so, and then whether they still are. Puts them into `pages`: those that have left again as they are then,
    /// without what their frames are like; gives these. `None`: the address space is gone.
    fn once_more(
        &self,
        pagemap: &Pagemap,
        mut now: Vec<Page>,
        pages: &mut [Page],
    ) -> Result<Option<Vec<Page>>> {
        let mut asked = Asked::default();
        asked.about(&now);
        self.frames.ask(&mut asked)?;
        let bad = self.frames.bad_leaves(&now)?;
        let mut left = Vec::new();
        for page in now.iter().filter(|page| page.frame_to_ask().is_some()) {
            let Some(then) = self.ask_again(pagemap, *page, true)? else {
                return Ok(None);
            };
            left.extend(left_for(page, then));
        }
        self.frames.add(&asked, &bad, &mut now);
        for page in now.iter().chain(&left) {
            if let Ok(at) = pages.binary_search_by_key(&page.va.0, |page| page.va.0)
                && let Some(place) = pages.get_mut(at)
            {
                *place = *page;
            }
        }
        Ok(Some(left))
    }
}

/// Looks at pages for the second time.
struct Again<'a> {
    /// As they were, from the next on.
    before: &'a [Page],
    /// Those that have left their frames, as they are now.
    left: Vec<Page>,
}

impl Sink for Again<'_> {
    #[inline]
    fn page(&mut self, page: Page, _: u64) -> Result<()> {
        if let Some((before, rest)) = self.before.split_first() {
            self.before = rest;
            self.left.extend(left_for(before, page));
        }
        Ok(())
    }

    #[inline]
    fn plain(&mut self, pages: &Plain<'_>) -> Result<()> {
        if let Some((before, rest)) = self.before.split_at_checked(pages.len()) {
            let mut before = before.iter();
            let is_same = pages.fold_frames(true, |is_same, pfn| {
                is_same & (before.next().and_then(Page::pfn) == Some(pfn))
            });
            if is_same {
                self.before = rest;
                return Ok(());
            }
        }
        pages.pages().try_for_each(|page| self.page(page, 1))
    }
}

/// What a page is `now` that has left the frame that was asked about; `None`: it has not, or there was none.
fn left_for(before: &Page, now: Page) -> Option<Page> {
    if before.frame_to_ask().is_none() || before.state == now.state {
        return None;
    }
    let verdict = match now.verdict {
        Verdict::Agree => Verdict::Moved,
        verdict => verdict,
    };
    Some(Page { verdict, ..now })
}
