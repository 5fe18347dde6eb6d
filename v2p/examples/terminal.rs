//! What a terminal shows as SVG, for docs/top.svg: `tmux capture-pane -e -p | cargo run --example terminal -- "TITLE" > top.svg`.
//!
//! docs/lab.md has the whole command. Only what the view of `v2p top` uses: bold, reversed, red, cyan.

use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Result};

/// A letter's place, in pixels, and the border around all.
const CELL: (f64, f64) = (8.4, 17.0);
const BORDER: f64 = 10.0;
const GROUND: &str = "#16191d";
const INK: &str = "#d7dae0";
const RED: &str = "#ff6b6b";
const CYAN: &str = "#4fb3bf";

/// How letters look.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Style {
    colour: Option<&'static str>,
    is_bold: bool,
    is_reversed: bool,
}

impl Style {
    /// Takes the parameters of a Select Graphic Rendition.
    fn select(&mut self, parameters: &str) {
        let mut numbers = parameters.split(';').map(|n| n.parse().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                0u32 => *self = Self::default(),
                1 => self.is_bold = true,
                7 => self.is_reversed = true,
                27 => self.is_reversed = false,
                31 | 91 => self.colour = Some(RED),
                36 | 96 => self.colour = Some(CYAN),
                39 => self.colour = None,
                // 38;5;N: of a palette, whose first are the same.
                38 => {
                    self.colour = match (numbers.next(), numbers.next()) {
                        (Some(5), Some(1 | 9)) => Some(RED),
                        (Some(5), Some(6 | 14)) => Some(CYAN),
                        _ => None,
                    }
                }
                _ => {}
            }
        }
    }
}

/// Letters of one look, and the column in which they begin.
struct Span {
    column: usize,
    style: Style,
    text: String,
}

fn main() -> Result<()> {
    let title = std::env::args().nth(1).context("a title")?;
    let mut shown = String::new();
    io::stdin().read_to_string(&mut shown).context("stdin")?;
    let mut style = Style::default();
    let rows: Vec<_> = shown.lines().map(|line| spans(line, &mut style)).collect();
    let end = |span: &Span| span.column + span.text.chars().count();
    let columns = rows.iter().flatten().map(end).max().context("no letters")?;
    io::stdout().write_all(svg(&title, columns, &rows).as_bytes())?;
    Ok(())
}

/// A line's letters, look by look. The look goes on into the next line.
fn spans(line: &str, style: &mut Style) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let (mut column, mut letters) = (0, line.chars());
    while let Some(c) = letters.next() {
        if c == '\u{1b}' {
            // CSI, parameters, and the letter that ends it.
            letters.next();
            let parameters: Vec<_> = letters.by_ref().take_while(|c| *c != 'm').collect();
            style.select(&parameters.into_iter().collect::<String>());
            continue;
        }
        match spans.last_mut() {
            Some(last) if last.style == *style => last.text.push(c),
            _ => spans.push(Span {
                column,
                style: *style,
                text: c.to_string(),
            }),
        }
        column += 1;
    }
    spans
}

fn svg(title: &str, columns: usize, rows: &[Vec<Span>]) -> String {
    let pixels = |cells: usize, of: f64| u32::try_from(cells).map_or(0.0, f64::from) * of;
    let width = pixels(columns, CELL.0) + 2.0 * BORDER;
    let height = pixels(rows.len(), CELL.1) + 2.0 * BORDER;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace\" font-size=\"14\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{GROUND}\"/>\n",
        escaped(title)
    );
    for (y, spans) in rows.iter().enumerate() {
        let top = BORDER + pixels(y, CELL.1);
        for Span {
            column,
            style,
            text,
        } in spans
        {
            let (mut ink, ground) = (style.colour.unwrap_or(INK), INK);
            let left = BORDER + pixels(*column, CELL.0);
            let all = pixels(text.chars().count(), CELL.0);
            if style.is_reversed {
                ink = GROUND;
                out.push_str(&format!(
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{all:.1}\" height=\"{}\" fill=\"{ground}\"/>\n",
                    CELL.1
                ));
            }
            let letters = text.trim();
            if letters.is_empty() {
                continue;
            }
            let blanks = text.chars().take_while(|c| *c == ' ').count();
            let weight = if style.is_bold {
                " font-weight=\"bold\""
            } else {
                ""
            };
            out.push_str(&format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{ink}\"{weight} \
                 xml:space=\"preserve\">{}</text>\n",
                left + pixels(blanks, CELL.0),
                top + 13.0,
                pixels(letters.chars().count(), CELL.0),
                escaped(letters)
            ));
        }
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
