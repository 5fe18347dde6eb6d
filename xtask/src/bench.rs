//! `cargo xtask bench`: how fast a translation is, and how much memory it takes, each against a reference in the same run;
//! what a watch costs; and the storm of guarded writes, in a guest, since no other kernel here lets /dev/mem be written.
//!
//! The measuring is v2p/benches and v2p/tests/live/write/storm; here is what translations are held against: the kernel's own
//! page-types.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    cache,
    lab::source,
    root, setup, shell,
    test::{BURST_SECONDS, STORM_WRITES},
};

/// What the build of page-types needs, and a sign that it is there.
const TOOLS: [(&str, &str); 4] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("xz", "xz-utils"),
    ("/usr/include/stdio.h", "libc6-dev"),
];

/// Tracers that a watch is held against.
const TRACERS: [(&str, &str); 2] = [("perf", "linux-perf"), ("bpftrace", "bpftrace")];

/// Measures, on this machine's kernel; the table or the JSON lines go to stdout.
pub(crate) fn run(json: bool) -> Result<()> {
    let page_types = page_types()?;
    if let Err(e) = setup::packages(&TRACERS) {
        shell::step(&format!("without what cannot be had: {e:#}"));
    }
    let cargo_bench = |name: &str, arguments: &[&OsStr]| -> Result<()> {
        let status = Command::new(setup::cargo())
            .args(["bench", "--quiet", "--package", "v2p"])
            .args(["--bench", name, "--"])
            .args(arguments)
            .args(json.then_some("--json"))
            .current_dir(root())
            .status()?;
        ensure!(status.success(), "cargo bench: {status}");
        Ok(())
    };
    cargo_bench(
        "translate",
        &["--page-types".as_ref(), page_types.as_os_str()],
    )?;
    cargo_bench("watch", &[])?;
    printed(json, "burst", (BURST_SECONDS, "60"))?;
    printed(json, "storm", (STORM_WRITES, "1000"))
}

/// The guest that has two nodes and an open /dev/mem: the first whose title has this in it.
const GUEST: &str = "opened-6.12 no5lvl";

/// What a live test says of itself, in a guest, of the size that the environment says or that is given. Where there can be no guest the
/// other rows stand, and it is said.
fn printed(json: bool, family: &str, (size, unless_given): (&str, &str)) -> Result<()> {
    let value = std::env::var(size).unwrap_or_else(|_| unless_given.to_owned());
    let output = Command::new(std::env::current_exe()?)
        .args(["test", &format!("[{family}]"), "--on", GUEST])
        .env(size, value)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = lines_of(family, &text).peekable();
    if lines.peek().is_none() {
        shell::step(&format!("no {family}: no guest {GUEST} ran:\n{text}"));
        return Ok(());
    }
    for line in lines {
        match json {
            true => println!("{}", json!({"type": family, "line": line})),
            false => println!("{line}"),
        }
    }
    ensure!(output.status.success(), "the {family}: {}", output.status);
    Ok(())
}

/// What the tests of a family printed of themselves.
fn lines_of<'a>(family: &'a str, text: &'a str) -> impl Iterator<Item = &'a str> {
    let own = move |line: &'a str| {
        let line = line.trim();
        // What is said first stands behind the test's name.
        let said = match line.split_once(" ... ") {
            Some((test, said)) if test.starts_with("test ") => said,
            _ => line,
        };
        said.strip_prefix(family)?.strip_prefix(": ")
    };
    text.lines().filter_map(own)
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
    let work = cache::work_folder(name)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_family_are_found() {
        let text = "running 1 test\n    test [storm] write_storm ... storm: row  writes\n    storm: a ... 150\nother\n";
        let lines: Vec<_> = lines_of("storm", text).collect();
        assert_eq!(lines, ["row  writes", "a ... 150"]);
    }
}
