//! Pages with what is known of their frames. That is asked for after the pages were read, and a page that has left its frame by then would be told with what
//! another's is like. So the pages are read twice: for the frames that are asked about, and then for what is told, of which those pages are asked about once more
//! that are not in the same frame.

use std::ops::Range;

use anyhow::Result;

use super::Translator;
use crate::{
    process::Pagemap,
    translate::{
        ahead::{Batch, DEPTH},
        frames::{Asked, Frames, Order},
        page::Page,
        settle::ATTEMPTS,
        sink::Sink,
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
        let (span, mut asked) = (start..end, self.ahead.spare());
        if self.frames.ask_nothing() {
            return self.told(pagemap, Batch { span, asked }, sink);
        }
        let Some(populated) = self.read(pagemap, start, end, &mut asked)? else {
            return Ok(None);
        };
        let alive = match self.ahead.ask(&self.frames, Batch { span, asked })? {
            None => self.hand_out(pagemap, DEPTH, sink)?,
            Some(batch) => {
                self.hand_out(pagemap, 0, sink)? && self.told(pagemap, batch, sink)?.is_some()
            }
        };
        Ok(alive.then_some(populated))
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
            if self.told(pagemap, batch, sink)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands out pages whose frames were asked about; gives how many are not absent. `None`: the address space is gone.
    fn told<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        batch: Batch,
        sink: &mut S,
    ) -> Result<Option<u64>> {
        let Batch { span, asked } = batch;
        let Range { start, end } = span;
        let frames = self.frames.clone();
        let mut second = Second {
            frames: &frames,
            asked: &asked,
            next: 0,
            sink,
            held: Vec::new(),
        };
        let read = self.read(pagemap, start, end, &mut second)?;
        let Second { sink, held, .. } = second;
        for (page, is_known) in held {
            let page = match is_known {
                true => Some(page),
                false => self.anew(pagemap, page)?,
            };
            match page {
                Some(page) => sink.page(page, 1)?,
                None => return Ok(None),
            }
        }
        self.ahead.give_back(asked);
        Ok(read)
    }

    /// The page with what is known of its frame, which was asked about before it was in it. Of a page that goes from frame to frame, that is not told. `None`: the
    /// address space is gone.
    fn anew(&self, pagemap: &Pagemap, mut page: Page) -> Result<Option<Page>> {
        for _ in 0..ATTEMPTS {
            let mut asked = Asked::about(&page);
            self.frames.ask(&mut asked, &mut Order::default())?;
            let Some(now) = self.ask_again(pagemap, page, true)? else {
                return Ok(None);
            };
            if now.state == page.state {
                // It is in the frame, whatever that says of who maps it.
                self.frames.add(&asked, 0, &mut page);
                return Ok(Some(page));
            }
            page = now;
        }
        self.frames.add_node(&mut page);
        Ok(Some(page))
    }
}

/// Takes pages that are read for the second time.
struct Second<'a, S> {
    frames: &'a Frames,
    /// What was asked about their frames as they were read first.
    asked: &'a Asked,
    /// The number of the next page among them.
    next: usize,
    sink: &'a mut S,
    /// Pages that are told later, and whether they have what is known: the first that has not, and all behind it.
    held: Vec<(Page, bool)>,
}

impl<S: Sink> Sink for Second<'_, S> {
    #[inline]
    fn page(&mut self, page: Page, _: u64) -> Result<()> {
        let mut told = page;
        let is_known = self.frames.add(self.asked, self.next, &mut told);
        self.next += 1;
        match (is_known, self.held.is_empty()) {
            (true, true) => self.sink.page(told, 1)?,
            (true, false) => self.held.push((told, true)),
            (false, _) => self.held.push((page, false)),
        }
        Ok(())
    }
}
