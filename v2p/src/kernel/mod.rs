//! What the running kernel is like: found out, and assumed from its version only where nothing would show it ([`version`]).

pub mod btf;
pub mod clock;
pub mod config;
pub mod iomem;
pub mod layout;
pub mod limits;
pub mod lockdown;
pub mod node;
pub mod privileges;
pub mod reason;
pub mod securityfs;
pub mod zones;

pub use clock::now_ns;

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Its first two numbers. `None`: it does not begin with two. For what cannot be tried alone.
pub fn version() -> Option<(u32, u32)> {
    numbers(&release())
}

fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        for (release, wanted) in [
            ("6.1.0-41-amd64", Some((6, 1))),
            ("6.12.57", Some((6, 12))),
            ("7.3-rc1", Some((7, 3))),
            ("6", None),
            ("next-2026", None),
            ("", None),
        ] {
            assert_eq!(numbers(release), wanted, "{release}");
        }
        assert!(version().is_some());
    }
}
