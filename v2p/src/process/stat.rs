//! /proc/PID/stat, of a process or of one of its threads.

use std::{fs, path::Path};

use procfs::{FromRead as _, process::Stat};

/// That of the folder `root`, as /proc/PID or /proc/PID/task/TID. `None`: there is no such process, or it is not shown.
pub(super) fn stat(root: &Path) -> Option<Stat> {
    parse(&fs::read(root.join("stat")).ok()?)
}

/// `None`: it is not as proc_pid_stat(5) has it. The name may hold what ends it, and what is no UTF-8.
pub(crate) fn parse(bytes: &[u8]) -> Option<Stat> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    // procfs takes the spaces around the name for granted, and panics without.
    let (before, rest) = text.split_once('(')?;
    let (_, after) = rest.rsplit_once(')')?;
    if !before.ends_with(' ') || !after.starts_with(' ') {
        return None;
    }
    Stat::from_read(text.as_bytes()).ok()
}
