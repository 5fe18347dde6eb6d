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
    let skipped = advisories(deny().args(["check", "advisories"]))?;
    let (passed, skips) = match skipped {
        None => (HELD.len() + 1, String::new()),
        Some(why) => (HELD.len(), format!("1 skipped (advisories: {why})")),
    };
    println!(
        "deny: {passed} passed, 0 failed, {}",
        if skips.is_empty() {
            "0 skipped"
        } else {
            &skips
        }
    );
    Ok(())
}

/// The list of known holes is a git repository. A machine that sees the package registries alone cannot have it, and is told so: the reason.
fn advisories(command: &mut Command) -> Result<Option<&'static str>> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(None);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("failed to fetch advisory database") {
        return Ok(Some("their list cannot be fetched from here"));
    }
    bail!("cargo deny check advisories: {}\n{words}", output.status)
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
