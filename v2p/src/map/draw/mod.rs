//! The picture of a map: title, panels, legend. Pure.

mod inks;
mod legend;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range as Span,
};

use v2p_common::PAGE_SIZE;

use self::inks::Inks;
use super::{
    Changes, Layout, Survey,
    layout::{Panel, Place},
    picture::{Colour, INK, Picture, Shape, Size},
};
use crate::render::{bytes, grouped};

/// Where the panels begin.
const LEFT: u32 = 112;
const TOP: u32 = 74;
/// Where the legend begins, and how wide it is.
const LEGEND: u32 = LEFT + super::layout::WIDTH + 88;
const LEGEND_WIDTH: u32 = 330;
/// Memory that is not the process's.
const MEMORY: Colour = Colour(233, 236, 239);
const ARROW: Colour = Colour(52, 58, 64);
/// With fewer cells than this they are drawn larger.
const FEW: usize = 4000;
/// Where at most one of so many rows has any, those are marked.
const FEW_ROWS: usize = 4;
/// Width of the mark.
const MARK: u32 = 3;
/// Edges of a large page are drawn where it is at least so wide.
const VISIBLE: u32 = 6;
/// Pixels between labels of rows, at least.
const LABELS: u32 = 16;

/// What the picture is of.
pub struct Subject {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The kernel's release.
    pub kernel: String,
    /// `pagemap`, `walk` or `both`.
    pub route: &'static str,
    /// Why not by a walk too.
    pub why: Option<String>,
    /// What was asked about; empty: everything.
    pub asked: String,
    /// The earlier translation, where there is one.
    pub since: Option<String>,
    /// Frames that are memory; none: not known.
    pub ram: Vec<Span<u64>>,
    /// The same for programs: JSON.
    pub numbers: String,
}

/// Draws it. `coarser`: how many times the cells are larger than they need to be, each time twice as wide.
pub fn draw(
    layout: &Layout,
    survey: &Survey,
    changes: Option<&Changes>,
    subject: &Subject,
    coarser: u32,
) -> Picture {
    let inks = match changes {
        Some(changes) => Inks::of_changes(&changes.counts),
        None => Inks::of_groups(&survey.groups),
    };
    let cells = changes.map_or(&survey.cells, |changes| &changes.cells);
    let by_cell = coarsened(layout, cells.all(), &inks, coarser);
    let mut picture = Picture {
        width: LEGEND + LEGEND_WIDTH,
        height: 0,
        title: title(survey, changes, subject),
        numbers: subject.numbers.clone(),
        shapes: Vec::new(),
    };
    headings(&mut picture, survey, changes, subject);
    for panel in &layout.panels {
        self::panel(&mut picture, layout, panel, &subject.ram);
    }
    fill_cells(&mut picture, layout, &by_cell, &inks);
    mark_rows(&mut picture, layout, &by_cell);
    large_pages(&mut picture, layout, survey, changes.is_some());
    if let Some(changes) = changes {
        arrows(&mut picture, layout, changes);
    }
    let legend = legend::draw(
        &mut picture,
        layout,
        survey,
        changes,
        subject,
        &inks,
        &by_cell,
    );
    picture.height = legend.max(TOP + layout.height()) + 16;
    picture
}

fn title(survey: &Survey, changes: Option<&Changes>, subject: &Subject) -> String {
    let Subject { pid, comm, .. } = subject;
    match changes {
        None => format!(
            "Where process {pid} ({comm}) lies in physical memory: {} pages resident",
            grouped(survey.totals.present)
        ),
        Some(changes) => format!(
            "What moved of process {pid} ({comm}) in physical memory: {} pages",
            grouped(changes.counts.moved)
        ),
    }
}

