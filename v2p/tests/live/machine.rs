//! What tests change of the whole machine: kept inside guests where it cannot be put back.

use std::{
    ffi::CString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::harness;

/// A setting of the kernel's, put back whatever becomes of the test.
pub(crate) struct Setting {
    path: String,
    before: String,
}

impl Setting {
    /// `None`: this kernel has no such setting, or does not take the value.
    pub(crate) fn change(path: &str, value: &str) -> Option<Self> {
        let before = fs::read_to_string(path).ok()?;
        fs::write(path, value).ok()?;
        let path = path.to_owned();
        Some(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // What could be written before can be written again; there is no one to tell otherwise.
        let before = self.before.trim();
        // Where a file lists what there is, what was chosen stands in brackets.
        let chosen = before
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        let _ = fs::write(&self.path, chosen.map_or(before, |(chosen, _)| chosen));
    }
}

/// This thread, and what it starts, on one CPU for a while.
pub(crate) struct OnCpu {
    before: CpuSet,
}

impl OnCpu {
    /// `None`: there is no such CPU, or not for us.
    pub(crate) fn stay(cpu: usize) -> Option<Self> {
        let before = sched_getaffinity(None).ok()?;
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one).ok()?;
        Some(Self { before })
    }
}

impl Drop for OnCpu {
    fn drop(&mut self) {
        // It was given before.
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// Why a test that changes the machine for good is not run here; guests are thrown away.
pub(crate) fn only_in_guests(what: &str) -> Result<(), String> {
    match harness::expected_devmem() {
        Some(_) => Ok(()),
        None => Err(format!("it {what}: only in guests")),
    }
}

/// Why there is nothing to move pages between, where there are not the nodes 0 and 1, both with memory.
pub(crate) fn two_nodes() -> Result<(), String> {
    let nodes = fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
    // Neighbours are told as a range (bitmap_list_string, lib/vsprintf.c).
    match nodes.starts_with("0-") {
        true => Ok(()),
        false => Err("one NUMA node".to_owned()),
    }
}

/// A file of debugfs, which a guest has mounted.
pub(crate) fn debugfs(name: &str) -> Result<PathBuf, String> {
    let file = Path::new("/sys/kernel/debug").join(name);
    match file.exists() {
        true => Ok(file),
        false => Err(format!("there is no {} here", file.display())),
    }
}

/// Has the kernel load a module that the lab has put into the guest; one that is built in needs none, and what is not there
/// is seen by its use.
pub(crate) fn load_module(name: &str) {
    let _ = Command::new("modprobe").arg(name).output();
}

/// Bytes of memory, and of what is free of it.
pub(crate) fn free_memory() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        kib * 1024
    };
    (field("MemTotal:"), field("MemFree:"))
}

/// Compressed memory as a swap device, the first of this guest. Stays.
pub(crate) fn swap_on_zram() -> Result<(), String> {
    const DISK: &str = "/dev/zram0";
    const PAGES: u32 = 16384;
    only_in_guests("changes the machine's swap")?;
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.contains(DISK) {
        return Ok(());
    }
    load_module("zram");
    fs::write("/sys/block/zram0/disksize", "64M")
        .map_err(|e| format!("this kernel has no zram: {e}"))?;
    // union swap_header of include/linux/swap.h: version 1 and the last page at 1024, the magic at the page's end.
    let mut header = [0u8; 4096];
    header[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
    header[1028..1032].copy_from_slice(&(PAGES - 1).to_ne_bytes());
    header[4086..].copy_from_slice(b"SWAPSPACE2");
    fs::OpenOptions::new()
        .write(true)
        .open(DISK)
        .and_then(|mut disk| disk.write_all(&header))
        .unwrap();
    let path = CString::new(DISK).unwrap();
    // SAFETY: a path that ends in NUL.
    let on = unsafe { libc::swapon(path.as_ptr(), 0) };
    assert_eq!(on, 0, "{}", std::io::Error::last_os_error());
    Ok(())
}
