//! /proc/zoneinfo: which frames each zone of each NUMA node spans.

use std::fs;

use v2p_common::{PAGE_SHIFT, PHYSICAL_BITS};

/// The file.
pub const PATH: &str = "/proc/zoneinfo";

/// Frames that x86-64 can address at most.
const FRAMES: u64 = 1 << (PHYSICAL_BITS - PAGE_SHIFT);

/// A zone of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// The NUMA node.
    pub node: u32,
    /// The kernel's name for it: `DMA`, `DMA32`, `Normal`, `Movable`.
    pub name: String,
    /// First frame.
    pub start: u64,
    /// End of what it spans, excluded; holes may lie in between.
    pub end: u64,
}

/// All zones that span anything, in the file's order; none where it cannot be read.
pub fn read() -> Vec<Zone> {
    parse(&fs::read_to_string(PATH).unwrap_or_default())
}

/// Zones from the file's text.
pub(crate) fn parse(text: &str) -> Vec<Zone> {
    let mut zones = Vec::new();
    let (mut zone, mut spanned) = (None, None);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Node"), Some(n)) => {
                let node = n.trim_end_matches(',').parse::<u32>().ok();
                zone = node.zip(words.nth(1).map(str::to_owned));
                spanned = None;
            }
            (Some("spanned"), Some(n)) => spanned = n.parse::<u64>().ok(),
            (Some("start_pfn:"), Some(n)) => {
                if let (Some((node, name)), Some(spanned), Ok(start)) =
                    (zone.take(), spanned, n.parse::<u64>())
                    && spanned > 0
                    && let end = start.saturating_add(spanned)
                    && end <= FRAMES
                {
                    zones.push(Zone {
                        node,
                        name,
                        start,
                        end,
                    });
                }
            }
            _ => {}
        }
    }
    zones
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_that_span_nothing_are_left_out() {
        let text = "Node 0, zone    DMA32\n  pages free     1\n        spanned  100\n  start_pfn:           10\n\
                    Node 0, zone  Movable\n        spanned  0\n  start_pfn:           0\n\
                    Node 1, zone   Normal\n  per-node stats\n        spanned  5\n  start_pfn:           110\n";
        let found: Vec<_> = parse(text)
            .into_iter()
            .map(|z| (z.node, z.name, z.start, z.end))
            .collect();
        assert_eq!(
            found,
            [
                (0, "DMA32".to_owned(), 10, 110),
                (1, "Normal".to_owned(), 110, 115)
            ]
        );
        assert!(parse("nonsense\nNode x\n").is_empty());
    }
}
