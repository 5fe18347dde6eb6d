//! The pages of one mapping.

use ratatui::text::{Line, Span};
use v2p_common::PAGE_SIZE;

use super::{Tones, fitted, parts::state};
use crate::{
    render::{cause_text, grouped, mapping_name, printable},
    top::{App, app::Seen},
    translate::run::Run,
};

/// Where they are, and how they came there where that was seen: at most `height` lines.
pub(super) fn lines(app: &App, width: usize, height: usize) -> Vec<Line<'static>> {
    let opened = &app.opened;
    let pages = &opened.pages;
    let heading = format!(
        " {:#x}-{:#x} {}",
        opened.start,
        opened.end,
        printable(mapping_name(&opened.name))
    );
    let count = format!(
        "{}{} stretches ",
        grouped(pages.runs.len() as u64),
        if pages.cut { "+" } else { "" }
    );
    let room = width.saturating_sub(count.chars().count());
    let caption = format!(
        " {:>16} {:>9}  {:<16} {}",
        "ADDRESS", "PAGES", "FRAME", "LATEST MOVE SEEN IN IT"
    );
    let mut lines = vec![
        Line::styled(format!("{}{count}", fitted(&heading, room)), Tones::head()),
        Line::styled(fitted(&caption, width), Tones::head()),
    ];
    let tones = Tones::of(app);
    let shown = pages.runs.iter().skip(opened.scroll);
    for run in shown.take(height.saturating_sub(2)) {
        let start = format!(
            " {:>16} {:>9}  {:<16} ",
            format!("{:#x}", run.first.va.0),
            grouped(run.pages),
            state(run.first.state)
        );
        let mut line = vec![Span::raw(start)];
        if let Some((text, cause)) = latest(app.seen(), run) {
            line.push(Span::styled(text, tones.cause(cause)));
        }
        lines.push(Line::from(line));
    }
    if pages.runs.is_empty() {
        lines.push(Line::raw("  (it has no pages)"));
    }
    lines.truncate(height);
    lines
}

/// The latest move that touched the pages of a run.
fn latest(seen: &Seen, run: &Run) -> Option<(String, crate::record::Cause)> {
    let (start, end) = (run.first.va.0, run.first.va.0 + run.pages * PAGE_SIZE);
    let touches = |va: u64, pages: u64| va < end && start < va + pages * PAGE_SIZE;
    let mut moves = seen.latest.iter().rev().map(|story| &story.first);
    let one = moves.find(|one| touches(one.va.0, one.pages))?;
    let ms = one.t_ns.saturating_sub(seen.start_ns.unwrap_or(one.t_ns)) / 1_000_000;
    let text = format!(
        "{} at {}.{:03} s",
        cause_text(one.cause, one.reason),
        ms / 1000,
        ms % 1000
    );
    Some((text, one.cause))
}
