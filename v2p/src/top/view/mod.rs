//! The view as lines. Pure.

mod pages;
mod parts;

use ratatui::{
    Frame,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    app::{App, Mode},
    mappings::Row,
};
use crate::{
    record::Cause,
    render::{bytes, file_name, grouped, printable},
};

/// Fewer columns or lines are too few to show anything.
const SMALLEST: (u16, u16) = (40, 8);

/// Draws it over all of `frame`.
pub fn draw(frame: &mut Frame<'_>, app: &App) {
    let area = frame.area();
    let lines = lines(app, area.width, area.height);
    frame.render_widget(Paragraph::new(lines), area);
}

/// At most `height` lines for `width` columns.
pub fn lines(app: &App, width: u16, height: u16) -> Vec<Line<'static>> {
    if width < SMALLEST.0 || height < SMALLEST.1 {
        return vec![Line::raw("v2p top: the terminal is too small")];
    }
    let (w, h) = (usize::from(width), usize::from(height));
    let mut lines = vec![heading(app, w), sums(app)];
    // One line below is the keys'.
    let room = h - 3;
    match app.mode {
        Mode::Pages => lines.extend(pages::lines(app, w, room)),
        Mode::Mappings | Mode::Filter => {
            let rates = (room / 4).clamp(2, 9);
            let latest = (room / 3).clamp(2, 16);
            lines.extend(parts::rates(app, w, rates));
            lines.extend(parts::mappings(app, w, room - rates - latest));
            lines.extend(parts::latest(app, w, latest));
        }
    }
    lines.resize(h - 1, Line::default());
    lines.push(keys(app, w));
    lines
}

/// What stands out, in colours where they are wanted.
struct Tones {
    colour: bool,
}

impl Tones {
    const fn of(app: &App) -> Self {
        Self { colour: app.colour }
    }

    fn head() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn bar() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    fn bad(&self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
            false => Self::bar(),
        }
    }

    fn bars(&self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::Cyan),
            false => Style::new(),
        }
    }

    fn cause(&self, cause: Cause) -> Style {
        match self.colour && cause.stands_out() {
            true => Style::new().fg(Color::Red),
            false => Style::new(),
        }
    }
}

fn heading(app: &App, width: usize) -> Line<'static> {
    let subject = &app.subject;
    let seconds = app.seen().seconds;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let missing = match subject.missing {
        0 => String::new(),
        n => format!(", {n} missing"),
    };
    let left = format!(
        " v2p top  {} {}  Linux {}  {} hooks{missing}",
        subject.pid,
        printable(&subject.comm),
        subject.kernel,
        subject.hooks
    );
    let paused = if app.is_paused() { "PAUSED " } else { "" };
    let right = format!("{paused}{hours}:{minutes:02}:{seconds:02} ");
    let room = width.saturating_sub(right.chars().count());
    let left = fitted(&left, room.saturating_sub(1));
    Line::styled(format!("{left} {right}"), Tones::bar())
}

fn sums(app: &App) -> Line<'static> {
    let seen = app.seen();
    let rows = &seen.mappings.rows;
    let present: u64 = rows.iter().map(|row| row.present).sum();
    let swapped: u64 = rows.iter().map(|row| row.swapped).sum();
    let line = format!(
        " resident {} pages ({})  swapped {}  moved {}",
        grouped(present),
        bytes(present * v2p_common::PAGE_SIZE),
        grouped(swapped),
        grouped(seen.moved.total)
    );
    match seen.lost {
        0 => Line::raw(format!("{line}  lost 0 events")),
        // First: it must not be what has no room.
        n => Line::from(vec![
            Span::raw(" "),
            Span::styled(
                format!(" LOST {} EVENTS ", grouped(n)),
                Tones::of(app).bad(),
            ),
            Span::raw(line),
        ]),
    }
}

fn keys(app: &App, width: usize) -> Line<'static> {
    if !app.message.is_empty() {
        let message = format!(" {}", printable(&app.message));
        return Line::styled(fitted(&message, width), Tones::bar());
    }
    let filter = printable(&app.filter);
    let pause = if app.is_paused() {
        "p go on"
    } else {
        "p pause"
    };
    let text = match app.mode {
        Mode::Filter => format!(" filter: {filter}_   Enter keeps it, Esc clears it"),
        Mode::Pages => format!(" q quit   {pause}   \u{2191}\u{2193} scroll   Esc back"),
        Mode::Mappings => {
            let clear = if filter.is_empty() {
                ""
            } else {
                "   Esc clear"
            };
            format!(
                " q quit   {pause}   s sort   / filter{clear}   \u{2191}\u{2193} choose   Enter its pages"
            )
        }
    };
    Line::styled(fitted(&text, width), Tones::bar())
}

/// What a mapping is called: unnamed ones by their address, files by their last part.
fn label(row: &Row) -> String {
    match row.name.as_str() {
        "" => format!("{:#x} anon", row.start),
        name => printable(file_name(name)).into_owned(),
    }
}

/// `text` with blanks up to `width` columns, or cut.
fn fitted(text: &str, width: usize) -> String {
    let text: String = text.chars().take(width).collect();
    format!("{text:<width$}")
}

#[cfg(test)]
mod tests;
