//! Rates, mappings and the latest moves.

use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

use super::{Tones, fitted, label};
use crate::{
    record::{Move, story::Story},
    render::{cause_text, file_name, grouped, mapping_name, printable, state_text},
    state::PageState,
    top::{App, mappings::Sort, series::Series},
};

/// Faults and moves a second, by cause: `height` lines.
pub(super) fn rates(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let seen = app.seen();
    let tones = Tones::of(app);
    let bars = width.saturating_sub(54);
    let caption = format!(
        " {:<26}{:>10}{:>14}  {}",
        "CAUSE",
        "A SECOND",
        "IN ALL",
        fitted(&format!("last {bars} s"), bars)
    );
    let mut lines = vec![Line::styled(caption, Tones::head())];
    let mut rows: Vec<(String, Style, &Series)> = vec![
        ("minor faults".to_owned(), Style::new(), &seen.minor),
        ("major faults".to_owned(), Style::new(), &seen.major),
    ];
    rows.retain(|(name, _, series)| series.total > 0 || name == "minor faults");
    let mut causes: Vec<_> = seen.causes.iter().collect();
    // What happens now first; what happened most after that.
    causes.sort_by_key(|(_, _, s)| std::cmp::Reverse((s.rate(), s.total)));
    for (cause, reason, series) in causes {
        rows.push((cause_text(*cause, *reason), tones.cause(*cause), series));
    }
    let room = height.saturating_sub(1);
    let hidden = rows.len().saturating_sub(room);
    for (i, (name, tone, series)) in rows.into_iter().take(room).enumerate() {
        let more = match hidden {
            n if n > 0 && i + 1 == room => format!(" (+{n} more)"),
            _ => String::new(),
        };
        lines.push(Line::from(vec![
            Span::styled(fitted(&format!(" {name}{more}"), 27), tone),
            Span::raw(format!(
                "{:>10}{:>14}  ",
                grouped(series.rate()),
                grouped(series.total)
            )),
            Span::styled(series.bars(bars), tones.bars()),
        ]));
    }
    lines.resize(height, Line::default());
    lines
}

/// Seconds of a mapping that are shown, at least, and letters of its name, at most.
const LEAST_BARS: usize = 10;
const MOST_NAME: usize = 40;

/// What each mapping has: `height` lines.
pub(super) fn mappings(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let tones = Tones::of(app);
    // What has no room is left out.
    let (has_swapped, has_faults) = (width >= 64, width >= 74);
    let column = |shown: bool, text: String| match shown {
        true => format!("{text:>10}"),
        false => String::new(),
    };
    let columns = |cells: [String; 4]| {
        let [present, swapped, moved, faults] = cells;
        let (swapped, faults) = (column(has_swapped, swapped), column(has_faults, faults));
        format!("{present:>11}{swapped}{moved:>10}{faults}  ")
    };
    let caption = |sort: Sort, text: &str| match app.sort == sort {
        true => format!("{text}\u{25be}"),
        false => text.to_owned(),
    };
    let heads = columns([
        caption(Sort::Resident, "RESIDENT"),
        caption(Sort::Swapped, "SWAPPED"),
        caption(Sort::Moved, "MOVED"),
        caption(Sort::Faults, "FAULTS"),
    ]);
    let room = width.saturating_sub(1 + heads.chars().count());
    // Numbers are read with their names: these are not far apart on a wide terminal.
    let names = room.saturating_sub(LEAST_BARS).min(MOST_NAME);
    let bars = room - names;
    let what = match app.filter.as_str() {
        "" => "MAPPING".to_owned(),
        filter => format!("MAPPING with {:?}", filter),
    };
    let what = fitted(&caption(Sort::Address, &what), names);
    let head = format!(" {what}{heads}{}", fitted("moves/s", bars));
    let mut lines = vec![Line::styled(head, Tones::head())];
    let rows = app.shown();
    let room = height.saturating_sub(1);
    let first = app.chosen.saturating_sub(room.saturating_sub(1));
    for (i, row) in rows.iter().enumerate().skip(first).take(room) {
        let (mark, tone) = match i == app.chosen {
            true => ('>', Style::new().add_modifier(Modifier::BOLD)),
            false => (' ', Style::new()),
        };
        let numbers = [row.present, row.swapped, row.moved.total, row.faults.total];
        let numbers = columns(numbers.map(grouped));
        let text = format!("{mark}{}{numbers}", fitted(&label(row), names));
        lines.push(Line::from(vec![
            Span::styled(text, tone),
            Span::styled(row.moved.bars(bars), tones.bars()),
        ]));
    }
    if rows.is_empty() && room > 0 {
        lines.push(Line::raw(match app.filter.is_empty() {
            true => "  (not read yet)",
            false => "  (none has this in its name)",
        }));
    }
    lines.resize(height, Line::default());
    lines
}

