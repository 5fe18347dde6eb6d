//! The walk: page tables copied by the carrier.

use anyhow::{Context as _, Result};
use v2p_common::{
    PAGE_SIZE, VirtAddr,
    control::{BLOCK_BYTES, BLOCK_PAGES},
    pte::{Entry, Level, Paging},
};

use super::{block::Walked, parts::Part};
use crate::{bpf::Programs, carrier::Carrier, doctor, kernel, process::Pagemap};

/// Walks page tables.
pub(super) struct Walker {
    pub(super) carrier: Carrier,
    /// Keeps the programs attached.
    _programs: Programs,
}

/// Populated parts, and where to go on.
pub(super) struct Step {
    pub(super) parts: Vec<Part>,
    pub(super) next: u64,
}

impl Walker {
    /// Loads the programs, and learns how this kernel's tables are laid out.
    ///
    /// # Errors
    /// Exit code 3 where there can be no walk here.
    pub(super) fn new() -> Result<(Self, Paging)> {
        doctor::tracing::require_programs()?;
        let mut programs = Programs::load_to_ask(&kernel::layout::learn()?)?;
        let mut carrier = Carrier::new(&mut programs)?;
        let paging = crate::direct_map::learn(&mut carrier)?.paging;
        let walker = Self {
            carrier,
            _programs: programs,
        };
        Ok((walker, paging))
    }

    /// Copies the tables of the blocks from `start` up to `end`, at most
    /// [`AT_ONCE`](v2p_common::control::AT_ONCE). False: the address space is gone.
    pub(super) fn copy(&mut self, pagemap: &Pagemap, start: u64, end: u64) -> Result<bool> {
        self.carrier
            .tables_at_once(pagemap, VirtAddr(start), blocks(start, end)?)
    }

    /// What the last request brought for `pages` pages from `start` on, which lie in its block `index`.
    pub(super) fn walked(&self, index: usize, start: VirtAddr, pages: usize) -> Walked<'_> {
        let first = usize::try_from(start.page_number()).map_or(0, |n| n % BLOCK_PAGES);
        Walked::of(self.carrier.table(index), first, pages)
    }

    /// Which blocks between `at` and `end` have anything in them, as far as one page middle directory tells, or an empty
    /// entry above it. `None`: the address space is gone.
    pub(super) fn step(&mut self, pagemap: &Pagemap, at: u64, end: u64) -> Result<Option<Step>> {
        if !self.carrier.directory(pagemap, VirtAddr(at))? {
            return Ok(None);
        }
        let span = |level: Level| {
            let shift = level.shift();
            ((at >> shift) + 1).saturating_mul(1 << shift).min(end)
        };
        let whole = |next| Step {
            parts: vec![Part {
                start: at,
                end: next,
            }],
            next,
        };
        let Some(table) = self.carrier.table(0) else {
            // The kernel did not come by: the next block is looked into.
            return Ok(Some(whole(span(Level::Pmd))));
        };
        if table.level != 0 {
            let level = u32::try_from(table.level).ok().and_then(Level::from_u32);
            return Ok(Some(match level {
                Some(level) if Entry(table.entry) == Entry(0) => Step {
                    parts: Vec::new(),
                    next: span(level),
                },
                Some(level) => whole(span(level)),
                None => whole(span(Level::Pmd)),
            }));
        }
        let next = span(Level::Pud);
        let mut parts: Vec<Part> = Vec::new();
        let first = usize::try_from(Level::Pmd.index(VirtAddr(at)))?;
        let mut start = at;
        for entry in table.entries.iter().skip(first) {
            let end = (block_of(start) + BLOCK_BYTES).min(next);
            if *entry != 0 && start < end {
                match parts.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => parts.push(Part { start, end }),
                }
            }
            start = end;
        }
        Ok(Some(Step { parts, next }))
    }
}

/// The start of the block that holds `va`.
pub(super) const fn block_of(va: u64) -> u64 {
    va & !(BLOCK_BYTES - 1)
}

/// Blocks that the addresses from `start` up to `end` lie in.
pub(super) fn blocks(start: u64, end: u64) -> Result<usize> {
    usize::try_from((end - block_of(start)).div_ceil(BLOCK_BYTES)).context("too many blocks")
}

/// Pages from `start` up to `end`.
pub(super) fn pages(start: u64, end: u64) -> Result<usize> {
    usize::try_from((end - start) / PAGE_SIZE).context("too many pages")
}
