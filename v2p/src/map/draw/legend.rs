//! The legend: what has which colour, how many pages there are, how to read it.

use std::collections::BTreeMap;

use v2p_common::PAGE_SIZE;

use super::{
    ARROW, Drawn, LEGEND, LEGEND_WIDTH, MARK, MEMORY, Subject, TOP,
    inks::{self, Inks},
    shortened,
};
use crate::{
    map::{
        Changes, Layout, Survey,
        changes::{ARROWS, Shift},
        layout::Place,
        picture::{Colour, INK, Picture, Shape, Size},
    },
    render::{bytes, file_name, grouped},
};

const LINE: u32 = 18;
/// Where numbers end.
const NUMBERS: u32 = LEGEND + LEGEND_WIDTH - 24;
/// Letters of a name, at most.
const NAME: usize = 27;

/// Adds it; gives where it ends.
pub(super) fn draw(
    picture: &mut Picture,
    layout: &Layout,
    survey: &Survey,
    changes: Option<&Changes>,
    subject: &Subject,
    inks: &Inks,
    drawn: &Drawn,
) -> u32 {
    let mut column = Column {
        picture,
        y: TOP + 13,
    };
    match changes {
        Some(_) => column.heading("what became of each page", "pages"),
        None => column.heading("whose pages", "resident"),
    }
    for ink in inks.all() {
        column.swatch(ink.colour, file_name(&ink.name), &grouped(ink.pages));
        if ink.swapped > 0 {
            column.line("    on swap", &grouped(ink.swapped));
        }
    }
    column.swatch(MEMORY, "memory of others, or free", "");
    column.note("   white: no memory at these addresses");
    column.room();
    totals(&mut column, survey);
    if let Some(changes) = changes {
        column.room();
        since(&mut column, changes);
    }
    column.room();
    key(&mut column, layout, survey, changes, inks, drawn);
    column.room();
    notes(&mut column, layout, survey, changes, subject);
    column.y
}

/// The legend under way.
struct Column<'a> {
    picture: &'a mut Picture,
    y: u32,
}

impl Column<'_> {
    fn heading(&mut self, text: &str, right: &str) {
        self.picture.text(LEGEND, self.y, Size::Bold, text);
        self.picture.label(NUMBERS, self.y, right);
        self.y += LINE;
    }

    fn line(&mut self, text: &str, number: &str) {
        self.picture.text(LEGEND, self.y, Size::Small, text);
        self.picture.number(NUMBERS, self.y, number);
        self.y += LINE;
    }

    fn note(&mut self, text: &str) {
        self.picture.note(LEGEND, self.y, text);
        self.y += LINE - 2;
    }

    fn swatch(&mut self, colour: Colour, text: &str, number: &str) {
        let square = self.square();
        self.picture.fill(colour, square);
        self.picture
            .text(LEGEND + 20, self.y, Size::Small, shortened(text, NAME));
        self.picture.number(NUMBERS, self.y, number);
        self.y += LINE;
    }

    /// Where a line's sign is, before its text.
    const fn square(&self) -> Place {
        Place {
            x: LEGEND,
            y: self.y - 10,
            w: 12,
            h: 12,
        }
    }

    /// What the sign means that is `width` pixels wide, with the room beside it.
    fn meaning(&mut self, width: u32, text: &str) {
        self.picture.text(LEGEND + width, self.y, Size::Small, text);
        self.y += LINE;
    }

    fn room(&mut self) {
        self.y += LINE / 2;
    }
}

fn totals(column: &mut Column<'_>, survey: &Survey) {
    column.heading("pages asked about", &grouped(survey.totals.pages));
    let totals = &survey.totals;
    let all = [
        ("resident", totals.present),
        ("on swap", totals.swapped),
        ("the shared zero page", totals.zero),
        ("being moved", totals.migrating),
        ("a device's", totals.device),
        ("guard regions", totals.guard),
        ("poisoned", totals.poisoned),
        ("frame withheld", totals.hidden),
        ("absent", totals.absent),
    ];
    for (name, pages) in all {
        if pages > 0 || name == "resident" {
            column.line(name, &grouped(pages));
        }
    }
    column.room();
    column.heading("how scattered", "");
    column.line("stretches of frames in a row", &grouped(survey.runs));
    if let Some(tenths) = (survey.totals.present * 10).checked_div(survey.runs) {
        let mean = format!("{}.{}", grouped(tenths / 10), tenths % 10);
        column.line("pages of a stretch, mean", &mean);
    }
    let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, frames) in survey.large_pages() {
        *sizes.entry(frames).or_default() += 1;
    }
    for (frames, n) in &sizes {
        let name = format!("huge pages of {}", bytes(frames * PAGE_SIZE));
        column.line(&name, &grouped(*n));
    }
    if sizes.is_empty() && survey.sizes_known {
        column.line("huge pages", "0");
    }
}

fn since(column: &mut Column<'_>, changes: &Changes) {
    let counts = &changes.counts;
    column.heading("since the earlier translation", "pages");
    for (name, pages) in [
        ("moved to another frame", counts.moved),
        ("stayed", counts.stayed),
        ("came: had no frame", counts.came),
        ("left: unmapped or dropped", counts.left),
        ("left: swapped out", counts.swapped),
    ] {
        column.line(name, &grouped(pages));
    }
    if counts.unlisted > 0 {
        column.note(&format!(
            "of those that came, {} are at addresses",
            grouped(counts.unlisted)
        ));
        column.note("of which the earlier file says nothing");
    }
}

