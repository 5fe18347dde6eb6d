//! `cargo xtask deny`: what is built into v2p: licences, sources, duplicates, and known holes where their list can be had.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

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
        Some(list) => println!("deny: {} passed, 0 failed, 0 skipped{list}", HELD.len() + 1),
        None => println!(
            "deny: {} passed, 0 failed, 1 skipped (advisories: their list cannot be fetched from here)",
            HELD.len()
        ),
    }
    Ok(())
}

/// The list of known holes is a git repository. A machine that sees the package registries alone cannot fetch it; then a copy that lies where
/// cargo-deny keeps it (advisory-dbs in cargo's home) is asked. Gives which list it was, where not the newest; `None`: there is none.
fn advisories(deny: impl Fn() -> Command) -> Result<Option<&'static str>> {
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
        (true, _) => return Ok(Some("")),
        (false, words) if words.contains(NO_FETCH) => match check(&["--offline"])? {
            (true, _) => return Ok(Some(" (advisories by the copy of their list that is here)")),
            (false, words) if words.contains(NO_COPY) => return Ok(None),
            (false, words) => words,
        },
        (false, words) => words,
    };
    bail!("cargo deny check advisories:\n{words}")
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
