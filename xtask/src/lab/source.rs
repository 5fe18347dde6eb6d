//! The kernel's own source, as Debian packs it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::apt;
use crate::shell;

/// The series whose source is used.
pub(crate) const SERIES: &str = "6.12";

/// Downloads the source and unpacks it in `work`: all of it, or the folders in `only`; gives its folder.
pub(crate) fn unpack(work: &Path, only: &[&str]) -> Result<PathBuf> {
    let name = format!("linux-source-{SERIES}");
    let packages = apt::Packages::open()?;
    let deb = packages.download(&name, work)?;
    apt::unpack(&deb, work)?;
    let archive = work.join(format!("usr/src/{name}.tar.xz"));
    shell::run(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(work)
            .args(only.iter().map(|folder| format!("{name}/{folder}"))),
    )?;
    Ok(work.join(name))
}
