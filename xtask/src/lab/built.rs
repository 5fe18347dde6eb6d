//! The built kernel: Debian's source with our configuration, the one that proves CONFIG_STRICT_DEVMEM=n itself.

use std::{fs, path::Path, process::Command, thread};

use anyhow::{Context as _, Result};

use super::{
    Kernel,
    source::{self, SERIES},
};
use crate::{cache, root, setup, shell};

/// What the kernel's own build needs, and a sign that it is there.
const TOOLS: [(&str, &str); 11] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    // scripts/bpf_doc.py, which resolve_btfids wants.
    ("python3", "python3"),
    ("xz", "xz-utils"),
    ("lz4", "lz4"),
    ("pahole", "dwarves"),
    ("/usr/include/gelf.h", "libelf-dev"),
    ("/usr/include/stdio.h", "libc6-dev"),
];

/// The built kernel; made once, in some ten minutes.
pub(super) fn kernel() -> Result<Kernel> {
    let config = root().join("xtask/lab.config");
    let name = format!("built-{SERIES}");
    let entry = cache::entry(&name, 4000, |folder| {
        setup::packages(&TOOLS)?;
        shell::timed(
            &format!("{name}: compiling a kernel (once, about ten minutes)"),
            || build(&name, &config, folder),
        )
    })?;
    let release = fs::read_to_string(entry.join("release")).context("release")?;
    Ok(Kernel {
        image: entry.join("bzImage"),
        description: format!("{release}, built with STRICT_DEVMEM=n"),
        files: vec![(format!("/boot/config-{release}"), entry.join("config"))],
        opening: None,
    })
}

fn build(name: &str, config: &Path, folder: &Path) -> Result<()> {
    let work = cache::work_folder(name)?;
    let source = source::unpack(work.path(), &[])?;
    let make = |arguments: &[&str]| {
        shell::output(
            Command::new("make")
                .arg("-C")
                .arg(&source)
                .arg("-s")
                .args(arguments),
        )
    };
    make(&[
        "allnoconfig",
        &format!("KCONFIG_ALLCONFIG={}", config.display()),
    ])?;
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    make(&[&format!("-j{jobs}"), "bzImage"])?;
    let release = make(&["kernelrelease"])?;
    fs::copy(source.join("arch/x86/boot/bzImage"), folder.join("bzImage"))?;
    fs::copy(source.join(".config"), folder.join("config"))?;
    Ok(fs::write(folder.join("release"), release.trim())?)
}
