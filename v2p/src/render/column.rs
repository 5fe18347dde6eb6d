//! Columns of a line. Not by the formatter's own padding, which goes character by character: there may be a line a page.

use std::fmt::{Arguments, Write as _};

use super::digits::Digits;
use crate::{record::Hex, state::PageState};

/// As wide as any column.
const SPACES: &str = "                                ";

/// What stands in a column.
pub(super) trait Cell {
    /// Adds it to the line.
    fn add(&self, line: &mut String);
}

impl Cell for &str {
    fn add(&self, line: &mut String) {
        line.push_str(self);
    }
}

impl Cell for u64 {
    fn add(&self, line: &mut String) {
        line.push_str(Digits::decimal(*self).text());
    }
}

impl Cell for Hex {
    fn add(&self, line: &mut String) {
        line.push_str(Digits::hex(self.0).text());
    }
}

impl Cell for Arguments<'_> {
    fn add(&self, line: &mut String) {
        // A String takes everything.
        let _ = line.write_fmt(*self);
    }
}

/// A page's state in a word or two.
impl Cell for PageState {
    fn add(&self, line: &mut String) {
        match *self {
            Self::Present { pfn } => ("pfn ", pfn.0).add(line),
            Self::Zero => line.push_str("zero page"),
            Self::Swapped { swap: Some(swap) } => {
                ("swap ", (u64::from(swap.device), (":", swap.offset))).add(line);
            }
            Self::Swapped { swap: None } => line.push_str("swapped"),
            Self::Migrating { pfn } => ("migrating ", pfn.0).add(line),
            Self::Device { pfn } => ("device ", pfn.0).add(line),
            Self::Poisoned => line.push_str("poisoned"),
            Self::Guard => line.push_str("guard"),
            Self::Hidden => line.push_str("hidden"),
            Self::Absent => line.push('-'),
        }
    }
}

/// One behind the other.
impl<A: Cell, B: Cell> Cell for (A, B) {
    fn add(&self, line: &mut String) {
        self.0.add(line);
        self.1.add(line);
    }
}

/// Adds `cell` to `line`, right-aligned in `width` characters. What is wider stands out, by so many as this gives: the next column may have so much
/// less.
pub(super) fn right(line: &mut String, width: usize, cell: impl Cell) -> usize {
    let start = line.len();
    let (spaces, over) = add(line, width, &cell);
    line.insert_str(start, spaces);
    over
}

/// The same, left-aligned.
pub(super) fn left(line: &mut String, width: usize, cell: impl Cell) -> usize {
    let (spaces, over) = add(line, width, &cell);
    line.push_str(spaces);
    over
}

/// Adds `cell`; gives the spaces that are missing, and the characters that are too many.
fn add(line: &mut String, width: usize, cell: &impl Cell) -> (&'static str, usize) {
    let start = line.len();
    cell.add(line);
    let used = line.get(start..).unwrap_or_default().chars().count();
    let missing = width.saturating_sub(used);
    (
        SPACES.get(..missing).unwrap_or(SPACES),
        used.saturating_sub(width),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_the_formatter_makes_them() {
        for value in ["7", "123456789", "caf\u{e9}"] {
            let mut line = String::from("a");
            right(&mut line, 8, value);
            line.push('|');
            left(&mut line, 8, value);
            line.push('|');
            assert_eq!(line, format!("a{value:>8}|{value:<8}|"));
        }
    }
}
