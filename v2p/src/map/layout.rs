//! Where on a picture a frame lies. Pure.
//!
//! Each zone is a panel of squares, row by row in the order of their addresses; in a square its frames follow a Hilbert
//! curve, so that neighbours in memory are neighbours in the picture and a large page is a square.

use std::ops::Range as Span;

use super::hilbert::hilbert;
use crate::kernel::zones::Zone;

/// Width of a panel, in pixels.
pub const WIDTH: u32 = 1024;
/// The squares of all panels are together no higher, unless memory is all holes.
const HEIGHT: u64 = 1000;
/// Edges that a square can have, in pixels, the best first.
const EDGES: [u32; 3] = [32, 16, 8];
/// Frames of a square, at least: a page of 2 MiB.
const SQUARE: u64 = 512;
/// Edge of the smallest cell in a square, in pixels.
const CELL: u32 = 2;
/// Height of what stands for rows without any memory.
const GAP: u32 = 10;
/// Height of a panel's heading, and of the room below it.
const HEADING: u32 = 20;
const ROOM: u32 = 16;

/// A picture's geometry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Edge of a square, in pixels.
    pub edge: u32,
    /// Frames of a square.
    pub square: u64,
    /// Squares of a row.
    pub columns: u64,
    /// The zones.
    pub panels: Vec<Panel>,
}

/// One zone's part of the picture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Panel {
    /// The zone.
    pub zone: Zone,
    /// Rows that have any memory: their number, counted from frame 0, and where they begin, in pixels from the top.
    pub rows: Vec<(u64, u32)>,
    /// Where its heading begins, in pixels from the top.
    pub top: u32,
    /// The number of its first row among those of all panels.
    first: u64,
}

/// A rectangle, in pixels from the panels' left edge and the top.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// From the left.
    pub x: u32,
    /// From the top.
    pub y: u32,
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}

impl Layout {
    /// Lays out `zones`. `ram`: the frames that are memory; none: unknown, all are taken for it.
    pub fn new(mut zones: Vec<Zone>, ram: &[Span<u64>]) -> Self {
        zones.sort_by_key(|zone| zone.start);
        let mut square = SQUARE;
        loop {
            for edge in EDGES {
                let columns = u64::from(WIDTH / edge);
                let rows = |zone: &Zone| rows_of(zone, ram, columns * square).len() as u64;
                let height: u64 = zones.iter().map(rows).sum::<u64>() * u64::from(edge);
                let is_last = Some(&edge) == EDGES.last();
                if height <= HEIGHT || is_last && square >= 1 << 40 {
                    return Self::of(zones, ram, edge, square);
                }
            }
            square *= 2;
        }
    }

    fn of(zones: Vec<Zone>, ram: &[Span<u64>], edge: u32, square: u64) -> Self {
        let columns = u64::from(WIDTH / edge);
        let (mut y, mut first) = (0, 0);
        let panels = zones.into_iter().map(|zone| {
            let top = y;
            y += HEADING;
            let mut rows = Vec::new();
            let mut last = None;
            for row in rows_of(&zone, ram, columns * square) {
                if last.is_some_and(|last| last + 1 < row) {
                    y += GAP;
                }
                rows.push((row, y));
                y += edge;
                last = Some(row);
            }
            y += ROOM;
            let panel = Panel {
                zone,
                top,
                first,
                rows,
            };
            first += panel.rows.len() as u64;
            panel
        });
        let panels = panels.collect();
        Self {
            edge,
            square,
            columns,
            panels,
        }
    }

    /// Where the last panel ends.
    pub fn height(&self) -> u32 {
        let ends = self.panels.iter().map(|panel| match panel.rows.last() {
            Some((_, y)) => y + self.edge + ROOM,
            None => panel.top + HEADING + ROOM,
        });
        ends.max().unwrap_or(0)
    }

    /// Bytes of a row.
    pub const fn row_bytes(&self) -> u64 {
        self.columns * self.square * v2p_common::PAGE_SIZE
    }

    /// How often a square is cut into four until there are the smallest cells.
    pub const fn depth(&self) -> u32 {
        (self.edge / CELL).trailing_zeros()
    }

    /// Frames of a smallest cell: a power of two.
    pub const fn cell_frames(&self) -> u64 {
        self.square >> (2 * self.depth())
    }

    /// The number of the smallest cell that holds a frame: cells of one square follow each other. None where no zone spans
    /// it.
    pub fn cell_of(&self, pfn: u64) -> Option<u64> {
        let square = self.square_of(pfn)?;
        let inside = pfn % self.square / self.cell_frames();
        Some(square << (2 * self.depth()) | inside)
    }