fn headings(picture: &mut Picture, survey: &Survey, changes: Option<&Changes>, subject: &Subject) {
    let text = picture.title.clone();
    picture.text(16, 30, Size::Title, text);
    let present = survey.totals.present;
    let mut line = format!(
        "{} of {} of memory, by {} on Linux {}",
        bytes(present * PAGE_SIZE),
        bytes(memory(survey, subject) * PAGE_SIZE),
        match subject.route {
            "both" => "pagemap and page tables",
            "walk" => "its page tables",
            other => other,
        },
        subject.kernel
    );
    if !subject.asked.is_empty() {
        line.push_str(&format!("; only {}", subject.asked));
    }
    if let (Some(since), Some(_)) = (&subject.since, changes) {
        line.push_str(&format!("; since {since}"));
    }
    picture.note(16, 52, shortened(&line, 180));
}

/// Frames of memory, where they are known.
fn memory(survey: &Survey, subject: &Subject) -> u64 {
    let all: u64 = subject.ram.iter().map(|span| span.end - span.start).sum();
    if all > 0 { all } else { survey.totals.present }
}

fn panel(picture: &mut Picture, layout: &Layout, panel: &Panel, ram: &[Span<u64>]) {
    let zone = &panel.zone;
    let heading = format!("node {}, zone {}", zone.node, zone.name);
    picture.text(LEFT, TOP + panel.top + 13, Size::Bold, heading);
    let whole = [zone.start..zone.end];
    let spans = if ram.is_empty() { &whole } else { ram };
    let places = spans
        .iter()
        .flat_map(|span| layout.squares(panel, span.clone()))
        .map(shifted)
        .collect();
    picture.shapes.push(Shape::Fill {
        colour: MEMORY,
        title: format!("node {}, zone {}: memory of others", zone.node, zone.name),
        places,
    });
    let step = u64::from(LABELS.div_ceil(layout.edge)).next_power_of_two();
    let mut labelled: Option<u32> = None;
    for (row, y) in &panel.rows {
        let has_room = labelled.is_none_or(|last| y - last >= LABELS);
        if (row % step == 0 || labelled.is_none()) && has_room {
            let start = row * layout.row_bytes();
            let middle = TOP + y + layout.edge / 2 + 4;
            picture.label(LEFT - 8, middle, format!("{start:#x}"));
            let right = LEFT + super::layout::WIDTH + 8;
            picture.note(right, middle, bytes(start));
            labelled = Some(*y);
        }
    }
}

/// What a cell shows.
struct Shown {
    ink: u16,
    /// Pages of the process, of all kinds; of a kind that is shown before others, its own.
    pages: u64,
}

/// Cells as they are drawn.
struct Drawn {
    coarse: u32,
    /// By the number of the cell's first part.
    cells: BTreeMap<u64, Shown>,
    /// Where the rows begin that have any, in pixels; empty where they are no help.
    marked: BTreeSet<u32>,
}

/// Joins cells until there are few enough of them, or until each is as large as a square.
fn coarsened(
    layout: &Layout,
    counts: std::collections::HashMap<(u64, u16), u64>,
    inks: &Inks,
    coarser: u32,
) -> Drawn {
    let mut counts: BTreeMap<(u64, u16), u64> = counts
        .into_iter()
        .map(|((cell, kind), n)| ((cell, inks.ink_of(kind)), n))
        .fold(BTreeMap::new(), |mut all, (key, n)| {
            *all.entry(key).or_default() += n;
            all
        });
    let mut coarse = 0;
    loop {
        let mut cells: BTreeMap<u64, Shown> = BTreeMap::new();
        let mut most: BTreeMap<u64, (bool, u64)> = BTreeMap::new();
        for ((cell, ink), pages) in &counts {
            let rank = (inks.stands_out(*ink), *pages);
            let shown = cells.entry(*cell).or_insert(Shown {
                ink: *ink,
                pages: 0,
            });
            shown.pages += pages;
            let best = most.entry(*cell).or_insert(rank);
            // The later kind where there are as many: where pages came to, not what they left.
            if rank >= *best {
                *best = rank;
                shown.ink = *ink;
            }
        }
        let is_enough = coarse >= coarser && cells.len() >= FEW;
        if is_enough || coarse >= layout.depth() {
            for (cell, shown) in &mut cells {
                if let Some((true, own)) = most.get(cell) {
                    shown.pages = *own;
                }
            }
            let marked = few_rows(layout, &cells);
            return Drawn {
                coarse,
                cells,
                marked,
            };
        }
        coarse += 1;
        let mut joined = BTreeMap::new();
        let mask = !((1 << (2 * coarse)) - 1);
        for ((cell, ink), pages) in counts {
            *joined.entry((cell & mask, ink)).or_insert(0) += pages;
        }
        counts = joined;
    }
}

