//! Reads pages in bulk, by the routes that there are.

use anyhow::{Context as _, Result};
use v2p_common::{
    PAGE_SIZE, Pfn, VirtAddr,
    control::{BLOCK_BYTES, BLOCK_PAGES, Table},
    pagemap::PagemapWord,
    pte::{Entry, Level},
};

use super::{
    page::{Decoder, Page, Verdict},
    parts::{Part, Scanner},
};
use crate::{
    bpf::Programs,
    carrier::Carrier,
    kernel, page,
    process::{FlagsFile, FrameFlags, Nodes, Pagemap, maps::Mapping},
    record::PageState,
};

/// Which way from an address to its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Route {
    /// Both where this kernel and these privileges allow it, else pagemap.
    Auto,
    /// /proc/PID/pagemap.
    Pagemap,
    /// An eBPF walk of the page tables.
    Walk,
    /// Both, compared.
    Both,
}

/// Blocks that are read at a time: 128 MiB of address space, so that memory stays small.
const BLOCKS: usize = 64;
/// Bytes from which on it pays to step over empty tables instead of reading through them.
const STEP_FROM: u64 = 64 << 20;
/// How often two routes that differ are asked again.
const RETRIES: usize = 3;

/// Translates, one process after the other.
pub struct Translator {
    /// The route taken: never `Auto`.
    pub route: Route,
    /// Why `Auto` did not take both.
    pub why: Option<String>,
    walker: Option<Walker>,
    decoder: Decoder,
    scanner: Scanner,
    flags: Option<FlagsFile>,
    nodes: Nodes,
    words: Vec<u64>,
    pages: Vec<Page>,
}

struct Walker {
    carrier: Carrier,
    /// Keeps the programs attached.
    _programs: Programs,
}

/// Where pages go: the first of some that are alike and lie one after the other, and their number.
pub type Sink<'a> = &'a mut dyn FnMut(Page, u64) -> Result<()>;

impl Translator {
    /// Prepares `route`. Inside a tokio runtime, where eBPF is asked for.
    ///
    /// # Errors
    /// Exit code 3 where the route cannot be taken here.
    pub fn new(route: Route) -> Result<Self> {
        let walker = (route != Route::Pagemap).then(Walker::new);
        let (walker, paging, why) = match (route, walker) {
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
        Ok(Self {
            route,
            why,
            walker,
            decoder: Decoder {
                paging,
                zero_pfn: page::zero_pfn()?,
            },
            scanner: Scanner::default(),
            flags: FlagsFile::open(),
            nodes: Nodes::read(),
            words: vec![0; BLOCKS * BLOCK_PAGES],
            pages: Vec::new(),
        })
    }

    /// Leaves out what /proc/kpageflags says: a translation alone is faster.
    pub fn without_flags(&mut self) {
        self.flags = None;
    }

    /// The walker's carrier, for questions about single addresses.
    ///
    /// # Errors
    /// Exit code 3 where there is no walk.
    pub fn carrier(&mut self) -> Result<&mut Carrier> {
        let walker = self.walker.as_mut();
        Ok(&mut walker.context("this route has no page-table walk")?.carrier)
    }

    /// The decoder of this kernel's words and entries.
    pub const fn decoder(&self) -> Decoder {
        self.decoder
    }

    /// Hands every page of `mapping` to `sink`, in order; pages that were not looked at because nothing is there come as
    /// absent ones. False: the address space is gone.
    ///
    /// # Errors
    /// Those of the reading and of `sink`.
    pub fn mapping(
        &mut self,
        pagemap: &Pagemap,
        mapping: &Mapping,
        sink: Sink<'_>,
    ) -> Result<bool> {
        let mut at = mapping.start;
        let mut parts = Vec::new();
        let (start, end) = (VirtAddr(mapping.start), VirtAddr(mapping.end));
        let scanned = !mapping.may_hide_frames()
            && self.scanner.scan(pagemap, start, end, |part| {
                parts.push(part);
                Ok(())
            })?;
        if !scanned {
            parts = self.step(pagemap, start, end)?;
        }
        for part in parts {
            self.absent(at, part.start, sink)?;
            if !self.part(pagemap, part, sink)? {
                return Ok(false);
            }
            at = part.end;
        }
        self.absent(at, mapping.end, sink)?;
        Ok(true)
    }

    /// The parts that have page tables, found by steps over the empty entries of the tables above: what is done before
    /// PAGEMAP_SCAN (6.7), and where pagemap hides frames. Without a walk: all of it.
    fn step(&mut self, pagemap: &Pagemap, start: VirtAddr, end: VirtAddr) -> Result<Vec<Part>> {
        let whole = Part {
            start: start.0,
            end: end.0,
        };
        let Some(walker) = self.walker.as_mut().filter(|_| end.0 - start.0 > STEP_FROM) else {
            return Ok(vec![whole]);
        };
        let mut parts: Vec<Part> = Vec::new();
        let mut at = start.0;
        while at < end.0 {
            let Some((_, walk)) = walker.carrier.both(pagemap, VirtAddr(at))? else {
                break;
            };
            let ended = walk.end;
            let (level, empty) =
                ended.map_or((Level::Pte, false), |e| (e.level, e.entry == Entry(0)));
            // A page table, or a huge page: the block is looked into.
            let shift = level.max(Level::Pmd).shift();
            let next = ((at >> shift) + 1).saturating_mul(1 << shift).min(end.0);
            if level == Level::Pte || !empty {
                match parts.last_mut() {
                    Some(last) if last.end == at => last.end = next,
                    _ => parts.push(Part {
                        start: at,
                        end: next,
                    }),
                }
            }
            at = next;
        }
        Ok(parts)
    }

    /// Pages that hold nothing, from `start` up to `end`.
    fn absent(&self, start: u64, end: u64, sink: Sink<'_>) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        sink(
            self.decoder.page(VirtAddr(start), None, None),
            (end - start) / PAGE_SIZE,
        )
    }