fn key(
    column: &mut Column<'_>,
    layout: &Layout,
    survey: &Survey,
    changes: Option<&Changes>,
    inks: &Inks,
    drawn: &Drawn,
) {
    column.heading("how to read it", "");
    let frames = layout.cell_frames() << (2 * drawn.coarse);
    scale(column, layout, frames);
    if frames > 1 {
        strengths(column, inks.colour(0), frames);
    }
    if changes.is_some_and(|changes| changes.counts.stayed > 0) && frames > 1 {
        column.note("a dot with any that moved, came or left");
        column.note("shows those, not the ones that stayed");
    }
    if !drawn.marked.is_empty() {
        row_mark(column);
    }
    if !survey.large.is_empty() && changes.is_none() {
        huge_edge(column, inks.colour(0));
    }
    if let Some(changes) = changes
        && !changes.shifts.is_empty()
    {
        arrows(column, &changes.shifts);
    }
}

/// How much memory a row, a square and a dot of so many frames are, and in which order.
fn scale(column: &mut Column<'_>, layout: &Layout, frames: u64) {
    let square = bytes(layout.square * PAGE_SIZE);
    column.line("a row", &bytes(layout.row_bytes()));
    let edge = layout.edge;
    column.line(&format!("a square of {edge} by {edge} pixels"), &square);
    let dot = format!(
        "the smallest dot: {} page{}",
        grouped(frames),
        if frames == 1 { "" } else { "s" }
    );
    column.line(&dot, &bytes(frames * PAGE_SIZE));
    column.note("addresses grow to the right, then down;");
    column.note("within a square they follow a Hilbert curve");
    column.y += 4;
}

/// How strong the colour is of a dot with some, or all, of its frames.
fn strengths(column: &mut Column<'_>, ink: Colour, frames: u64) {
    let first = column.square();
    for (i, pages) in [1, frames.div_ceil(8), frames.div_ceil(2), frames]
        .into_iter()
        .enumerate()
    {
        let place = Place {
            x: first.x + u32::try_from(i).unwrap_or(0) * 14,
            ..first
        };
        let colour = ink.over(MEMORY, inks::strength(pages, frames));
        column.picture.fill(colour, place);
    }
    column.meaning(64, "few to all of a dot's frames");
}

fn row_mark(column: &mut Column<'_>) {
    let square = column.square();
    let place = Place {
        x: square.x + 5,
        w: MARK,
        ..square
    };
    column.picture.fill(INK, place);
    column.meaning(20, "beside a row: pages lie in it");
}

fn huge_edge(column: &mut Column<'_>, ink: Colour) {
    let place = column.square();
    column.picture.fill(ink, place);
    column.picture.shapes.push(Shape::Edges {
        colour: INK,
        places: vec![place],
    });
    column.meaning(20, "with a dark edge: one huge page");
}

fn arrows(column: &mut Column<'_>, shifts: &[Shift]) {
    column.picture.shapes.push(Shape::Arrow {
        from: (LEGEND, column.y - 4),
        to: (LEGEND + 16, column.y - 4),
        colour: ARROW,
    });
    let pages = |shift: Option<&Shift>| shift.map_or(0, |shift| shift.pages);
    let (most, least) = (pages(shifts.first()), pages(shifts.last()));
    let text = match shifts.len() {
        1 => "the one move".to_owned(),
        n if n < ARROWS => format!("the {n} moves"),
        // Which of them are shown is chance.
        n if most == least => format!("{n} of the moves"),
        n => format!("the {n} largest moves"),
    };
    column.meaning(24, &text);
}

fn notes(
    column: &mut Column<'_>,
    layout: &Layout,
    survey: &Survey,
    changes: Option<&Changes>,
    subject: &Subject,
) {
    let elsewhere = changes.map_or(survey.cells.elsewhere, |c| c.cells.elsewhere);
    if elsewhere > 0 {
        column.note(&format!(
            "not drawn: {} pages in frames that no",
            grouped(elsewhere)
        ));
        column.note("zone has, or beyond this kernel's memory");
    }
    if !survey.sizes_known && survey.totals.present > 0 {
        column.note("page sizes: not known by pagemap alone");
    }
    if layout.overlaps() {
        column.note("zones overlap: a frame in two of them is");
        column.note("drawn in the first, which need not be its own");
    }
    if subject.ram.is_empty() {
        column.note("holes in memory are not known: /proc/iomem");
        column.note("does not show them");
    }
    for line in subject.why.iter().flat_map(|why| wrapped(why)) {
        column.note(&line);
    }
}

/// Why there was no walk, in lines.
fn wrapped(why: &str) -> Vec<String> {
    let mut lines = vec!["not by a walk too:".to_owned()];
    for word in why.split_whitespace() {
        match lines.last_mut() {
            Some(last) if last.chars().count() + word.chars().count() < 42 => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(shortened(word, 42)),
        }
    }
    lines
}
