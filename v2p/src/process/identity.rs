//! Which process is meant, for good: a pidfd, so that a reused number is never taken for it.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open, test_kill_process},
};
use tokio::io::unix::AsyncFd;
use v2p_common::control::TICK_NS;

use super::stat::stat;
use crate::{
    exit::Failure,
    kernel::{clock::Offsets, privileges::MOUNT_PROC},
};

/// A process, held by a pidfd.
pub struct Process {
    /// Its number, in our PID namespace.
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Opens the process `pid`.
    ///
    /// # Errors
    /// Exit code 1 where there is none, 2 where the number is that of a thread or no number of a process, 3 where /proc has the numbers
    /// of another PID namespace than ours.
    pub fn open(pid: u32) -> Result<Self> {
        require_own_proc()?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw =
            raw.ok_or_else(|| Failure::failed(format!("{pid} is not the number of a process")))?;
        match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            // pidfd_open wants a thread group's leader: EINVAL, from 6.15 on ENOENT.
            Err(Errno::INVAL | Errno::NOENT) if exists(raw) => Err(a_thread(pid).into()),
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => {
                Err(Failure::no(format!("process {pid}: there is none")).into())
            }
            Err(e) => Err(e).context(format!("pidfd_open of process {pid}")),
        }
    }

    /// Whether it is ourselves.
    pub fn is_own(&self) -> bool {
        self.pid == std::process::id()
    }

    /// The process, to be waited for: readable once it has ended.
    ///
    /// # Errors
    /// Where it cannot be polled.
    pub fn into_async(self) -> Result<AsyncFd<Self>> {
        // SAFETY: the pidfd is open as long as the struct, and always the same.
        unsafe { AsyncFd::register(self) }
            .map_err(|e| anyhow!("the process cannot be waited for: {e}"))
    }

    /// Its name, as the kernel has it; empty where it has ended.
    pub fn name(&self) -> String {
        let comm = fs::read(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&comm).trim_end().to_owned()
    }

    /// Whether it was started at this moment: CLOCK_BOOTTIME as the kernel has it, nanoseconds. Of two that had one number after the other only one
    /// was. `None`: it has ended.
    pub fn was_started_at(&self, started_ns: u64) -> Option<bool> {
        Some(started_ns.wrapping_sub(self.started_ns()?) < TICK_NS)
    }

    /// The same moment, no later, and by less than [`TICK_NS`] earlier. `None`: it has ended.
    pub fn started_ns(&self) -> Option<u64> {
        let ticks = stat(Path::new(&format!("/proc/{}", self.pid)))?.starttime;
        // What /proc says is of our time namespace (do_task_stat, fs/proc/array.c, 6.1 to 7.3).
        let ours_ns = Offsets::ours().boottime;
        let started_ns = ticks
            .wrapping_mul(TICK_NS)
            .wrapping_sub(ours_ns.cast_unsigned());
        (!self.has_ended()).then_some(started_ns)
    }

    /// Faults that its main thread has taken so far. `None`: it has ended, and nobody has to learn how any more.
    pub fn faults(&self) -> Option<u64> {
        let stat = thread(self.pid, self.pid)?;
        Some(stat.minflt.wrapping_add(stat.majflt))
    }

    /// Its threads now. Empty where it has ended.
    pub fn threads(&self) -> Vec<u32> {
        threads(self.pid)
    }

    /// Whether thread `tid` is one of its that has not ended. A main thread that has stays in the list as long as others live.
    pub fn has_live_thread(&self, tid: u32) -> bool {
        let state = self.thread_state(tid);
        state.is_some_and(|state| !matches!(state, 'Z' | 'X' | 'x'))
    }

    /// The letter of the state of its thread `tid` (proc_pid_stat(5)). `None`: it is none of its.
    pub fn thread_state(&self, tid: u32) -> Option<char> {
        Some(thread(self.pid, tid)?.state)
    }

    /// Whether the process has ended, if not been reaped yet.
    pub fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once)).is_ok_and(|n| n > 0)
    }
}

/// That the numbers in /proc are those by which we call processes.
///
/// # Errors
/// Exit code 3 where they are those of another PID namespace.
pub fn require_own_proc() -> Result<()> {
    if proc_is_ours() {
        return Ok(());
    }
    let what = "/proc is that of another PID namespace: its numbers are not ours";
    Err(Failure::unsupported(what).hint(MOUNT_PROC).into())
}

/// Whether /proc, as it is mounted, calls us what we are called. Where it cannot be read, others say so.
fn proc_is_ours() -> bool {
    let called = fs::read_link("/proc/self").ok();
    called.is_none_or(|name| name.as_os_str() == std::process::id().to_string().as_str())
}

fn thread(pid: u32, tid: u32) -> Option<procfs::process::Stat> {
    stat(Path::new(&format!("/proc/{pid}/task/{tid}")))
}

pub(super) fn threads(pid: u32) -> Vec<u32> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether a process or a thread has the number, also one that we may not do anything to.
fn exists(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(Errno::SRCH))
}

/// The thread that traces thread `tid`. `None`: none does, or it has ended.
pub fn tracer_of(tid: u32) -> Option<u32> {
    let tracer = status_word(tid, "TracerPid:")?.parse().ok();
    tracer.filter(|tracer| *tracer != 0)
}

/// What stands behind `key` in /proc/TID/status. A name there may have any bytes.
fn status_word(tid: u32, key: &str) -> Option<String> {
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let mut words = status.lines().filter_map(|line| line.strip_prefix(key));
    Some(words.next()?.trim().to_owned())
}

fn a_thread(tid: u32) -> Failure {
    let process = status_word(tid, "Tgid:");
    match process {
        Some(process) => Failure::failed(format!("{tid} is a thread of process {process}")).hint(
            format!("all threads of a process share its memory: --pid {process}"),
        ),
        None => Failure::failed(format!("{tid} is a thread, not a process"))
            .hint("this /proc does not show of which: run as root"),
    }
}

impl AsFd for Process {
    /// The pidfd: readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}