    /// Reads a populated part, some blocks at a time.
    fn part(&mut self, pagemap: &Pagemap, part: Part, sink: Sink<'_>) -> Result<bool> {
        let mut at = part.start;
        while at < part.end {
            let limit = (at & !(BLOCK_BYTES - 1)).saturating_add(BLOCKS as u64 * BLOCK_BYTES);
            let end = part.end.min(limit);
            self.pages.clear();
            let alive = match self.route {
                Route::Walk => self.read_by_walk(pagemap, at, end)?,
                _ => self.read_words(pagemap, at, end)?,
            };
            if !alive {
                return Ok(false);
            }
            self.settle(pagemap)?;
            self.add_frames()?;
            for page in &self.pages {
                sink(*page, 1)?;
            }
            at = end;
        }
        Ok(true)
    }

    /// Fills `pages` from pagemap's words, with the walk beside them where it is asked for.
    fn read_words(&mut self, pagemap: &Pagemap, start: u64, end: u64) -> Result<bool> {
        let Self {
            walker,
            decoder,
            words,
            pages,
            ..
        } = self;
        let want = usize::try_from((end - start) / PAGE_SIZE)?;
        let words = words.get_mut(..want).context("too many pages at a time")?;
        let before = usize::try_from(start / PAGE_SIZE)? % BLOCK_PAGES;
        let n = match walker {
            Some(walker) => {
                let blocks = (before + want).div_ceil(BLOCK_PAGES);
                walker
                    .carrier
                    .tables(pagemap, VirtAddr(start), blocks, words)?
            }
            None => pagemap.read_words(VirtAddr(start), words)?,
        };
        for (i, word) in words.iter().take(n).enumerate() {
            let va = VirtAddr(start + i as u64 * PAGE_SIZE);
            let place = before + i;
            // A block that the walk did not come by is asked again, page by page: see `settle`.
            let walked = walker.as_ref().map(|walker| {
                let table = walker.carrier.table(place / BLOCK_PAGES);
                table.and_then(|table| entry_of(table, place % BLOCK_PAGES))
            });
            let word = PagemapWord(*word);
            pages.push(match walked {
                Some(Some(walked)) => decoder.page(va, Some(word), Some(walked)),
                Some(None) => Page {
                    verdict: Verdict::Disagree,
                    ..decoder.page(va, Some(word), None)
                },
                None => decoder.page(va, Some(word), None),
            });
        }
        Ok(n == want)
    }

