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
        picture::{INK, Picture, Shape, Size},
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
    let mut page = Page {
        picture,
        y: TOP + 13,
    };
    match changes {
        Some(_) => page.heading("what became of each page", "pages"),
        None => page.heading("whose pages", "resident"),
    }
    for ink in inks.all() {
        page.swatch(ink.colour, file_name(&ink.name), &grouped(ink.pages));
        if ink.swapped > 0 {
            page.line("    on swap", &grouped(ink.swapped));
        }
    }
    page.swatch(MEMORY, "memory of others, or free", "");
    page.note("   white: no memory at these addresses");
    page.room();
    totals(&mut page, survey);
    if let Some(changes) = changes {
        page.room();
        since(&mut page, changes);
    }
    page.room();
    key(&mut page, layout, survey, changes, inks, drawn);
    page.room();
    notes(&mut page, layout, survey, changes, subject);
    page.y
}

/// The legend under way.
struct Page<'a> {
    picture: &'a mut Picture,
    y: u32,
}

impl Page<'_> {
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

    fn swatch(&mut self, colour: crate::map::picture::Colour, text: &str, number: &str) {
        let place = Place {
            x: LEGEND,
            y: self.y - 10,
            w: 12,
            h: 12,
        };
        self.picture.fill(colour, place);
        self.picture
            .text(LEGEND + 20, self.y, Size::Small, shortened(text, NAME));
        self.picture.number(NUMBERS, self.y, number);
        self.y += LINE;
    }

    fn room(&mut self) {
        self.y += LINE / 2;
    }
}

fn totals(page: &mut Page<'_>, survey: &Survey) {
    page.heading("pages asked about", &grouped(survey.totals.pages));
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
            page.line(name, &grouped(pages));
        }
    }
    page.room();
    page.heading("how scattered", "");
    page.line("stretches of frames in a row", &grouped(survey.runs));
    if let Some(tenths) = (survey.totals.present * 10).checked_div(survey.runs) {
        let mean = format!("{}.{}", grouped(tenths / 10), tenths % 10);
        page.line("pages of a stretch, mean", &mean);
    }
    let mut pages: Vec<_> = survey.large.iter().map(|l| (l.pfn, l.frames)).collect();
    pages.sort_unstable();
    pages.dedup();
    let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, frames) in pages {
        *sizes.entry(frames).or_default() += 1;
    }
    for (frames, n) in &sizes {
        let name = format!("huge pages of {}", bytes(frames * PAGE_SIZE));
        page.line(&name, &grouped(*n));
    }
    if sizes.is_empty() && survey.sizes_known {
        page.line("huge pages", "0");
    }
}

fn since(page: &mut Page<'_>, changes: &Changes) {
    let counts = &changes.counts;
    page.heading("since the earlier translation", "pages");
    for (name, pages) in [
        ("moved to another frame", counts.moved),
        ("stayed", counts.stayed),
        ("came: had no frame", counts.came),
        ("left: unmapped or dropped", counts.left),
        ("left: swapped out", counts.swapped),
    ] {
        page.line(name, &grouped(pages));
    }
    if counts.unlisted > 0 {
        page.note(&format!(
            "of those that came, {} are at addresses",
            grouped(counts.unlisted)
        ));
        page.note("of which the earlier file says nothing");
    }
}

fn key(
    page: &mut Page<'_>,
    layout: &Layout,
    survey: &Survey,
    changes: Option<&Changes>,
    inks: &Inks,
    drawn: &Drawn,
) {
    page.heading("how to read it", "");
    let square = bytes(layout.square * PAGE_SIZE);
    page.line("a row", &bytes(layout.row_bytes()));
    let edge = layout.edge;
    page.line(&format!("a square of {edge} by {edge} pixels"), &square);
    let frames = layout.cell_frames() << (2 * drawn.coarse);
    let dot = format!(
        "the smallest dot: {} page{}",
        grouped(frames),
        if frames == 1 { "" } else { "s" }
    );
    page.line(&dot, &bytes(frames * PAGE_SIZE));
    page.note("addresses grow to the right, then down;");
    page.note("within a square they follow a Hilbert curve");
    page.y += 4;
    if frames > 1 {
        let ink = inks.colour(0);
        for (i, pages) in [1, frames.div_ceil(8), frames.div_ceil(2), frames]
            .into_iter()
            .enumerate()
        {
            let place = Place {
                x: LEGEND + u32::try_from(i).unwrap_or(0) * 14,
                y: page.y - 10,
                w: 12,
                h: 12,
            };
            let colour = ink.over(MEMORY, inks::strength(pages, frames));
            page.picture.fill(colour, place);
        }
        page.picture.text(
            LEGEND + 64,
            page.y,
            Size::Small,
            "few to all of a dot's frames",
        );
        page.y += LINE;
    }
    if changes.is_some_and(|changes| changes.counts.stayed > 0) && frames > 1 {
        page.note("a dot with any that moved, came or left");
        page.note("shows those, not the ones that stayed");
    }
    if !drawn.marked.is_empty() {
        let place = Place {
            x: LEGEND + 5,
            y: page.y - 10,
            w: MARK,
            h: 12,
        };
        page.picture.fill(INK, place);
        let what = "beside a row: pages lie in it";
        page.picture.text(LEGEND + 20, page.y, Size::Small, what);
        page.y += LINE;
    }
    if !survey.large.is_empty() && changes.is_none() {
        let place = Place {
            x: LEGEND,
            y: page.y - 10,
            w: 12,
            h: 12,
        };
        page.picture.fill(inks.colour(0), place);
        page.picture.shapes.push(Shape::Edges {
            colour: INK,
            places: vec![place],
        });
        page.picture.text(
            LEGEND + 20,
            page.y,
            Size::Small,
            "with a dark edge: one huge page",
        );
        page.y += LINE;
    }
    if let Some(changes) = changes
        && !changes.shifts.is_empty()
    {
        page.picture.shapes.push(Shape::Arrow {
            from: (LEGEND, page.y - 4),
            to: (LEGEND + 16, page.y - 4),
            colour: ARROW,
        });
        let n = changes.shifts.len();
        let pages = |shift: Option<&Shift>| shift.map_or(0, |shift| shift.pages);
        let (most, least) = (pages(changes.shifts.first()), pages(changes.shifts.last()));
        let text = match n {
            1 => "the one move".to_owned(),
            n if n < ARROWS => format!("the {n} moves"),
            // Which of them are shown is chance.
            n if most == least => format!("{n} of the moves"),
            n => format!("the {n} largest moves"),
        };
        page.picture.text(LEGEND + 24, page.y, Size::Small, text);
        page.y += LINE;
    }
}

fn notes(
    page: &mut Page<'_>,
    layout: &Layout,
    survey: &Survey,
    changes: Option<&Changes>,
    subject: &Subject,
) {
    let elsewhere = changes.map_or(survey.cells.elsewhere, |c| c.cells.elsewhere);
    if elsewhere > 0 {
        page.note(&format!(
            "not drawn: {} pages in frames that no",
            grouped(elsewhere)
        ));
        page.note("zone has, or beyond this kernel's memory");
    }
    if !survey.sizes_known && survey.totals.present > 0 {
        page.note("page sizes: not known by pagemap alone");
    }
    if layout.overlaps() {
        page.note("zones overlap: a frame in two of them is");
        page.note("drawn in the first, which need not be its own");
    }
    if subject.ram.is_empty() {
        page.note("holes in memory are not known: /proc/iomem");
        page.note("does not show them");
    }
    for line in subject.why.iter().flat_map(|why| wrapped(why)) {
        page.note(&line);
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