    /// Where a cell lies whose edge is 2^`coarse` smallest cells: `cell` is the number of any of these.
    pub fn place(&self, cell: u64, coarse: u32) -> Option<Place> {
        let depth = self.depth();
        let square = self.square_at(cell >> (2 * depth))?;
        let inside = cell & ((1 << (2 * depth)) - 1);
        let edge = CELL << coarse;
        let (x, y) = hilbert(inside >> (2 * coarse), depth - coarse);
        Some(Place {
            x: square.x + x * edge,
            y: square.y + y * edge,
            w: edge,
            h: edge,
        })
    }

    /// Where `frames` frames from `pfn` on lie, whose number is a power of two to which `pfn` is aligned: a large page.
    /// Where that is not one rectangle, several.
    pub fn block(&self, pfn: u64, frames: u64) -> Vec<Place> {
        if frames < self.square {
            let coarse = (frames / self.cell_frames()).checked_ilog2().unwrap_or(0) / 2;
            let cell = self.cell_of(pfn);
            return cell
                .and_then(|cell| self.place(cell, coarse))
                .into_iter()
                .collect();
        }
        let mut places: Vec<Place> = Vec::new();
        for first in (pfn..pfn.saturating_add(frames)).step_by(usize_of(self.square)) {
            let Some(next) = self.square_of(first).and_then(|s| self.square_at(s)) else {
                continue;
            };
            match places.last_mut() {
                Some(last) if last.y == next.y && last.x + last.w == next.x => last.w += next.w,
                _ => places.push(next),
            }
        }
        places
    }

    /// The middle of the cell that holds a frame.
    pub fn middle(&self, pfn: u64) -> Option<(u32, u32)> {
        let place = self.place(self.cell_of(pfn)?, 0)?;
        Some((place.x + place.w / 2, place.y + place.h / 2))
    }

    /// The zone that spans a frame: the first, where several do.
    pub fn panel_of(&self, pfn: u64) -> Option<&Panel> {
        let holds = |panel: &&Panel| (panel.zone.start..panel.zone.end).contains(&pfn);
        self.panels.iter().find(holds)
    }

    /// `pfn` itself where a zone spans it, else where the next zone begins; none: there is none.
    pub fn next_zone(&self, pfn: u64) -> Option<u64> {
        let ahead = self.panels.iter().filter(|panel| panel.zone.end > pfn);
        ahead.map(|panel| panel.zone.start.max(pfn)).min()
    }

    /// Whether zones overlap: then the node of a frame in both is not known.
    pub fn overlaps(&self) -> bool {
        let pairs = self.panels.windows(2);
        pairs
            .filter_map(|pair| Some((pair.first()?, pair.get(1)?)))
            .any(|(a, b)| a.zone.end > b.zone.start)
    }

    /// The rectangles of the frames in `span` of a panel, square by square: neighbours are one.
    pub fn squares(&self, panel: &Panel, span: Span<u64>) -> Vec<Place> {
        let start = span.start.max(panel.zone.start);
        let end = span.end.min(panel.zone.end);
        let mut places = Vec::new();
        for (row, y) in &panel.rows {
            let row_start = row * self.columns * self.square;
            let row_end = row_start + self.columns * self.square;
            let (start, end) = (start.max(row_start), end.min(row_end));
            if start < end {
                let first = (start - row_start) / self.square;
                let last = (end - row_start).div_ceil(self.square);
                places.push(Place {
                    x: pixels(first) * self.edge,
                    y: *y,
                    w: pixels(last - first) * self.edge,
                    h: self.edge,
                });
            }
        }
        places
    }

    /// The number of the square that holds a frame, among those of all panels.
    fn square_of(&self, pfn: u64) -> Option<u64> {
        let panel = self.panel_of(pfn)?;
        let per_row = self.columns * self.square;
        let row = pfn / per_row;
        let at = panel
            .rows
            .binary_search_by_key(&row, |(row, _)| *row)
            .ok()?;
        let column = pfn % per_row / self.square;
        Some((panel.first + at as u64) * self.columns + column)
    }

    fn square_at(&self, square: u64) -> Option<Place> {
        let (row, column) = (square / self.columns, square % self.columns);
        let after = self.panels.partition_point(|panel| panel.first <= row);
        let panel = self.panels.get(after.checked_sub(1)?)?;
        let (_, y) = panel.rows.get(usize_of(row - panel.first))?;
        Some(Place {
            x: pixels(column) * self.edge,
            y: *y,
            w: self.edge,
            h: self.edge,
        })
    }
}

