//! Text of somebody else's choice, made harmless to a terminal and to who reads it. Pure.

use std::borrow::Cow;

/// What steers a terminal, is not seen, or turns the order of what is written (Unicode's general punctuation).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
}

/// `text` with escapes in the place of what could steer the terminal or mislead.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| match is_hidden(c) {
        true => c.escape_default().collect(),
        false => String::from(c),
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_shown() {
        assert_eq!(printable("/usr/bin/caf\u{e9}"), "/usr/bin/caf\u{e9}");
        assert_eq!(printable("a\x1b[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }
}