    /// Fills `pages` from the page tables alone: a read of one word brings a whole table.
    fn read_by_walk(&mut self, pagemap: &Pagemap, start: u64, end: u64) -> Result<bool> {
        let Self {
            walker,
            decoder,
            pages,
            ..
        } = self;
        let carrier = &mut walker.as_mut().context("there is no walk")?.carrier;
        let mut at = start;
        while at < end {
            let block_end = ((at & !(BLOCK_BYTES - 1)) + BLOCK_BYTES).min(end);
            let mut word = [0];
            if carrier.tables(pagemap, VirtAddr(at), 1, &mut word)? == 0 {
                return Ok(false);
            }
            for va in (at..block_end).step_by(usize::try_from(PAGE_SIZE)?) {
                let index = usize::try_from(va / PAGE_SIZE)? % BLOCK_PAGES;
                let walked = carrier.table(0).and_then(|table| entry_of(table, index));
                pages.push(decoder.page(VirtAddr(va), None, walked));
            }
            at = block_end;
        }
        Ok(true)
    }

    /// Asks again about pages on which the routes differ.
    fn settle(&mut self, pagemap: &Pagemap) -> Result<()> {
        let Self {
            walker: Some(walker),
            decoder,
            pages,
            ..
        } = self
        else {
            return Ok(());
        };
        for page in pages
            .iter_mut()
            .filter(|page| page.verdict == Verdict::Disagree)
        {
            for _ in 0..RETRIES {
                let Some((word, walk)) = walker.carrier.both(pagemap, page.va)? else {
                    return Ok(());
                };
                let Some(end) = walk.end else { continue };
                let walked = (end.level, end.entry);
                let again = decoder.page(page.va, Some(word), Some(walked));
                if again.verdict == Verdict::Agree {
                    *page = Page {
                        verdict: Verdict::Moved,
                        ..again
                    };
                    break;
                }
                *page = decoder.settle(again, word, walked);
                if matches!(page.state, PageState::Device { .. }) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Adds what is known of the frames.
    fn add_frames(&mut self) -> Result<()> {
        let Self {
            flags,
            nodes,
            pages,
            ..
        } = self;
        for page in pages.iter_mut() {
            page.node = page.pfn().and_then(|pfn| nodes.of(pfn));
        }
        let Some(flags) = flags else { return Ok(()) };
        let mut order: Vec<(Pfn, usize)> = pages
            .iter()
            .enumerate()
            .filter_map(|(i, page)| Some((page.frame_to_ask()?, i)))
            .collect();
        order.sort_unstable();
        let frames: Vec<Pfn> = order.iter().map(|(pfn, _)| *pfn).collect();
        let mut found: Vec<(Pfn, FrameFlags)> = Vec::with_capacity(frames.len());
        flags.of(&frames, |pfn, flags| found.push((pfn, flags)))?;
        let mut found = found.into_iter().peekable();
        for (pfn, i) in order {
            // Frames beyond the end of memory have no flags.
            if let Some((_, flags)) = found.next_if(|(of, _)| *of == pfn)
                && let Some(page) = pages.get_mut(i)
            {
                page.add_frame(flags);
            }
        }
        Ok(())
    }
}

impl Walker {
    fn new() -> Result<(Self, v2p_common::pte::Paging)> {
        let mut programs = Programs::load(&kernel::layout::learn()?)?;
        let mut carrier = Carrier::new(&mut programs)?;
        let paging = kernel::direct_map::learn(&mut carrier)?.paging;
        Ok((
            Self {
                carrier,
                _programs: programs,
            },
            paging,
        ))
    }
}

/// The entry for page `index` of a block, and its level; `None`: the tables could not be read.
fn entry_of(table: &Table, index: usize) -> Option<(Level, Entry)> {
    if table.level == 0 {
        return Some((Level::Pte, Entry(*table.entries.get(index)?)));
    }
    let level = Level::from_u32(u32::try_from(table.level).ok()?)?;
    Some((level, Entry(table.entry)))
}