/// The rows of a zone that have any memory, each of `frames` frames, counted from frame 0.
fn rows_of(zone: &Zone, ram: &[Span<u64>], frames: u64) -> Vec<u64> {
    let whole = [zone.start..zone.end];
    let spans = if ram.is_empty() { &whole } else { ram };
    let mut rows = Vec::new();
    for span in spans {
        let (start, end) = (span.start.max(zone.start), span.end.min(zone.end));
        if start < end {
            let next = rows.last().map_or(0, |last| last + 1);
            rows.extend((start / frames).max(next)..end.div_ceil(frames));
        }
    }
    rows
}

/// Squares of a row or panel: some hundreds.
fn pixels(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn zone(start: u64, end: u64) -> Zone {
        Zone {
            node: 0,
            name: "Normal".to_owned(),
            start,
            end,
        }
    }

    const GIB: u64 = 1 << 18;

    #[test]
    fn the_picture_has_one_size_for_a_gibibyte_and_for_sixteen_tebibytes() {
        for gib in [1, 4, 24, 1 << 10, 1 << 14] {
            let layout = Layout::new(vec![zone(0, gib * GIB)], &[]);
            assert!((400..1100).contains(&layout.height()), "{gib}: {layout:?}");
            let cells = layout.square / layout.cell_frames();
            assert_eq!(cells, u64::from(layout.edge / CELL).pow(2));
        }
    }

    #[test]
    fn every_frame_has_a_cell_and_neighbouring_cells_of_a_square_touch() {
        let layout = Layout::new(vec![zone(1, 4096), zone(4096, 8 * GIB)], &[]);
        assert_eq!(layout.cell_of(0), None);
        assert_eq!(layout.cell_of(8 * GIB), None);
        let mut seen = HashSet::new();
        for pfn in (4096..8 * GIB).step_by(usize_of(layout.cell_frames())) {
            let cell = layout.cell_of(pfn).unwrap();
            let place = layout.place(cell, 0).unwrap();
            assert!(seen.insert((place.x, place.y)), "{pfn} shares its place");
            let end = layout.cell_of(pfn + layout.cell_frames() - 1).unwrap();
            assert_eq!(cell, end);
        }
    }

    #[test]
    fn a_coarser_cell_holds_its_four_parts() {
        let layout = Layout::new(vec![zone(0, GIB)], &[]);
        for pfn in [0, 77, 4711, GIB - 1] {
            let cell = layout.cell_of(pfn).unwrap();
            let (small, large) = (
                layout.place(cell, 0).unwrap(),
                layout.place(cell, 1).unwrap(),
            );
            assert!((large.x..large.x + large.w).contains(&small.x));
            assert!((large.y..large.y + large.h).contains(&small.y));
        }
    }

    #[test]
    fn a_huge_page_is_a_square_and_a_page_of_a_gibibyte_is_its_rows() {
        let layout = Layout::new(vec![zone(0, 24 * GIB)], &[]);
        assert_eq!((layout.edge, layout.square), (8, 512));
        let place = |x, y, w| Place { x, y, w, h: 8 };
        assert_eq!(layout.block(512, 512), [place(8, HEADING, 8)]);
        // A row is 256 MiB here.
        assert_eq!(layout.block(GIB, GIB).len(), 4);
        assert_eq!(layout.block(GIB, GIB)[0].w, WIDTH);

        let large = Layout::new(vec![zone(0, 1024 * GIB)], &[]);
        assert_eq!(large.block(512, 512).len(), 1);
        assert!(large.block(512, 512)[0].w < large.edge);
    }

    #[test]
    fn rows_without_memory_are_left_out() {
        let ram = [1..0x9f, 0x100..3 * GIB, 4 * GIB..6 * GIB];
        let layout = Layout::new(vec![zone(1, 6 * GIB)], &ram);
        let rows = &layout.panels[0].rows;
        assert_eq!(
            layout.row_bytes() * rows.len() as u64,
            5 << 30,
            "{layout:?}"
        );
        assert_eq!(layout.cell_of(7 * GIB / 2), None);
        let gap = rows
            .windows(2)
            .filter(|pair| pair[1].1 - pair[0].1 > layout.edge)
            .count();
        assert_eq!(gap, 1);
    }
}
