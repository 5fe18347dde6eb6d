//! Debian packages without touching the system: an apt state of our own, with the mirrors that the machine's own
//! sources name.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{cache, shell};

/// Suites that the lab's packages come from; `true`: on the security mirror.
const SUITES: [(&str, bool); 3] = [
    ("bookworm", false),
    ("bookworm-security", true),
    ("trixie-backports", false),
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Package lists of our own, fresh.
pub(crate) struct Packages {
    state: PathBuf,
}

impl Packages {
    /// Updates the lists.
    pub(crate) fn open() -> Result<Self> {
        if !shell::has("apt-get") {
            bail!(
                "apt-get is not on this machine: the lab's kernels are Debian's (use --kernel with a path)"
            );
        }
        let state = cache::root()?.join("apt");
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(folder)).with_context(|| state.display().to_string())?;
        }
        fs::write(state.join("sources.list"), sources()?)?;
        let packages = Self { state };
        shell::timed("package lists, in an apt state of our own", || {
            shell::output(packages.apt("apt-get").args(["-q", "update"]))
        })?;
        Ok(packages)
    }

    fn apt(&self, program: &str) -> Command {
        let path = |name: &str| self.state.join(name).display().to_string();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", path("lists")),
            format!("Dir::Cache={}", path("cache")),
            // Downloads go where we say; the user that apt would change to may not write there.
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// Names of packages that start and end so, newest version in the name first.
    pub(crate) fn names(&self, prefix: &str, suffix: &str) -> Result<Vec<String>> {
        let text = shell::output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        let mut names: Vec<_> = text
            .lines()
            .filter(|name| name.ends_with(suffix))
            .map(str::to_owned)
            .collect();
        names.sort_by_key(|name| std::cmp::Reverse(numbers(name)));
        Ok(names)
    }

    /// Downloads the newest version of a package into `folder`; apt checks its signature chain.
    pub(crate) fn download(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        shell::timed(&format!("download of {package}"), || {
            let name = package.split('=').next().unwrap_or(package);
            shell::run(
                self.apt("apt-get")
                    .args(["-q", "download", package])
                    .current_dir(folder),
            )?;
            let is_it = |file: &OsString| {
                file.to_str()
                    .is_some_and(|f| f.starts_with(&format!("{name}_")) && f.ends_with(".deb"))
            };
            let found = fs::read_dir(folder)?
                .flatten()
                .find(|entry| is_it(&entry.file_name()));
            Ok(found
                .with_context(|| format!("apt brought no {name}"))?
                .path())
        })
    }

    /// Downloads the version of a package whose upstream part is `version`.
    pub(crate) fn download_version(
        &self,
        package: &str,
        version: &str,
        folder: &Path,
    ) -> Result<PathBuf> {
        let text = shell::output(self.apt("apt-cache").args(["madison", package]))?;
        let versions = text
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim);
        let upstream = |v: &&str| {
            v.strip_prefix(version)
                .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
        };
        let full = versions
            .into_iter()
            .find(upstream)
            .with_context(|| format!("Debian has no {package} {version}"))?;
        self.download(&format!("{package}={full}"), folder)
    }
}

/// Unpacks a package into `folder`.
pub(crate) fn unpack(deb: &Path, folder: &Path) -> Result<()> {
    shell::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder))
}

/// The numbers in a name, in order: what versions are compared by.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Our sources.list.
fn sources() -> Result<String> {
    let own = own_sources();
    let mirror = own
        .iter()
        .find(|(_, suite)| !suite.contains('-') && !suite.contains('/'))
        .map(|(uri, _)| uri.trim_end_matches('/').to_owned())
        .context("no Debian mirror in this machine's apt sources")?;
    let security = own
        .iter()
        .find(|(_, suite)| suite.ends_with("-security"))
        .map(|(uri, _)| uri.trim_end_matches('/').to_owned())
        // Mirrors keep it beside the main archive.
        .unwrap_or_else(|| format!("{mirror}-security"));
    let signed = if Path::new(KEYRING).exists() {
        format!("[signed-by={KEYRING}] ")
    } else {
        String::new()
    };
    let line = |(suite, is_security): (&str, bool)| {
        let uri = if is_security { &security } else { &mirror };
        format!("deb {signed}{uri} {suite} main\n")
    };
    Ok(SUITES.map(line).concat())
}

/// (URI, suite) of the machine's own sources that serve Debian.
fn own_sources() -> Vec<(String, String)> {
    let mut texts = Vec::new();
    texts.extend(fs::read_to_string("/etc/apt/sources.list").map(|text| one_line_sources(&text)));
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    for path in parts.map(|entry| entry.path()) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        match path.extension().and_then(|e| e.to_str()) {
            Some("list") => texts.push(one_line_sources(&text)),
            Some("sources") => texts.push(deb822_sources(&text)),
            _ => {}
        }
    }
    let is_debian = |(_, suite): &(String, String)| {
        let name = suite.split('-').next().unwrap_or_default();
        ["bookworm", "trixie", "forky", "sid", "stable", "testing"].contains(&name)
    };
    // Others serve such suites too, but not under a path of this name.
    let is_archive = |(uri, _): &(String, String)| uri.trim_end_matches('/').contains("/debian");
    texts
        .into_iter()
        .flatten()
        .filter(is_debian)
        .filter(is_archive)
        .collect()
}

fn one_line_sources(text: &str) -> Vec<(String, String)> {
    let source = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    text.lines().filter_map(source).collect()
}

fn deb822_sources(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let values = stanza
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            values
                .flat_map(str::split_whitespace)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for uri in field("URIs") {
            found.extend(
                field("Suites")
                    .into_iter()
                    .map(|suite| (uri.clone(), suite)),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_are_read() {
        let pair = |uri: &str, suite: &str| (uri.to_owned(), suite.to_owned());
        assert_eq!(
            one_line_sources(
                "# deb http://old x main\ndeb [signed-by=/k] http://m/debian bookworm main\n"
            ),
            [pair("http://m/debian", "bookworm")]
        );
        assert_eq!(
            deb822_sources(
                "Types: deb\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\n\nURIs: http://s\nSuites: x\n"
            ),
            [
                pair("http://m/debian", "bookworm"),
                pair("http://m/debian", "bookworm-updates"),
                pair("http://s", "x")
            ]
        );
    }

    #[test]
    fn versions_in_names_are_compared_as_numbers() {
        assert!(
            numbers("linux-image-6.12.117+deb12-cloud-amd64")
                > numbers("linux-image-6.12.99+deb12-cloud-amd64")
        );
    }
}
