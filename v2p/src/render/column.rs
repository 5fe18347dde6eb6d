//! Columns of a line. Not by the formatter's own padding, which goes character by character: there may be a line a page.

use std::fmt::{Arguments, Write as _};

use super::digits::HexDigits;
use crate::{record::Hex, state::PageState};

/// As wide as any column.
const SPACES: &str = "                                ";

/// What stands in a column.
pub(super) trait Cell {
    /// Adds it to the line; gives how many characters it has.
    fn add(&self, line: &mut String) -> usize;
}

impl Cell for &str {
    fn add(&self, line: &mut String) -> usize {
        line.push_str(self);
        if self.is_ascii() {
            self.len()
        } else {
            self.chars().count()
        }
    }
}

impl Cell for u64 {
    fn add(&self, line: &mut String) -> usize {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(*self);
        line.push_str(digits);
        digits.len()
    }
}

impl Cell for Hex {
    fn add(&self, line: &mut String) -> usize {
        let digits = HexDigits::of(self.0);
        line.push_str(digits.text());
        digits.text().len()
    }
}

impl Cell for Arguments<'_> {
    fn add(&self, line: &mut String) -> usize {
        let start = line.len();
        // A String takes everything.
        let _ = line.write_fmt(*self);
        line.get(start..).unwrap_or_default().chars().count()
    }
}

/// A page's state in a word or two.
impl Cell for PageState {
    fn add(&self, line: &mut String) -> usize {
        match *self {
            Self::Present { pfn } => ("pfn ", pfn.0).add(line),
            Self::Zero => "zero page".add(line),
            Self::Swapped { swap: Some(swap) } => {
                ("swap ", (u64::from(swap.device), (":", swap.offset))).add(line)
            }
            Self::Swapped { swap: None } => "swapped".add(line),
            Self::Migrating { pfn } => ("migrating ", pfn.0).add(line),
            Self::Device { pfn } => ("device pfn ", pfn.0).add(line),
            Self::Poisoned => "poisoned".add(line),
            Self::Guard => "guard".add(line),
            Self::Hidden => "hidden".add(line),
            Self::Absent => "-".add(line),
        }
    }
}

/// One behind the other.
impl<A: Cell, B: Cell> Cell for (A, B) {
    fn add(&self, line: &mut String) -> usize {
        self.0.add(line) + self.1.add(line)
    }
}

/// Adds `cell` to `line`, right-aligned in `width` characters. What is wider stands out, by so many as this gives: the next column may have so much
/// less.
pub(super) fn right(line: &mut String, width: usize, cell: impl Cell) -> usize {
    let start = line.len();
    let used = cell.add(line);
    line.insert_str(start, spaces(width, used));
    used.saturating_sub(width)
}

/// The same, left-aligned.
pub(super) fn left(line: &mut String, width: usize, cell: impl Cell) -> usize {
    let used = cell.add(line);
    line.push_str(spaces(width, used));
    used.saturating_sub(width)
}

/// What fills `width` characters where so many are used.
fn spaces(width: usize, used: usize) -> &'static str {
    SPACES.get(..width.saturating_sub(used)).unwrap_or(SPACES)
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
