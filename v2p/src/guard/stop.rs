//! A process that is held still while it is written to: every thread of it is stopped by ptrace, so that it does nothing
//! to its memory itself. The kernel goes on moving pages. It runs on when this is dropped, and the kernel lets it go when v2p
//! dies (exit_ptrace, kernel/ptrace.c): nothing has to be undone.

use std::{
    fs, io, ptr, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{exit::Failure, process::Process};

/// How long a thread may take to stop: one in an uninterruptible sleep does not, and one may have to wait for its turn.
const PATIENCE: Duration = Duration::from_secs(20);

/// A thread that is stopped, and a signal that it was about to take.
struct Thread {
    tid: libc::pid_t,
    signal: libc::c_int,
}

/// All threads of a process, stopped.
pub struct Stopped(Vec<Thread>);

impl Stopped {
    /// Stops every thread of `process`, also those that are started meanwhile. Processes that share its memory without
    /// being threads of it (vfork) run on.
    ///
    /// # Errors
    /// Exit code 3 where it may not be traced, or somebody else traces it; 2 where a thread does not stop in time.
    pub fn stop(process: &Process) -> Result<Self> {
        if process.is_own() {
            return Err(Failure::failed("--stop: v2p cannot stop itself").into());
        }
        let mut stopped = Self(Vec::new());
        loop {
            let new: Vec<libc::pid_t> = process
                .threads()
                .into_iter()
                .filter_map(|tid| libc::pid_t::try_from(tid).ok())
                .filter(|tid| stopped.0.iter().all(|thread| thread.tid != *tid))
                .collect();
            let mut found = false;
            for tid in new {
                found |= stopped.add(tid)?;
            }
            if !found {
                break;
            }
        }
        if stopped.0.is_empty() {
            let pid = process.pid;
            return Err(Failure::no(format!("process {pid} has ended")).into());
        }
        Ok(stopped)
    }

    /// Stops one thread. False: it has ended.
    fn add(&mut self, tid: libc::pid_t) -> Result<bool> {
        match ptrace(libc::PTRACE_SEIZE, tid, 0) {
            Ok(()) => {}
            Err(e) if has_ended(tid, &e) => return Ok(false),
            Err(e) => return Err(refused(tid, &e).into()),
        }
        // From here on it is let go when this is dropped.
        self.0.push(Thread { tid, signal: 0 });
        if let Err(e) = ptrace(libc::PTRACE_INTERRUPT, tid, 0) {
            self.0.pop();
            return match has_ended(tid, &e) {
                true => Ok(false),
                false => Err(e).with_context(|| format!("PTRACE_INTERRUPT of thread {tid}")),
            };
        }
        match wait(tid)? {
            Some(signal) => {
                if let Some(last) = self.0.last_mut() {
                    last.signal = signal;
                }
                Ok(true)
            }
            None => {
                self.0.pop();
                Ok(false)
            }
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for thread in &self.0 {
            // It fails only where the thread was killed.
            let _ = ptrace(libc::PTRACE_DETACH, thread.tid, thread.signal);
        }
    }
}

/// Waits until the thread stands; gives the signal that it was about to take, 0 for none. `None`: it has ended.
fn wait(tid: libc::pid_t) -> Result<Option<libc::c_int>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place.
        let r = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
        match r {
            0 if Instant::now() < deadline => thread::sleep(Duration::from_micros(200)),
            0 => {
                let what = format!("--stop: thread {tid} did not stop in {PATIENCE:?}");
                return Err(Failure::failed(what)
                    .hint("it is in an uninterruptible sleep: write without --stop, or later")
                    .into());
            }
            -1 => {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::ECHILD) => return Ok(None),
                    Some(libc::EINTR) => {}
                    _ => return Err(error).with_context(|| format!("waitpid of thread {tid}")),
                }
            }
            _ if libc::WIFSTOPPED(status) => {
                // Stopped by us, or by a signal that stops, which goes on; else about to take a signal, which it is to
                // get in the end.
                let by_event = status >> 16 == libc::PTRACE_EVENT_STOP;
                return Ok(Some(if by_event { 0 } else { libc::WSTOPSIG(status) }));
            }
            _ => return Ok(None),
        }
    }
}

/// ESRCH, or a thread that is dead but not gone yet, which may not be traced any more.
fn has_ended(tid: libc::pid_t, error: &io::Error) -> bool {
    let is_dead = || {
        let stat = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
        matches!(
            state.and_then(<[u8]>::first),
            None | Some(b'Z' | b'X' | b'x')
        )
    };
    error.raw_os_error() == Some(libc::ESRCH) || is_dead()
}

fn refused(tid: libc::pid_t, error: &io::Error) -> Failure {
    let what = format!("--stop: thread {tid} may not be traced: {error}");
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))
        .map(str::trim)
        .filter(|tracer| *tracer != "0");
    Failure::unsupported(what).hint(match tracer {
        Some(tracer) => format!("process {tracer} traces it already"),
        None => "it needs ptrace rights on the process: run as root; a security module may deny it"
            .to_owned(),
    })
}

fn ptrace(request: libc::c_uint, tid: libc::pid_t, data: libc::c_int) -> io::Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take numbers and no memory of ours.
    let r = unsafe { libc::ptrace(request, tid, nothing, libc::c_long::from(data)) };
    match r {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
