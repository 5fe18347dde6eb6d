//! How far the kernel is locked down (security/lockdown/lockdown.c).

use super::{
    config::{Config, Setting},
    securityfs::{self, Shown},
};

/// The kernel's file.
const FILE: &str = "lockdown";

/// The mode and the line that shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lockdown {
    /// `none`, `integrity` or `confidentiality`.
    pub mode: String,
    /// The file's line and its name.
    pub evidence: String,
}

impl Lockdown {
    /// Reads it: from where securityfs is mounted, else from a mount of our own that nobody else sees, else from what
    /// the kernel was built with, where that is known. `None`: it cannot be told.
    pub fn read(config: Option<&Config>) -> Option<Self> {
        match securityfs::read(FILE) {
            Ok(Shown { text, place }) => Self::parse(&text, &place),
            Err(rustix::io::Errno::NOENT) => Some(Self::none(
                "securityfs has no file lockdown: the kernel has no such module",
            )),
            Err(_) => Self::built_in(config?),
        }
    }

    /// Whether nobody may read the kernel's memory, eBPF programs and root's own tools neither.
    pub fn is_confidential(&self) -> bool {
        self.mode == "confidentiality"
    }

    /// Why eBPF programs that trace are refused, where that is why.
    pub fn against_bpf() -> Option<String> {
        let lockdown = Self::read(Config::of_this_kernel().as_ref())?;
        let evidence = &lockdown.evidence;
        lockdown
            .is_confidential()
            .then(|| format!("the kernel is locked down, eBPF may not read its memory: {evidence}"))
    }

    pub(crate) fn parse(text: &str, place: &str) -> Option<Self> {
        let mode = text.split_once('[')?.1.split_once(']')?.0;
        Some(Self {
            mode: mode.to_owned(),
            evidence: format!("{} ({place})", text.trim()),
        })
    }

    /// What the configuration alone says. A kernel that is not locked down as built may be so by its command line or
    /// Secure Boot.
    fn built_in(config: &Config) -> Option<Self> {
        if config.setting("CONFIG_SECURITY_LOCKDOWN_LSM") == Setting::Off {
            return Some(Self::none(&config.evidence("CONFIG_SECURITY_LOCKDOWN_LSM")));
        }
        [
            (
                "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
                "confidentiality",
            ),
            ("CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "integrity"),
        ]
        .into_iter()
        .find(|(option, _)| config.setting(option) == Setting::On)
        .map(|(option, mode)| Self {
            mode: mode.to_owned(),
            evidence: config.evidence(option),
        })
    }

    fn none(evidence: &str) -> Self {
        Self {
            mode: "none".to_owned(),
            evidence: evidence.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_the_word_in_brackets() {
        let lockdown = Lockdown::parse("none [integrity] confidentiality\n", "file").unwrap();
        assert_eq!(lockdown.mode, "integrity");
        assert_eq!(lockdown.evidence, "none [integrity] confidentiality (file)");
        assert_eq!(Lockdown::parse("nothing", "file"), None);
    }

    #[test]
    fn without_securityfs_the_configuration_tells_only_what_it_forces() {
        let built_in = |text: &str| Lockdown::built_in(&Config::for_test(text));
        let forced = "CONFIG_SECURITY_LOCKDOWN_LSM=y\nCONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y\n";
        assert_eq!(built_in(forced).unwrap().mode, "integrity");
        assert_eq!(built_in("").unwrap().mode, "none");
        assert_eq!(built_in("CONFIG_SECURITY_LOCKDOWN_LSM=y\n"), None);
    }
}
