//! Which NUMA node a frame belongs to (/proc/zoneinfo).

use std::fs;

use v2p_common::Pfn;

/// Frames of the nodes, where there are several.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nodes {
    /// Node, first frame, end (excluded), of every zone.
    zones: Vec<(u32, u64, u64)>,
}

impl Nodes {
    /// Reads them; none where there is one node, or /proc/zoneinfo cannot be read.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/zoneinfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut zones = Vec::new();
        let (mut node, mut spanned) = (None, None);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("Node"), Some(n)) => {
                    node = n.trim_end_matches(',').parse::<u32>().ok();
                    spanned = None;
                }
                (Some("spanned"), Some(n)) => spanned = n.parse::<u64>().ok(),
                (Some("start_pfn:"), Some(n)) => {
                    if let (Some(node), Some(spanned), Ok(start)) =
                        (node, spanned, n.parse::<u64>())
                    {
                        zones.push((node, start, start.saturating_add(spanned)));
                    }
                }
                _ => {}
            }
        }
        let several = zones
            .iter()
            .any(|(node, ..)| Some(node) != zones.first().map(|(first, ..)| first));
        Self {
            zones: if several { zones } else { Vec::new() },
        }
    }

    /// Whether there is one node only.
    pub const fn is_single(&self) -> bool {
        self.zones.is_empty()
    }

    /// The node of `pfn`, where there are several.
    pub fn of(&self, pfn: Pfn) -> Option<u32> {
        let holds = |(_, start, end): &&(u32, u64, u64)| (*start..*end).contains(&pfn.0);
        self.zones.iter().find(holds).map(|(node, ..)| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "Node 0, zone    DMA32\n  pages free     1\n        spanned  100\n  start_pfn:           10\n";

    #[test]
    fn a_frame_has_the_node_whose_zone_spans_it() {
        let two = format!(
            "{ONE}Node 1, zone   Normal\n        spanned  50\n  start_pfn:           110\n"
        );
        let nodes = Nodes::parse(&two);
        assert_eq!(nodes.of(Pfn(10)), Some(0));
        assert_eq!(nodes.of(Pfn(110)), Some(1));
        assert_eq!(nodes.of(Pfn(160)), None);
    }

    #[test]
    fn one_node_is_not_worth_telling() {
        assert_eq!(Nodes::parse(ONE), Nodes::default());
        assert_eq!(Nodes::parse("nonsense\nNode x\n"), Nodes::default());
    }
}
