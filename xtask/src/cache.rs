//! What is downloaded or built once and kept: outside target/, whole or not at all.
//!
//! An entry is a folder with a `sums` file, written last and moved into place at once. An entry whose files
//! are not what `sums` says is made again.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::shell;

const SUMS: &str = "sums";

/// The cache's folder: $XDG_CACHE_HOME/v2p, or ~/.cache/v2p.
pub(crate) fn root() -> Result<PathBuf> {
    let xdg = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute());
    let base = match xdg {
        Some(base) => base,
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("v2p"))
}

/// The folder of entry `name`; where it is not there, or broken, `make` fills a new one, for which it
/// needs `room` MiB of disk.
pub(crate) fn entry(
    name: &str,
    room: u64,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let root = root()?;
    entry_in(&root, name, |folder| {
        enough_room(&root, name, room)?;
        make(folder)
    })
}

/// Asked before, since apt-get for one hangs on a full disk instead of failing.
fn enough_room(root: &Path, name: &str, room: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(root).with_context(|| root.display().to_string())?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
    anyhow::ensure!(
        free >= room,
        "{name} needs {room} MiB of disk, and {} has {free} MiB left (XDG_CACHE_HOME moves it)",
        root.display()
    );
    Ok(())
}

fn entry_in(root: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let place = root.join(name);
    if place.exists() {
        match check(&place) {
            Ok(()) => return Ok(place),
            Err(e) => shell::step(&format!(
                "{name} in the cache is broken ({e:#}): making it again"
            )),
        }
    }
    // One maker of an entry at a time.
    let _lock = lock_in(root, name)?;
    if check(&place).is_ok() {
        return Ok(place);
    }
    sweep(root, name)?;
    let fresh = work_folder_in(root, name)?;
    make(fresh.path())?;
    write_sums(fresh.path())?;
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::rename(fresh.path(), &place).with_context(|| place.display().to_string())?;
    // What it would remove is not there any more.
    let _ = fresh.keep();
    Ok(place)
}

/// Waits until nobody else holds the lock `name`, and holds it as long as the file is open.
pub(crate) fn lock(name: &str) -> Result<File> {
    lock_in(&root()?, name)
}

fn lock_in(root: &Path, name: &str) -> Result<File> {
    fs::create_dir_all(root).with_context(|| root.display().to_string())?;
    let lock = File::create(root.join(format!("{name}.lock")))?;
    lock.lock().context("cache lock")?;
    Ok(lock)
}

/// A folder for the maker of entry `name` to work in: beside the entry and not in /tmp, which may be small memory. Of a maker
/// that was killed the next one removes it.
pub(crate) fn work_folder(name: &str) -> Result<TempDir> {
    Ok(work_folder_in(&root()?, name)?)
}

fn work_folder_in(root: &Path, name: &str) -> io::Result<TempDir> {
    let prefix = work_prefix(name);
    tempfile::Builder::new().prefix(&prefix).tempdir_in(root)
}

fn work_prefix(name: &str) -> String {
    format!(".making-{name}-")
}

/// Removes what a maker of the same entry left that was killed; we hold the lock, so none is at work.
fn sweep(root: &Path, name: &str) -> io::Result<()> {
    let prefix = work_prefix(name);
    for entry in fs::read_dir(root)?.flatten() {
        if entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(&prefix))
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn write_sums(folder: &Path) -> Result<()> {
    let mut sums = String::new();
    for file in files(folder)? {
        let name = file.strip_prefix(folder)?.display();
        sums.push_str(&format!("{} {name}\n", sum(&file)?));
    }
    let mut out = File::create(folder.join(SUMS))?;
    out.write_all(sums.as_bytes())?;
    Ok(out.sync_all()?)
}

fn check(folder: &Path) -> Result<()> {
    let sums = fs::read_to_string(folder.join(SUMS)).context("no sums")?;
    for line in sums.lines() {
        let (expected, name) = line.split_once(' ').context("bad sums")?;
        let actual = sum(&folder.join(name)).with_context(|| name.to_owned())?;
        anyhow::ensure!(actual == expected, "{name} has changed");
    }
    Ok(())
}

fn sum(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn fill(made: &Cell<u32>) -> impl Fn(&Path) -> Result<()> {
        move |folder| {
            made.set(made.get() + 1);
            Ok(fs::write(folder.join("file"), "content")?)
        }
    }

    #[test]
    fn an_entry_is_made_once_and_again_when_it_is_broken() {
        let root = tempfile::tempdir().unwrap();
        let made = Cell::new(0);
        let get = || entry_in(root.path(), "entry", fill(&made)).unwrap();
        let place = get();
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "content");
        get();
        assert_eq!(made.get(), 1);
        fs::write(place.join("file"), "conten").unwrap();
        get();
        assert_eq!(made.get(), 2);
        fs::remove_file(place.join(SUMS)).unwrap();
        get();
        assert_eq!(made.get(), 3);
    }

    #[test]
    fn what_a_killed_maker_left_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join(".making-entry-Ab12");
        fs::create_dir_all(left.join("deep")).unwrap();
        let made = Cell::new(0);
        entry_in(root.path(), "entry", fill(&made)).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn what_fails_half_way_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let failed = entry_in(root.path(), "entry", |folder| {
            fs::write(folder.join("half"), "x")?;
            anyhow::bail!("disk full")
        });
        assert!(failed.is_err());
        assert!(!root.path().join("entry").exists());
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
    }
}
