//! Maps of a thousand and of a million pages, scattered and in a row. With V2P_PICTURES=FOLDER the files are left there, to be
//! looked at.

use std::{collections::HashSet, ops::Range as Span};

use v2p_common::Pfn;

use super::{
    draw::Subject,
    earlier::{Earlier, Piece},
    form::LARGEST,
    *,
};
use crate::{
    kernel::zones::Zone,
    render::{file_name, grouped},
    state::PageState,
    translate::run::Run,
};

const THOUSAND: u64 = 1_000;
const MILLION: u64 = 1_000_000;
const GIB: u64 = 1 << 18;

/// Memory as a machine of 24 GiB has it.
fn ram() -> Vec<Span<u64>> {
    vec![1..0x9f, 0x100..3 * GIB, 4 * GIB..25 * GIB]
}

fn layout() -> Layout {
    let zone = |name: &str, start, end| Zone {
        node: 0,
        name: name.to_owned(),
        start,
        end,
    };
    let zones = vec![
        zone("DMA", 1, 0x1000),
        zone("DMA32", 0x1000, 4 * GIB),
        zone("Normal", 4 * GIB, 25 * GIB),
    ];
    Layout::new(zones, &ram())
}

/// Page number `i` has a frame anywhere in 16 GiB, and no two have the same. `turn`: another one each time.
const fn anywhere(i: u64, turn: u64) -> u64 {
    const BITS: u64 = (1 << 22) - 1;
    // Each step is one to one.
    let mut x = (i ^ (turn * 0x15_5555)) & BITS;
    let mut step = 0;
    while step < 3 {
        x = (x * 0x2c_1b3d) & BITS;
        x ^= x >> 11;
        step += 1;
    }
    4 * GIB + x
}

/// A process of so many pages, as runs of each mapping.
struct Made {
    name: &'static str,
    pages: u64,
    runs: Vec<(&'static str, Run)>,
    earlier: Option<Earlier>,
    /// Of a diff: pages that moved.
    moved: u64,
}

const MAPPINGS: [&str; 4] = [
    "[heap]",
    "",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "[stack]",
];

/// The mapping of page `i` of `pages`: half of them the heap's, and so on.
fn mapping(i: u64, pages: u64) -> &'static str {
    let [heap, anonymous, library, stack] = MAPPINGS;
    match i * 16 / pages {
        0..8 => heap,
        8..13 => anonymous,
        13..15 => library,
        _ => stack,
    }
}

fn run(page: u64, pages: u64, pfn: u64, page_size: u64) -> Run {
    let state = PageState::Present { pfn: Pfn(pfn) };
    sample::run(page, state, pages, page_size)
}

fn scattered(name: &'static str, pages: u64) -> Made {
    let one = |i| (mapping(i, pages), run(i, 1, anywhere(i, 0), 4096));
    Made {
        name,
        pages,
        runs: (0..pages).map(one).collect(),
        earlier: None,
        moved: 0,
    }
}

/// As many as can be in huge pages, the rest behind them.
fn in_a_row(name: &'static str, pages: u64) -> Made {
    let start = 6 * GIB;
    let mut runs = Vec::new();
    let mut i = 0;
    while i < pages {
        let some = (pages - i).min(512);
        let size = if some == 512 { 2 << 20 } else { 4096 };
        runs.push((mapping(i, pages), run(i, some, start + i, size)));
        i += some;
    }
    Made {
        name,
        pages,
        runs,
        earlier: None,
        moved: 0,
    }
}

/// Every fourth page was elsewhere before.
fn after_compaction(mut made: Made) -> Made {
    let mut pieces = Vec::new();
    for (_, run) in &made.runs {
        let PageState::Present { pfn } = run.first.state else {
            continue;
        };
        let page = run.first.va.page_number();
        let is_moved = page / run.pages % 4 == 0;
        let before = match is_moved {
            // Huge pages moved as a whole.
            true if run.pages > 1 => 15 * GIB + page,
            true => anywhere(page, 1),
            false => pfn.0,
        };
        let is_same = before == pfn.0;
        made.moved += if is_same { 0 } else { run.pages };
        pieces.push(Piece {
            page,
            pages: run.pages,
            pfn: Some(before),
        });
    }
    made.earlier = Some(Earlier(pieces));
    made
}

/// Everything that a picture is of.
struct Surveyed {
    layout: Layout,
    survey: Survey,
    changes: Option<Changes>,
    subject: Subject,
}

fn surveyed(made: Made) -> Surveyed {
    let layout = layout();
    let mut survey = Survey::default();
    let is_diff = made.earlier.is_some();
    let mut changes = made.earlier.map(Changes::since);
    for (name, run) in &made.runs {
        let group = survey.group(name);
        survey.run(&layout, run, group);
        if let Some(changes) = &mut changes {
            changes.run(&layout, run);
        }
    }
    if let Some(changes) = &mut changes {
        changes.finish_shift();
        assert_eq!(changes.counts.moved, made.moved);
        assert_eq!(changes.counts.stayed, made.pages - made.moved);
    }
    let subject = Subject {
        pid: 1234,
        comm: "postgres".to_owned(),
        kernel: "6.12.117".to_owned(),
        route: "both",
        why: None,
        asked: String::new(),
        since: is_diff.then(|| "old.jsonl".to_owned()),
        ram: ram(),
        numbers: serde_json::to_string(&survey.totals).unwrap(),
    };
    Surveyed {
        layout,
        survey,
        changes,
        subject,
    }
}

