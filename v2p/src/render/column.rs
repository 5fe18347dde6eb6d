//! Columns of a line. Not by the formatter's own padding, which goes character by character: there may be a line a page.

use std::fmt::{Display, Write as _};

/// As wide as any column.
const SPACES: &str = "                                ";

/// Adds `value` to `line`, right-aligned in `width` characters; what is wider stands out.
pub(super) fn right(line: &mut String, width: usize, value: impl Display) {
    let start = line.len();
    let spaces = add(line, width, value);
    line.insert_str(start, spaces);
}

/// The same, left-aligned.
pub(super) fn left(line: &mut String, width: usize, value: impl Display) {
    let spaces = add(line, width, value);
    line.push_str(spaces);
}

/// Adds `value`; gives the spaces that are missing.
fn add(line: &mut String, width: usize, value: impl Display) -> &'static str {
    let start = line.len();
    // A String takes everything.
    let _ = write!(line, "{value}");
    let added = line.get(start..).unwrap_or_default();
    let missing = width.saturating_sub(added.chars().count());
    SPACES.get(..missing).unwrap_or(SPACES)
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
