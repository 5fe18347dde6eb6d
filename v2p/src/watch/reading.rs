//! Reading pagemap for the ledger: what is populated in some ranges, mapping by mapping.

use std::ops::Range as Span;

use anyhow::Result;
use v2p_common::{
    PAGE_SHIFT, PAGE_SIZE, PageSize, VirtAddr,
    pagemap::{PagemapState, PagemapWord},
};

use crate::{
    process::{
        Pagemap,
        maps::{Mapping, Range, USER_END, whole_leaves},
    },
    translate::parts::Scanner,
};

/// Pages that are handed over at a time.
const CHUNK: u64 = 1 << 14;

/// Hands what lies in `ranges` to `each`, by page numbers: spans that follow each other without a hole, each with the words of
/// its pages that are not absent; what was not read, since nothing is there, as spans of their own. False: the address space is gone, and what was handed over may not be all.
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
        let first = mappings.partition_point(|m| m.end >> PAGE_SHIFT <= range.start);
        for mapping in mappings.get(first..).unwrap_or_default() {
            if mapping.start >> PAGE_SHIFT >= range.end {
                break;
            }
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
                    if at < chunk.start {
                        each(at..chunk.start, &[]);
                    }
                    at = chunk.end;
                    each(chunk, &words);
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

/// The smallest span that holds all ranges, in whole pages of the largest size. Everything where there are none.
pub fn span(ranges: &[Range]) -> Span<u64> {
    let start = ranges.iter().map(|r| r.start).min().unwrap_or(0);
    let end = ranges.iter().map(|r| r.end).max().unwrap_or(USER_END);
    whole_leaves(start..end, PageSize::Pud)
}

/// The parts that two lists of spans, each in order and apart, have in common.
pub(super) fn common(a: &[Span<u64>], b: &[Span<u64>]) -> Vec<Span<u64>> {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    pairs
        .map(|(a, b)| a.start.max(b.start)..a.end.min(b.end))
        .filter(|span| span.start < span.end)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_holds_all_ranges() {
        let ranges = [
            Range {
                start: 0x5000,
                end: 0x6000,
            },
            Range {
                start: 0x1000,
                end: 0x2000,
            },
        ];
        assert_eq!(span(&ranges), 0..1 << 30);
        assert_eq!(span(&[]), 0..USER_END);
    }

    #[test]
    fn the_common_parts_of_two_lists_are_found() {
        assert_eq!(
            common(&[0..10, 20..30], &[5..25, 29..40]),
            [5..10, 20..25, 29..30]
        );
        assert!(common(&[0..10], &[10..20]).is_empty());
    }
}