/// Draws it in both forms, and holds them against what was put in.
fn assert_drawn(made: Made) {
    let (name, pages, moved) = (made.name, made.pages, made.moved);
    let runs: Vec<Run> = made.runs.iter().map(|(_, run)| *run).collect();
    let made = surveyed(made);
    assert_eq!(made.survey.totals.present, pages);
    let file = |form: Form, end: &str| {
        let Surveyed {
            layout,
            survey,
            changes,
            subject,
        } = &made;
        let bytes = form
            .write(layout, survey, changes.as_ref(), subject)
            .unwrap();
        if let Some(folder) = std::env::var_os("V2P_PICTURES") {
            let path = std::path::Path::new(&folder).join(format!("{name}.{end}"));
            std::fs::write(path, &bytes).unwrap();
        }
        assert!(bytes.len() <= LARGEST, "{name}.{end}: {}", bytes.len());
        bytes
    };
    let svg = String::from_utf8(file(Form::Svg, "svg")).unwrap();
    assert_svg(&svg, &made, pages, moved, &runs);
    assert_png(file(Form::Png, "png"), &made);
}

fn assert_svg(svg: &str, made: &Surveyed, pages: u64, moved: u64, runs: &[Run]) {
    let document = roxmltree::Document::parse(svg).unwrap();
    let root = document.root_element();
    let of = |name| root.children().filter(move |n| n.has_tag_name(name));
    let metadata = of("metadata").next().unwrap();
    assert_eq!(metadata.text(), Some(made.subject.numbers.as_str()));
    let texts: Vec<_> = of("text").map(|n| n.text().unwrap()).collect();
    let after = |name: &str| {
        let at = texts.iter().rposition(|text| *text == name);
        let at = at.unwrap_or_else(|| panic!("no {name:?} in {texts:?}"));
        texts[at + 1].to_owned()
    };
    assert_eq!(after("resident"), grouped(pages));
    assert_eq!(after("pages asked about"), grouped(pages));
    match made.changes {
        Some(_) => {
            assert_eq!(after("moved to another frame"), grouped(moved));
            assert_eq!(after("stayed"), grouped(pages - moved));
        }
        None => {
            let names = made.survey.groups.iter().map(|group| match &*group.name {
                "" => "(anonymous)",
                name => file_name(name),
            });
            let sum = names.map(|name| after(name).replace(',', "").parse::<u64>().unwrap());
            assert_eq!(sum.sum::<u64>(), pages);
            assert_dots(&document, &texts, made, runs);
        }
    }
}

/// As many dots as there are places in which a page lies.
fn assert_dots(document: &roxmltree::Document<'_>, texts: &[&str], made: &Surveyed, runs: &[Run]) {
    let dot = texts
        .iter()
        .find_map(|t| t.strip_prefix("the smallest dot: "));
    let frames: u64 = dot
        .and_then(|t| t.split(' ').next()?.replace(',', "").parse().ok())
        .unwrap();
    let mut places = HashSet::new();
    for run in runs {
        let PageState::Present { pfn } = run.first.state else {
            continue;
        };
        places.extend((pfn.0..pfn.0 + run.pages).map(|pfn| pfn / frames));
    }
    let mut area = 0;
    for path in document.descendants().filter(|n| n.has_tag_name("path")) {
        let title = path.children().find_map(|n| n.text());
        let is_pages = title.is_some_and(|title| {
            !title.contains("memory of others") && !title.contains("this row")
        });
        if is_pages {
            let number = |text: &str| text.parse::<u64>().unwrap();
            let height = number(path.attribute("stroke-width").unwrap());
            let lines = path.attribute("d").unwrap().split('h').skip(1);
            let width: u64 = lines
                .map(|line| number(line.split(['m', 'M']).next().unwrap()))
                .sum();
            area += width * height;
        }
    }
    let square = u64::from(made.layout.edge).pow(2);
    assert_eq!(
        area * made.layout.square,
        places.len() as u64 * frames * square,
        "dots of {frames} frames"
    );
}

fn assert_png(bytes: Vec<u8>, made: &Surveyed) {
    let decoder = ::png::Decoder::new(std::io::Cursor::new(bytes));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert!(pixels.iter().any(|byte| *byte != 255));
    let texts = &reader.info().utf8_text;
    let comment = texts.iter().find(|chunk| chunk.keyword == "Comment");
    let numbers = comment.unwrap().get_text().unwrap();
    assert_eq!(numbers, made.subject.numbers);
}

#[test]
fn a_thousand_pages_anywhere_can_be_seen() {
    assert_drawn(scattered("thousand-scattered", THOUSAND));
}

#[test]
fn a_thousand_pages_in_a_row_can_be_seen() {
    assert_drawn(in_a_row("thousand-in-a-row", THOUSAND));
}

#[test]
fn a_million_pages_anywhere_are_a_picture() {
    assert_drawn(scattered("million-scattered", MILLION));
}

#[test]
fn a_million_pages_in_a_row_are_a_picture() {
    assert_drawn(in_a_row("million-in-a-row", MILLION));
}

#[test]
fn what_moved_of_a_thousand_pages_can_be_seen() {
    assert_drawn(after_compaction(scattered("thousand-moved", THOUSAND)));
}

#[test]
fn what_moved_of_a_million_pages_is_a_picture() {
    assert_drawn(after_compaction(scattered("million-moved", MILLION)));
    assert_drawn(after_compaction(in_a_row(
        "million-moved-in-blocks",
        MILLION,
    )));
}