/// How a line of a move is parted.
struct Parts {
    /// Letters of the cause, and the blank after it.
    cause: usize,
    /// The same of the frames, where their numbers have no more digits than usual.
    frames: usize,
    /// Whether words are whole, and the mapping has room.
    is_roomy: bool,
}

/// Letters of a thread's name, and the blank after it: TASK_COMM_LEN in include/linux/sched.h, v6.18.
const BY: usize = 16;

impl Parts {
    const fn of(width: usize) -> Self {
        match width {
            // 80 columns have room for a thread's whole name.
            ..110 => Self {
                cause: 17,
                frames: 18,
                is_roomy: false,
            },
            _ => Self {
                cause: 25,
                frames: 22,
                is_roomy: true,
            },
        }
    }

    /// Time, address and pages; cause; frames, thread and mapping.
    fn line(&self, [at, va, pages, cause, frames, by, mapping]: [&str; 7]) -> [String; 3] {
        let mapping = if self.is_roomy { mapping } else { "" };
        [
            format!("{at:>8} {va:>14} {pages:>5} "),
            format!("{} ", fitted(cause, self.cause - 1)),
            // A number is never cut, but pushes what is behind it.
            format!("{frames:<0$} {by:<1$}{mapping}", self.frames - 1, BY),
        ]
    }

    fn cause(&self, one: &Move) -> String {
        let text = cause_text(one.cause, one.reason);
        match text.strip_prefix("migration:") {
            Some(reason) if !self.is_roomy => format!("migr:{reason}"),
            _ => text,
        }
    }
}

/// The latest moves, the latest first: `height` lines.
pub(super) fn latest(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let seen = app.seen();
    let tones = Tones::of(app);
    let parts = Parts::of(width);
    let heads = [
        "TIME (s)",
        "ADDRESS",
        "PAGES",
        "LATEST MOVES",
        "FRAMES",
        "BY",
        "MAPPING",
    ];
    let heads = parts.line(heads).concat();
    let mut lines = vec![Line::styled(fitted(&heads, width), Tones::head())];
    for story in seen.latest.iter().rev().take(height.saturating_sub(1)) {
        let Story {
            first: one,
            mapping,
            ..
        } = story;
        let frames = format!("{} \u{2192} {}", state(one.from), state(one.to));
        let by = one.by.map_or(String::new(), |by| by.comm.to_string());
        let [start, cause, rest] = parts.line([
            &seconds(one.t_ns.saturating_sub(seen.start_ns.unwrap_or(one.t_ns))),
            &one.va.to_string(),
            &brief(one.pages),
            &parts.cause(one),
            &frames,
            &printable(&by),
            &printable(file_name(mapping_name(mapping))),
        ]);
        let room = width.saturating_sub(start.chars().count() + cause.chars().count());
        lines.push(Line::from(vec![
            Span::raw(start),
            Span::styled(cause, tones.cause(one.cause)),
            Span::raw(fitted(&rest, room).trim_end().to_owned()),
        ]));
    }
    lines.resize(height, Line::default());
    lines
}

/// A time since the first event, in at most eight letters.
fn seconds(ns: u64) -> String {
    let ms = ns / 1_000_000;
    match ms / 1000 {
        whole @ 0..1000 => format!("{whole}.{:03}", ms % 1000),
        whole => format!("{whole}.{}", ms % 1000 / 100),
    }
}

/// A number in at most five letters.
fn brief(n: u64) -> String {
    match n {
        0..10_000 => grouped(n),
        10_000..10_000_000 => format!("{}K", n / 1000),
        _ => format!("{}M", n / 1_000_000),
    }
}

/// Where a page is, in few letters: a frame by its number alone.
pub(super) fn state(state: PageState) -> String {
    match state {
        PageState::Present { pfn } => pfn.0.to_string(),
        PageState::Swapped { .. } => "swap".to_owned(),
        other => state_text(other),
    }
}
