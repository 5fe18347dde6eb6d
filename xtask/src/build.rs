//! Builds of our own crates that run anywhere: static, so that a guest needs no libraries.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{root, setup, shell};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// An executable that cargo built.
pub(crate) struct Executable {
    /// The target's name: `v2p`, `guest-init`, or a test's.
    pub(crate) name: String,
    /// Its package's folder.
    pub(crate) package: PathBuf,
    /// The file.
    pub(crate) path: PathBuf,
    /// Whether it is a test.
    pub(crate) test: bool,
}

/// v2p and the guests' init.
pub(crate) fn binaries() -> Result<Vec<Executable>> {
    cargo(&["build", "--package", "v2p", "--package", "guest-init"])
}

/// Every test of the workspace, and the binaries too.
pub(crate) fn tests() -> Result<Vec<Executable>> {
    let mut all = binaries()?;
    all.extend(cargo(&["test", "--no-run"])?.into_iter().filter(|e| e.test));
    Ok(all)
}

/// The one of that name that is no test.
pub(crate) fn binary<'a>(all: &'a [Executable], name: &str) -> Result<&'a Executable> {
    all.iter()
        .find(|e| e.name == name && !e.test)
        .with_context(|| format!("cargo built no {name}"))
}

fn cargo(arguments: &[&str]) -> Result<Vec<Executable>> {
    shell::step(&format!("cargo {} (release, static)", arguments.join(" ")));
    let output = Command::new(setup::cargo())
        .args(arguments)
        .args([
            "--quiet",
            "--release",
            "--target",
            TARGET,
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(root())
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {}: {}", arguments.join(" "), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(executable).collect())
}

/// One line of cargo's JSON, where it tells of an executable.
fn executable(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message.get("executable")?.as_str()?;
    let target = message.get("target")?;
    let manifest = PathBuf::from(message.get("manifest_path")?.as_str()?);
    Some(Executable {
        name: target.get("name")?.as_str()?.to_owned(),
        package: manifest.parent()?.to_owned(),
        path: root().join(path),
        test: message.pointer("/profile/test")?.as_bool()?,
    })
}
