//! Which process is meant, for good: a pidfd, so that a reused number is never taken for it.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::unix::AsyncFd;

use crate::exit::Failure;

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
    /// Exit code 1 where there is none, 2 where the number is that of a thread or no number of a process.
    pub fn open(pid: u32) -> Result<Self> {
        let gone = || Failure::no(format!("process {pid}: there is none"));
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw =
            raw.ok_or_else(|| Failure::failed(format!("{pid} is not the number of a process")))?;
        let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Err(gone().into()),
            // pidfd_open wants a thread group's leader: EINVAL, from 6.15 on ENOENT.
            Err(Errno::INVAL | Errno::NOENT)
                if fs::exists(format!("/proc/{pid}")).unwrap_or(false) =>
            {
                let what = format!("{pid} is a thread, not a process");
                return Err(Failure::failed(what)
                    .hint(format!("its process is the Tgid in /proc/{pid}/status"))
                    .into());
            }
            Err(Errno::INVAL | Errno::NOENT) => return Err(gone().into()),
            Err(e) => return Err(e).context(format!("pidfd_open of process {pid}")),
        };
        Ok(Self { pid, pidfd })
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

    /// Its threads now. Empty where it has ended.
    pub fn threads(&self) -> Vec<u32> {
        fs::read_dir(format!("/proc/{}/task", self.pid))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
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
