//! A process to look at: this bench's own program, started again.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    ptr,
    time::Instant,
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

pub(crate) const PAGE: usize = 4096;
/// Faults of one round.
pub(crate) const FAULTS: usize = 1_000_000;
/// Mapped and given back so many at a time: the whole would be 4 GiB.
const AT_ONCE: usize = 100_000;
/// Set in the environment of a process that is to be looked at: as which.
pub(crate) const KIND: &str = "V2P_BENCH_WORKLOAD";

/// A child that takes faults when it is told to.
pub(crate) struct Workload {
    pub(crate) child: Child,
    go: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Workload {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(KIND, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let go = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, go, said }
    }

    /// Nanoseconds a fault.
    pub(crate) fn round(&mut self) -> f64 {
        self.go.write_all(b"\n").unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side.
pub(crate) fn be() {
    for _ in std::io::stdin().lines() {
        let mut ns = 0;
        for _ in 0..FAULTS / AT_ONCE {
            let len = AT_ONCE * PAGE;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping, written page by page, and given back.
            unsafe {
                let start =
                    mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE).unwrap();
                madvise(start, len, Advice::LinuxNoHugepage).unwrap();
                let begin = Instant::now();
                (0..AT_ONCE).for_each(|i| start.cast::<u8>().add(i * PAGE).write_volatile(1));
                ns += begin.elapsed().as_nanos();
                munmap(start, len).unwrap();
            }
        }
        println!("{:.1}", ns as f64 / FAULTS as f64);
    }
}
