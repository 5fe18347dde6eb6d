//! Reading pagemap for the ledger: what is populated in some ranges, mapping by mapping.

use std::ops::Range as Span;

use anyhow::Result;
use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, VirtAddr,
    pagemap::{PagemapState, PagemapWord},
};

use crate::{
    process::{
        Pagemap,
        maps::{Mapping, Range},
    },
    translate::parts::Scanner,
};

/// Pages that are handed over at a time.
const CHUNK: u64 = 1 << 14;

/// Hands what lies in `ranges` to `each`, by page numbers: spans that follow each other without a hole, each with the words of
/// its pages that are not absent. False: the address space is gone, and what was handed over may not be all.
///
/// # Errors
/// Those of the read.
pub(super) fn read(
    pagemap: &Pagemap,
    scanner: &mut Scanner,
    mappings: &[Mapping],
    ranges: &[Span<u64>],
    mut each: impl FnMut(Span<u64>, &[(u64, PagemapWord)]),
) -> Result<bool> {
    let mut words = Vec::new();
    for range in ranges {
        let mut at = range.start;
        for mapping in mappings {
            let start = (mapping.start >> PAGE_SHIFT).max(at);
            let end = (mapping.end >> PAGE_SHIFT).min(range.end);
            if start >= end {
                continue;
            }
            let mut parts = Vec::new();
            let scanned = scanner.scan(pagemap, address(start), address(end), |part| {
                parts.push(part.start >> PAGE_SHIFT..part.end >> PAGE_SHIFT);
                Ok(())
            })?;
            if !scanned {
                parts = vec![start..end];
            }
            for part in parts {
                let mut first = part.start;
                while first < part.end {
                    let chunk = first..(first + CHUNK).min(part.end);
                    first = chunk.end;
                    words.clear();
                    pagemap.words(address(chunk.start), address(chunk.end), |va, word| {
                        // Bit 55, soft-dirty, is set for untouched pages too.
                        if word.state() != PagemapState::Absent {
                            words.push((va.page_number(), word));
                        }
                    })?;
                    each(at..chunk.end, &words);
                    at = chunk.end;
                }
            }
        }
        each(at..range.end, &[]);
    }
    // After an exec or the end, maps are another program's or none, and pagemap gives nothing: that is
    // no page's absence.
    Ok(pagemap.word(VirtAddr(PAGE_SIZE))?.is_some())
}

const fn address(page: u64) -> VirtAddr {
    VirtAddr(page << PAGE_SHIFT)
}

/// The pages that are asked about, by number.
pub(super) fn pages_of(asked: &[Range], all: Span<u64>) -> Vec<Span<u64>> {
    if asked.is_empty() {
        return vec![all];
    }
    let mut spans: Vec<_> = asked
        .iter()
        .map(|r| r.start >> PAGE_SHIFT..r.end.div_ceil(PAGE_SIZE))
        .collect();
    spans.sort_by_key(|span| span.start);
    spans
}
