//! How far the kernel is locked down (security/lockdown/lockdown.c).

use std::fs;

/// Where the kernel tells, once securityfs is mounted.
pub const PATH: &str = "/sys/kernel/security/lockdown";

/// The mode and the line that shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lockdown {
    /// `none`, `integrity` or `confidentiality`.
    pub mode: String,
    /// The file's line and its name.
    pub evidence: String,
}

impl Lockdown {
    /// Reads it; `None`: the file is not there.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string(PATH).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mode = text.split_once('[')?.1.split_once(']')?.0;
        Some(Self {
            mode: mode.to_owned(),
            evidence: format!("{} ({PATH})", text.trim()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_the_word_in_brackets() {
        let lockdown = Lockdown::parse("none [integrity] confidentiality\n").unwrap();
        assert_eq!(lockdown.mode, "integrity");
        assert!(
            lockdown
                .evidence
                .starts_with("none [integrity] confidentiality (")
        );
        assert_eq!(Lockdown::parse("nothing"), None);
    }
}
