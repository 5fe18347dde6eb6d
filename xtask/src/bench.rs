//! `cargo xtask bench`: how fast a translation is, and how much memory it takes, each against a reference in the same run.
//!
//! The measuring is v2p/benches/translate.rs; here is what it is held against: the kernel's own page-types.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::{cache, lab::source, root, setup, shell};

/// What the build of page-types needs, and a sign that it is there.
const TOOLS: [(&str, &str); 4] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("xz", "xz-utils"),
    ("/usr/include/stdio.h", "libc6-dev"),
];

/// Measures, on this machine's kernel; the table or the JSON lines go to stdout.
pub(crate) fn run(json: bool) -> Result<()> {
    let page_types = page_types()?;
    let mut cargo = Command::new(setup::cargo());
    cargo
        .args(["bench", "--quiet", "--package", "v2p"])
        .args(["--bench", "translate", "--", "--page-types"])
        .arg(page_types)
        .current_dir(root());
    if json {
        cargo.arg("--json");
    }
    let status = cargo.status()?;
    ensure!(status.success(), "cargo bench: {status}");
    let mut watch = Command::new(setup::cargo());
    watch.args([
        "bench",
        "--quiet",
        "--package",
        "v2p",
        "--bench",
        "watch",
        "--",
    ]);
    if json {
        watch.arg("--json");
    }
    let status = watch.current_dir(root()).status()?;
    ensure!(status.success(), "cargo bench: {status}");
    Ok(())
}

/// tools/mm/page-types.c of the kernel's source, built once.
fn page_types() -> Result<PathBuf> {
    let name = format!("page-types-{}", source::SERIES);
    let entry = cache::entry(&name, 1000, |folder| {
        setup::packages(&TOOLS)?;
        shell::timed(&format!("{name}: from the kernel's source"), || {
            build(&name, folder)
        })
    })?;
    Ok(entry.join("page-types"))
}

fn build(name: &str, folder: &Path) -> Result<()> {
    // Beside the entry and not in /tmp, which may be small memory.
    let work = tempfile::Builder::new()
        .prefix(&format!(".making-{name}-"))
        .tempdir_in(cache::root()?)?;
    let source = source::unpack(work.path(), &["tools", "scripts", "include/uapi"])?;
    shell::output(
        Command::new("make")
            .arg("-C")
            .arg(source.join("tools/mm"))
            .args(["-s", "page-types"]),
    )?;
    fs::copy(
        source.join("tools/mm/page-types"),
        folder.join("page-types"),
    )?;
    Ok(())
}
