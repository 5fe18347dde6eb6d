//! `cargo xtask deny`: what is built into v2p: licences, sources, duplicates, and known holes where their list can be had.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{cache, root, setup, shell};

const CARGO_DENY: &str = "0.20.2";

/// Checks Cargo.lock by deny.toml.
pub(crate) fn run() -> Result<()> {
    let name = format!("cargo-deny-{CARGO_DENY}");
    let entry = cache::entry(&name, 1500, |folder| {
        shell::timed(&format!("{name} (once)"), || install(folder))
    })?;
    let deny = || {
        let mut command = Command::new(entry.join("bin/cargo-deny"));
        command.current_dir(root());
        command
    };
    const HELD: [&str; 3] = ["licenses", "bans", "sources"];
    shell::run(deny().arg("check").args(HELD))?;
    match advisories(deny)? {
        List::Newest => println!("deny: {} passed, 0 failed, 0 skipped", HELD.len() + 1),
        List::Copy { date } => println!(
            "deny: {} passed, 0 failed, 0 skipped (advisories by a copy of their list of {date})",
            HELD.len() + 1
        ),
        List::None => println!(
            "deny: {} passed, 0 failed, 1 skipped (advisories: their list cannot be fetched from here)",
            HELD.len()
        ),
    }
    Ok(())
}

/// Which list of advisories was asked.
enum List {
    Newest,
    /// Of that day.
    Copy {
        date: String,
    },
    None,
}

/// The list of known holes is a git repository. A machine that sees the package registries alone cannot fetch it; then a copy that lies where
/// cargo-deny keeps it (advisory-dbs in cargo's home) is asked.
fn advisories(deny: impl Fn() -> Command) -> Result<List> {
    const NO_FETCH: &str = "failed to fetch advisory database";
    const NO_COPY: &str = "failed to get HEAD timestamp";
    let check = |options: &[&str]| -> Result<(bool, String)> {
        let output = deny()
            .args(options)
            .args(["check", "advisories"])
            .output()?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.success(), words))
    };
    let words = match check(&[])? {
        (true, _) => return Ok(List::Newest),
        (false, words) if words.contains(NO_FETCH) => match check(&["--offline"])? {
            (true, _) => {
                return Ok(List::Copy {
                    date: date_of_copy()?,
                });
            }
            (false, words) if words.contains(NO_COPY) => return Ok(List::None),
            (false, words) => words,
        },
        (false, words) => words,
    };
    bail!("cargo deny check advisories:\n{words}")
}

/// The day of the last advisory in the copy. cargo-deny goes by when it was fetched last, or tried to.
fn date_of_copy() -> Result<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let lists = home.context("no home")?.join("advisory-dbs");
    for entry in fs::read_dir(&lists)?.flatten() {
        let shown = Command::new("git")
            .arg("-C")
            .arg(entry.path())
            .args(["log", "-1", "--format=%cs"])
            .output()?;
        if shown.status.success() {
            return Ok(String::from_utf8_lossy(&shown.stdout).trim().to_owned());
        }
    }
    bail!("{}: no list there", lists.display())
}

/// Built without optimisation: it runs once.
fn install(folder: &Path) -> Result<()> {
    let build = tempfile::tempdir()?;
    shell::run(
        Command::new(setup::cargo())
            .args(["install", "cargo-deny", "--version", CARGO_DENY])
            .args(["--locked", "--debug", "--quiet", "--root"])
            .arg(folder)
            .arg("--target-dir")
            .arg(build.path()),
    )
}
