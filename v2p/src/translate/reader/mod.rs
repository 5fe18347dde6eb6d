//! Reads pages in bulk, by the routes that there are: what is dense at once, what is sparse once it is known where anything is.

mod blocks;
mod steady;
mod told;

use anyhow::Result;
use v2p_common::{
    PAGE_SIZE, VirtAddr,
    control::{BLOCK_BYTES, BLOCK_PAGES},
};

use super::{
    ahead::Ahead,
    frames::Frames,
    page::{Decoder, Page},
    parts::{Part, Scanner},
    route::Route,
    sink::Sink,
    walker::{Step, Walker, block_of},
};
use crate::{
    carrier::Carrier,
    exit::Failure,
    page::{self, ZeroFrames},
    process::{Pagemap, maps::Mapping},
};

/// Blocks that are read, with what is known of their frames, before any is handed out, at most: 32 MiB of address space, so that memory stays
/// small and the pages are still in the processor's cache as they are told.
const BLOCKS: usize = 16;
/// In what is longer than that, the first reading is one block, and each of a dense stretch longer than the one before
/// it by this factor.
const GROWTH: usize = 8;
/// Where fewer pages than one in so many are there, it is sparse: what follows is scanned first.
const SPARSE: u64 = 16;
/// A scan that finds so many pages has come to where it is dense: what follows is read.
const DENSE: u64 = 64 * BLOCK_PAGES as u64;

/// Translates, one process after the other.
pub struct Translator {
    /// Never `Auto`.
    route: Route,
    why: Option<String>,
    walker: Option<Walker>,
    decoder: Decoder,
    scanner: Scanner,
    frames: Frames,
    ahead: Ahead,
    words: Vec<u64>,
}

impl Translator {
    /// Prepares `route`.
    ///
    /// # Errors
    /// Exit code 3 where the route cannot be taken here.
    pub fn new(route: Route) -> Result<Self> {
        let walker = (route != Route::Pagemap).then(Walker::new);
        let (mut walker, paging, why) = match (route, walker) {
            (_, None) => (None, None, None),
            (_, Some(Ok((walker, paging)))) => (Some(walker), Some(paging), None),
            (Route::Auto, Some(Err(e))) => (None, None, Some(format!("{e:#}"))),
            (_, Some(Err(e))) => return Err(e),
        };
        let route = match (route, &walker) {
            (Route::Auto, Some(_)) => Route::Both,
            (Route::Auto, None) => Route::Pagemap,
            (route, _) => route,
        };
        // Where pagemap withholds it, the walk may tell.
        let mut zero = ZeroFrames::learn()?;
        if let (None, Some(Walker { carrier, .. })) = (zero.page, &mut walker) {
            let mut by_walk = |va| Ok(carrier.walk_own(va)?.pfn(va));
            zero.page = page::zero_pfn_by(&mut by_walk)?;
            zero.huge = page::huge_zero_pfn_by(&mut by_walk)?;
        }
        Ok(Self {
            route,
            why,
            walker,
            decoder: Decoder { paging, zero },
            scanner: Scanner::default(),
            frames: Frames::new(),
            ahead: Ahead::default(),
            words: vec![0; BLOCKS * BLOCK_PAGES],
        })
    }

    /// The route taken: never [`Route::Auto`].
    pub const fn route(&self) -> Route {
        self.route
    }

    /// Why [`Route::Auto`] did not take both.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Leaves out what /proc/kpageflags says: a translation alone is faster. Where there are several nodes, that of each frame is still told. Then a poisoned page is told as one in
    /// migration: only the frame's flags tell them apart.
    pub fn without_flags(&mut self) {
        // The thread that asks goes by what was asked for before.
        self.ahead.forget();
        self.frames.without_flags();
    }

    /// Why what [`Self::without_flags`] names cannot be told apart here, though it was not asked for.
    pub fn flags_missing(&self) -> Option<&str> {
        self.frames.missing.as_deref()
    }

    /// Adds how often each frame is mapped, where /proc/kpagecount can be read.
    pub fn with_counts(&mut self) {
        self.ahead.forget();
        self.frames.with_counts();
    }

    /// Adds all flags that v2p has names for: else those are left out that [`steady`](crate::process::FrameFlags::steady) leaves out.
    pub fn with_all_flags(&mut self) {
        self.ahead.forget();
        self.frames.with_all_flags();
    }

    /// Frames alone, whatever they are: no flags, no nodes, and the shared zero page is a frame like any other.
    pub fn frames_alone(&mut self) {
        self.without_flags();
        self.frames.without_nodes();
        self.decoder.zero = ZeroFrames::UNKNOWN;
    }

    /// The walker's carrier, for questions about single addresses.
    ///
    /// # Errors
    /// Exit code 3 where there is no walk.
    pub fn carrier(&mut self) -> Result<&mut Carrier> {
        match &mut self.walker {
            Some(walker) => Ok(&mut walker.carrier),
            None => Err(match &self.why {
                Some(why) => Failure::unsupported(format!("there is no walk: {why}")),
                None => Failure::failed("--route pagemap does not walk the page tables"),
            }
            .into()),
        }
    }

    /// Whether the page tables are walked.
    pub const fn walks(&self) -> bool {
        self.walker.is_some()
    }

    /// The decoder of this kernel's words and entries.
    pub const fn decoder(&self) -> Decoder {
        self.decoder
    }

    /// The page at `va` alone, by the route; without flags and node. `None`: the address space is gone, or has no such address.
    ///
    /// # Errors
    /// Those of the reading.
    pub fn page(&self, pagemap: &Pagemap, va: VirtAddr) -> Result<Option<Page>> {
        if !self.have(va) {
            return Ok(None);
        }
        let unread = self.decoder.page(va.page(), None, None);
        self.ask_again(pagemap, unread, false)
    }

