//! The lines of a translation: a run of pages each. There may be one a page.

use std::{fmt::Write as _, rc::Rc};

use super::pages::size_name;
use crate::{
    recent::Recent,
    record::Record,
    render::{Colour, column, paint},
    state::{PageState, Verdict},
};

/// Puts the lines together, one in the place of the other.
#[derive(Default)]
pub(in crate::render) struct RunLines {
    line: String,
    /// Flags as text.
    flags: Recent<Rc<[&'static str]>, String>,
}

impl RunLines {
    /// `record` as a line with its end; `None`: it is no run.
    pub(in crate::render) fn line(&mut self, record: &Record, colour: bool) -> Option<&str> {
        let Record::Run {
            va,
            pages,
            state,
            page_size,
            flags,
            mapped,
            node,
            verdict,
            ..
        } = record
        else {
            return None;
        };
        let Self {
            line,
            flags: as_text,
        } = self;
        let flags = as_text.get(
            |known| Rc::ptr_eq(known, flags),
            || (Rc::clone(flags), flags.join(",")),
        );
        line.clear();
        column::right(line, 18, *va);
        line.push_str("  ");
        column::right(line, 8, *pages);
        line.push_str("  ");
        match *state {
            PageState::Absent => column::left(line, 16, "absent"),
            other => column::left(line, 16, other),
        };
        line.push(' ');
        column::left(line, 3, size_name(*page_size));
        line.push(' ');
        line.push_str(flags.map(String::as_str).unwrap_or_default());
        // A String takes everything.
        if let Some(mapped) = mapped {
            let _ = write!(line, "  mapped {mapped}x");
        }
        if let Some(node) = node {
            let _ = write!(line, "  node {node}");
        }
        match verdict {
            Verdict::Agree => {}
            Verdict::Single => line.push_str("  single"),
            Verdict::Disagree => line.push_str(&paint("  DISAGREE", Colour::Bad, colour)),
            Verdict::Moved => line.push_str(&paint("  moved", Colour::Bad, colour)),
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        Some(line)
    }
}