/// The rows that have any of these cells, where they are few: one could miss them.
fn few_rows(layout: &Layout, cells: &BTreeMap<u64, Shown>) -> BTreeSet<u32> {
    let squares = cells
        .keys()
        .filter_map(|cell| layout.place(*cell, layout.depth()));
    let rows: BTreeSet<_> = squares.map(|square| square.y).collect();
    let all: usize = layout.panels.iter().map(|panel| panel.rows.len()).sum();
    match rows.len() * FEW_ROWS <= all {
        true => rows,
        false => BTreeSet::new(),
    }
}

fn mark_rows(picture: &mut Picture, layout: &Layout, drawn: &Drawn) {
    let mark = |y: &u32| Place {
        x: LEFT - 6,
        y: TOP + y,
        w: MARK,
        h: layout.edge,
    };
    if !drawn.marked.is_empty() {
        picture.shapes.push(Shape::Fill {
            colour: INK,
            title: "this row has pages of the process".to_owned(),
            places: drawn.marked.iter().map(mark).collect(),
        });
    }
}

fn fill_cells(picture: &mut Picture, layout: &Layout, drawn: &Drawn, inks: &Inks) {
    let frames = layout.cell_frames() << (2 * drawn.coarse);
    let mut by_colour: BTreeMap<(u16, u16), Vec<Place>> = BTreeMap::new();
    for (cell, shown) in &drawn.cells {
        if let Some(place) = layout.place(*cell, drawn.coarse) {
            let key = (shown.ink, inks::strength(shown.pages, frames));
            by_colour.entry(key).or_default().push(shifted(place));
        }
    }
    for ((ink, tenths), mut places) in by_colour {
        places.sort_by_key(|place| (place.y, place.x));
        let mut joined: Vec<Place> = Vec::new();
        for place in places {
            match joined.last_mut() {
                Some(last) if last.y == place.y && last.x + last.w == place.x => last.w += place.w,
                _ => joined.push(place),
            }
        }
        picture.shapes.push(Shape::Fill {
            colour: inks.colour(ink).over(MEMORY, tenths),
            title: inks.name(ink).to_owned(),
            places: joined,
        });
    }
}

/// A dark edge around each large page that is large enough to be seen.
fn large_pages(picture: &mut Picture, layout: &Layout, survey: &Survey, is_diff: bool) {
    let places: Vec<_> = survey
        .large_pages()
        .into_iter()
        .flat_map(|(pfn, frames)| layout.block(pfn, frames))
        .filter(|place| place.w >= VISIBLE)
        .map(shifted)
        .collect();
    if !places.is_empty() && !is_diff {
        picture.shapes.push(Shape::Edges {
            colour: INK,
            places,
        });
    }
}

fn arrows(picture: &mut Picture, layout: &Layout, changes: &Changes) {
    // The largest last: over the others.
    for shift in changes.shifts.iter().rev() {
        let middle = |first: u64| layout.middle(first + shift.pages / 2);
        if let (Some(from), Some(to)) = (middle(shift.from), middle(shift.to)) {
            picture.shapes.push(Shape::Arrow {
                from: (from.0 + LEFT, from.1 + TOP),
                to: (to.0 + LEFT, to.1 + TOP),
                colour: ARROW,
            });
        }
    }
}

const fn shifted(place: Place) -> Place {
    Place {
        x: place.x + LEFT,
        y: place.y + TOP,
        ..place
    }
}

/// The end of a text that is too long for its place; mostly that of a path.
fn shortened(text: &str, most: usize) -> String {
    let all = text.chars().count();
    if all <= most {
        return text.to_owned();
    }
    let end: String = text.chars().skip(all - most + 2).collect();
    format!("..{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_told_by_its_end() {
        assert_eq!(shortened("abcdefgh", 5), "..fgh");
    }
}
