//! Memory to translate: our own, and that of other processes.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    ptr,
};

use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
};
use v2p::process::maps::Mapping;

/// Bytes in a page.
pub(crate) const PAGE: usize = 4096;

/// A mapping of our own, reserved and untouched.
pub(crate) struct Space {
    start: *mut u8,
    len: usize,
}

impl Space {
    /// Reserves `len` bytes, of base pages.
    pub(crate) fn reserve(len: usize) -> Self {
        Self::new(len, Advice::LinuxNoHugepage)
    }

    fn new(len: usize, advice: Advice) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) }.unwrap();
        // SAFETY: our own mapping.
        let _ = unsafe { madvise(start, len, advice) };
        Self {
            start: start.cast(),
            len,
        }
    }

    /// Writes to page `n`.
    pub(crate) fn touch(&self, n: usize) {
        assert!(n < self.len / PAGE);
        // SAFETY: inside our mapping.
        unsafe { self.start.add(n * PAGE).write_volatile(1) };
    }

    /// How the library calls it.
    pub(crate) fn mapping(&self) -> Mapping {
        Mapping {
            start: self.start as u64,
            end: self.start as u64 + self.len as u64,
            writable: true,
            name: String::new(),
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used again.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

/// Another process with memory, which ends when this is dropped.
pub(crate) struct Target(Child);

impl Target {
    /// This program, run with `option` `value`.
    pub(crate) fn start(option: &str, value: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([option, &value.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Is a process with so many resident pages in one piece.
pub(crate) fn be_resident(pages: usize) {
    let space = Space::reserve(pages * PAGE);
    (0..pages).for_each(|n| space.touch(n));
    wait();
}

/// Is a process that has read so many GiB of memory that it never wrote to: huge zero pages where this kernel has them,
/// so that every address is mapped and it takes little memory.
pub(crate) fn be_zero(gib: usize) {
    let len = gib << 30;
    let space = Space::new(len, Advice::LinuxHugepage);
    for at in (0..len).step_by(PAGE) {
        // SAFETY: inside our mapping.
        let _ = unsafe { space.start.add(at).read_volatile() };
    }
    wait();
}

/// Is a process that has so many GiB mapped of a file in memory, and all of it present: the same 64 MiB of it time and again.
pub(crate) fn be_of_a_file(gib: usize) {
    const LEN: usize = 64 << 20;
    let file = memfd_create("v2p", MemfdFlags::empty()).unwrap();
    ftruncate(&file, LEN as u64).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    for _ in 0..(gib << 30) / LEN {
        // SAFETY: a new mapping touches nothing that exists.
        unsafe { mmap(ptr::null_mut(), LEN, access, flags, &file, 0) }.unwrap();
    }
    wait();
}

fn wait() {
    println!("ready");
    io::stdout().flush().unwrap();
    let _ = io::stdin().read(&mut [0]);
}