    /// Hands every page of `mapping` to `sink`, in order. Pages that were not looked at because nothing is there come as
    /// absent ones, many at a time. False: the address space is gone, or has no such addresses.
    ///
    /// # Errors
    /// Those of the reading and of `sink`; also where [`Self::can_tell`] says no, and where `mapping` is not whole pages.
    pub fn mapping<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        mapping: &Mapping,
        sink: &mut S,
    ) -> Result<bool> {
        anyhow::ensure!(
            (mapping.start | mapping.end).is_multiple_of(PAGE_SIZE) && mapping.start <= mapping.end,
            "{:#x}..{:#x} are no whole pages",
            mapping.start,
            mapping.end
        );
        let last = VirtAddr(mapping.end.saturating_sub(1));
        if !self.have(VirtAddr(mapping.start)) || !self.have(last) {
            return Ok(false);
        }
        if mapping.is_kernels() {
            return self.kernel_half(pagemap, mapping, sink);
        }
        let read = self.user_half(pagemap, mapping, sink);
        let told = read.and_then(|alive| Ok(alive && self.hand_out(pagemap, 0, sink)?));
        if !matches!(told, Ok(true)) {
            // Not into the next mapping, or the next process.
            self.ahead.forget();
        }
        told
    }

    /// Whether there is such an address: a walk goes by some of its bits alone.
    fn have(&self, va: VirtAddr) -> bool {
        self.decoder.paging.is_none_or(|paging| paging.can_map(va))
    }

    /// As [`Self::mapping`], but the last of it may still be asked about.
    fn user_half<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        mapping: &Mapping,
        sink: &mut S,
    ) -> Result<bool> {
        let mut at = mapping.start;
        // As long as there is much to read, it is read; a scan of it all would only come on top.
        while at < mapping.end {
            let read = self.dense(pagemap, at, mapping.end, sink)?;
            let Some(sparse_from) = read else {
                return Ok(false);
            };
            let read = self.sparse(pagemap, mapping, sparse_from, sink)?;
            let Some(dense_from) = read else {
                return Ok(false);
            };
            at = dense_from;
        }
        Ok(true)
    }

    /// Reads from `at` on as long as it is dense; gives how far. `None`: the address space is gone.
    fn dense<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        mut at: u64,
        end: u64,
        sink: &mut S,
    ) -> Result<Option<u64>> {
        let mut blocks = if end <= next_chunk(at) { BLOCKS } else { 1 };
        while at < end {
            let next = block_of(at)
                .saturating_add(blocks as u64 * BLOCK_BYTES)
                .min(end);
            let Some(populated) = self.chunk(pagemap, at, next, sink)? else {
                return Ok(None);
            };
            let sparse = populated * SPARSE < (next - at) / PAGE_SIZE;
            at = next;
            if sparse {
                break;
            }
            blocks = (blocks * GROWTH).min(BLOCKS);
        }
        Ok(Some(at))
    }

    /// Looks for what is there from `at` on and reads that, until it is dense; gives how far. `None`: the address
    /// space is gone.
    fn sparse<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        mapping: &Mapping,
        mut at: u64,
        sink: &mut S,
    ) -> Result<Option<u64>> {
        while at < mapping.end {
            let Some(found) = self.find(pagemap, at, mapping)? else {
                return Ok(None);
            };
            // Where nothing was found since the address space is gone, that is no page's absence.
            if pagemap.word(VirtAddr(at))?.is_none() {
                return Ok(None);
            }
            let mut populated = 0;
            for part in &found.parts {
                if !self.absent(pagemap, at, part.start, sink)? {
                    return Ok(None);
                }
                let mut start = part.start;
                while start < part.end {
                    let end = part.end.min(next_chunk(start));
                    let Some(some) = self.chunk(pagemap, start, end, sink)? else {
                        return Ok(None);
                    };
                    populated += some;
                    start = end;
                }
                at = part.end;
            }
            if !self.absent(pagemap, at, found.next, sink)? {
                return Ok(None);
            }
            at = found.next;
            if populated >= DENSE {
                break;
            }
        }
        Ok(Some(at))
    }

    /// The next populated parts from `at` on in `mapping`, and how far they are all. `None`: the address space is gone.
    fn find(&mut self, pagemap: &Pagemap, at: u64, mapping: &Mapping) -> Result<Option<Step>> {
        let end = mapping.end;
        // Where there is a walk, its steps say where anything is, also what a scan takes for holes.
        if let Some(walker) = &mut self.walker {
            return walker.step(pagemap, at, end);
        }
        if let Some(step) = self.scanner.next(pagemap, at, end, DENSE)? {
            return Ok(Some(step));
        }
        // All has to be read, but for what no mapping is of: that may be all addresses that there are.
        let parts = match mapping.is_gap() {
            true => Vec::new(),
            false => vec![Part { start: at, end }],
        };
        Ok(Some(Step { parts, next: end }))
    }

    /// Hands out pages that hold nothing, from `start` up to `end`, behind all that comes before. False: the address space is gone.
    fn absent<S: Sink>(
        &mut self,
        pagemap: &Pagemap,
        start: u64,
        end: u64,
        sink: &mut S,
    ) -> Result<bool> {
        if start >= end {
            return Ok(true);
        }
        if !self.hand_out(pagemap, 0, sink)? {
            return Ok(false);
        }
        let page = self.decoder.page(VirtAddr(start), None, None);
        sink.page(page, (end - start) / PAGE_SIZE)?;
        Ok(true)
    }
}

/// Where the chunk ends that holds `at`.
const fn next_chunk(at: u64) -> u64 {
    block_of(at).saturating_add(BLOCKS as u64 * BLOCK_BYTES)
}
