//! The options that the running kernel was built with, where it tells.

use std::{fs, io::Read as _};

use flate2::read::GzDecoder;

/// A kernel configuration and where it was read.
#[derive(Clone, Debug)]
pub struct Config {
    text: String,
    /// The file that it came from.
    pub path: String,
}

/// What the configuration says of one option, as a line of evidence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    /// `=y` or `=m`.
    On,
    /// `is not set`, or not named at all.
    Off,
}

impl Config {
    /// The first of the places where distributions keep it.
    pub fn of_this_kernel() -> Option<Self> {
        let release = super::release();
        [
            "/proc/config.gz".to_owned(),
            format!("/boot/config-{release}"),
            format!("/usr/lib/modules/{release}/config"),
            format!("/lib/modules/{release}/config"),
        ]
        .into_iter()
        .find_map(Self::read)
    }

    fn read(path: String) -> Option<Self> {
        let bytes = fs::read(&path).ok()?;
        Self::of_bytes(path, bytes)
    }

    /// What the file `path` holds, which is packed where its name says so.
    pub(crate) fn of_bytes(path: String, bytes: Vec<u8>) -> Option<Self> {
        let text = if path.ends_with(".gz") {
            let mut text = String::new();
            GzDecoder::new(bytes.as_slice())
                .read_to_string(&mut text)
                .ok()?;
            text
        } else {
            String::from_utf8(bytes).ok()?
        };
        // An empty or masked file would say no to everything.
        text.contains("\nCONFIG_").then_some(Self { text, path })
    }

    /// One of this text.
    #[cfg(test)]
    pub(crate) fn for_test(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            path: "test".to_owned(),
        }
    }

    /// `option` with its `CONFIG_` prefix.
    pub fn setting(&self, option: &str) -> Setting {
        let on = self.text.lines().any(|line| {
            line.strip_prefix(option)
                .is_some_and(|rest| matches!(rest, "=y" | "=m"))
        });
        if on { Setting::On } else { Setting::Off }
    }

    /// The option's line and the file, for a person to check.
    pub fn evidence(&self, option: &str) -> String {
        let Self { path, .. } = self;
        match self.setting(option) {
            Setting::On => format!("{option}=y ({path})"),
            Setting::Off => format!("{option} is not set ({path})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_not_taken_for_one_whose_name_starts_the_same() {
        let config =
            Config::for_test("CONFIG_DEVMEM_X=y\n# CONFIG_DEVMEM is not set\nCONFIG_NUMA=y\n");
        assert_eq!(config.setting("CONFIG_DEVMEM"), Setting::Off);
        assert_eq!(config.setting("CONFIG_NUMA"), Setting::On);
        assert_eq!(
            config.evidence("CONFIG_DEVMEM"),
            "CONFIG_DEVMEM is not set (test)"
        );
    }
}
