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
    settle::{settle, walk_alone},
};
use crate::{
    bpf::Programs,
    carrier::Carrier,
    doctor,
    exit::Failure,
    kernel, page,
    process::{FlagsFile, FrameFlags, Nodes, Pagemap, maps::Mapping},
    state::PageState,
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
/// A chunk with fewer pages than one in so many is sparse: what follows is scanned first.
const SPARSE: u64 = 16;
/// Bytes from which on it pays to step over empty tables instead of reading through them.
const STEP_FROM: u64 = 64 << 20;
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

    /// Hands every page of `mapping` to `sink`, in order: the first of some that are alike and lie one after the other, and
    /// their number. Pages that were not looked at because nothing is there come as
    /// absent ones. False: the address space is gone.
    ///
    /// # Errors
    /// Those of the reading and of `sink`; also where [`Self::can_tell`] says no.
    pub fn mapping<F>(&mut self, pagemap: &Pagemap, mapping: &Mapping, sink: &mut F) -> Result<bool>
    where
        F: FnMut(Page, u64) -> Result<()>,
    {
        if mapping.is_kernels() {
            return self.kernel_half(pagemap, mapping, sink);
        }
        let mut at = mapping.start;
        // As long as there is much to read, it is read; a scan of it all would only come on top.
        while at < mapping.end {
            let end = next_chunk(at).min(mapping.end);
            let mut populated = 0;
            let alive = self.part(
                pagemap,
                Part { start: at, end },
                &mut |page: Page, pages| {
                    populated += if page.state == PageState::Absent {
                        0
                    } else {
                        pages
                    };
                    sink(page, pages)
                },
            )?;
            if !alive {
                return Ok(false);
            }
            let sparse = populated * SPARSE < (end - at) / PAGE_SIZE;
            at = end;
            if sparse {
                break;
            }
        }
        let parts = self.parts(pagemap, mapping, at)?;
        // Where nothing was found since the address space is gone, that is no page's absence.
        if at < mapping.end && pagemap.word(VirtAddr(at))?.is_none() {
            return Ok(false);
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

    /// The populated parts of `mapping` from `at` on.
    fn parts(&mut self, pagemap: &Pagemap, mapping: &Mapping, at: u64) -> Result<Vec<Part>> {
        let (start, end) = (VirtAddr(at), VirtAddr(mapping.end));
        let mut parts = Vec::new();
        if at >= mapping.end {
            return Ok(parts);
        }
        let scanned = !mapping.may_hide_frames()
            && self.scanner.scan(pagemap, start, end, |part| {
                parts.push(part);
                Ok(())
            })?;
        if scanned {
            Ok(parts)
        } else {
            self.step(pagemap, start, end)
        }
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
    fn absent<F>(&self, start: u64, end: u64, sink: &mut F) -> Result<()>
    where
        F: FnMut(Page, u64) -> Result<()>,
    {
        if start >= end {
            return Ok(());
        }
        sink(
            self.decoder.page(VirtAddr(start), None, None),
            (end - start) / PAGE_SIZE,
        )
    }

    /// Reads a populated part, some blocks at a time.
    fn part<F>(&mut self, pagemap: &Pagemap, part: Part, sink: &mut F) -> Result<bool>
    where
        F: FnMut(Page, u64) -> Result<()>,
    {
        let mut at = part.start;
        while at < part.end {
            let end = part.end.min(next_chunk(at));
            let alive = if self.flags.is_none() && self.nodes.is_single() {
                self.read(pagemap, at, end, &mut |page| sink(page, 1))?
            } else {
                let mut pages = std::mem::take(&mut self.pages);
                pages.clear();
                let alive = self.read(pagemap, at, end, &mut |page| {
                    pages.push(page);
                    Ok(())
                })?;
                self.add_frames(&mut pages)?;
                for page in &pages {
                    sink(*page, 1)?;
                }
                self.pages = pages;
                alive
            };
            if !alive {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Hands the pages of at most [`BLOCKS`] blocks to `each`, by the route. False: the address space is gone.
    fn read<F>(&mut self, pagemap: &Pagemap, start: u64, end: u64, each: &mut F) -> Result<bool>
    where
        F: FnMut(Page) -> Result<()>,
    {
        let Self {
            walker,
            decoder,
            words,
            route,
            ..
        } = self;
        let block_of = |va: u64| va & !(BLOCK_BYTES - 1);
        let by_walk = *route == Route::Walk;
        // A read of one word brings a whole table, so the walk alone asks for a block at a time.
        let mut read = 0;
        if !by_walk {
            let want = usize::try_from((end - start) / PAGE_SIZE)?;
            let words = words.get_mut(..want).context("too many pages at a time")?;
            let blocks = usize::try_from((end - block_of(start)).div_ceil(BLOCK_BYTES))?;
            read = match walker {
                Some(walker) => walker
                    .carrier
                    .tables(pagemap, VirtAddr(start), blocks, words)?,
                None => pagemap.read_words(VirtAddr(start), words)?,
            };
            if read == 0 {
                return Ok(false);
            }
        }
        let mut at = start;
        let mut words = words.get(..read).unwrap_or_default();
        for block in 0..BLOCKS {
            if at >= end {
                break;
            }
            let block_end = (block_of(at) + BLOCK_BYTES).min(end);
            if by_walk {
                let carrier = &mut walker.as_mut().context("there is no walk")?.carrier;
                if carrier.tables(pagemap, VirtAddr(at), 1, &mut [0])? == 0 {
                    return Ok(false);
                }
            }
            let index = if by_walk { 0 } else { block };
            // A copy, so that the carrier can be asked again about single pages.
            let table = walker
                .as_ref()
                .map(|walker| walker.carrier.table(index).copied());
            let pages = usize::try_from((block_end - at) / PAGE_SIZE)?;
            let (now, later) = words.split_at(pages.min(words.len()));
            words = later;
            if !by_walk && now.len() < pages {
                return Ok(false);
            }
            let first = usize::try_from(at / PAGE_SIZE)? % BLOCK_PAGES;
            for i in 0..pages {
                let va = VirtAddr(at + i as u64 * PAGE_SIZE);
                let word = now.get(i).copied().map(PagemapWord);
                let entry = match &table {
                    Some(Some(Table {
                        level: 0, entries, ..
                    })) => entries.get(first + i).copied(),
                    _ => None,
                };
                if let Some(page) = decoder.plain(va, word, entry, table.is_some()) {
                    each(page)?;
                    continue;
                }
                let walked = table
                    .as_ref()
                    .map(|table| entry_of(table.as_ref()?, first + i));
                let compared = walked.is_some_and(|walked| walked.is_some());
                let page = decoder.page(va, word, walked.flatten());
                // Also where the kernel did not come by this block with the lock, or its tables could not be read.
                let unsure = page.verdict == Verdict::Disagree || !compared;
                let page = match walker {
                    Some(walker) if unsure && by_walk => {
                        walk_alone(va, &mut walker.carrier, decoder, pagemap)?
                    }
                    Some(walker) if unsure => {
                        settle(page, compared, &mut walker.carrier, decoder, pagemap)?
                    }
                    _ => Some(page),
                };
                let Some(page) = page else { return Ok(false) };
                each(page)?;
            }
            at = block_end;
        }
        Ok(true)
    }

    /// Adds what is known of the frames.
    fn add_frames(&mut self, pages: &mut [Page]) -> Result<()> {
        let Self { flags, nodes, .. } = self;
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

/// Where the chunk ends that holds `at`.
const fn next_chunk(at: u64) -> u64 {
    (at & !(BLOCK_BYTES - 1)).saturating_add(BLOCKS as u64 * BLOCK_BYTES)
}

impl Walker {
    fn new() -> Result<(Self, v2p_common::pte::Paging)> {
        doctor::tracing::require_programs()?;
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
