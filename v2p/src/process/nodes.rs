//! Which NUMA node a frame belongs to (/proc/zoneinfo).

use std::fs;

use v2p_common::Pfn;

use crate::kernel::zones;

/// Frames of the nodes, where there are several.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nodes {
    /// Node, first frame, end (excluded), of every zone.
    zones: Vec<(u32, u64, u64)>,
}

impl Nodes {
    /// Reads them; none where there is one node, or /proc/zoneinfo cannot be read.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string(zones::PATH).unwrap_or_default())
    }

    pub(crate) fn parse(text: &str) -> Self {
        let zones: Vec<_> = zones::parse(text)
            .into_iter()
            .map(|zone| (zone.node, zone.start, zone.end))
            .collect();
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

    /// The node of `pfn`, where there are several. What zones span may overlap, where the nodes' memory is interleaved: then
    /// it cannot be told.
    pub fn of(&self, pfn: Pfn) -> Option<u32> {
        let holds = |(_, start, end): &&(u32, u64, u64)| (*start..*end).contains(&pfn.0);
        let mut nodes = self.zones.iter().filter(holds).map(|(node, ..)| *node);
        let first = nodes.next()?;
        nodes.all(|node| node == first).then_some(first)
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
    fn a_frame_that_two_nodes_span_has_none() {
        let two = format!(
            "{ONE}Node 1, zone   Normal\n        spanned  50\n  start_pfn:           100\n"
        );
        let nodes = Nodes::parse(&two);
        let told = [99, 100, 109, 110].map(|pfn| nodes.of(Pfn(pfn)));
        assert_eq!(told, [Some(0), None, None, Some(1)]);
    }

    #[test]
    fn one_node_is_not_worth_telling() {
        assert_eq!(Nodes::parse(ONE), Nodes::default());
        assert_eq!(Nodes::parse("nonsense\nNode x\n"), Nodes::default());
    }
}
