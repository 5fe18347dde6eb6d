//! A process that is held still while it is written to: every thread of it is stopped by ptrace, so that it does nothing
//! to its memory itself. The kernel goes on moving pages. It runs on when this is dropped, and the kernel lets it go when v2p
//! dies (exit_ptrace, kernel/ptrace.c): nothing has to be undone.

use std::{
    io, ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    exit::Failure,
    process::{Process, tracer_of},
};

/// How long a thread may take to stop: one in an uninterruptible sleep does not, and one may have to wait for its turn.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at whether one stands.
const A_MOMENT: Duration = Duration::from_micros(200);

/// How long a thread that died while it was held waits for its burial.
const BURIED_EVERY: Duration = Duration::from_millis(5);

/// A thread that is stopped, and a signal that it was about to take.
struct Thread {
    tid: u32,
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
        let stopped = Undertaker::beside(|undertaker| Self::stop_all(process, undertaker))?;
        if stopped.0.is_empty() {
            let pid = process.pid;
            return Err(Failure::no(format!("process {pid} has ended")).into());
        }
        Ok(stopped)
    }

    fn stop_all(process: &Process, undertaker: &Undertaker) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let (mut stopped, mut calm) = (Self(Vec::new()), 0);
        while Instant::now() < deadline {
            // Who executed another program is the first thread now, and was not held.
            let is_held = |tid| process.thread_state(tid) == Some('t');
            stopped.0.retain(|thread| is_held(thread.tid));
            let new: Vec<u32> = process
                .threads()
                .into_iter()
                .filter(|tid| stopped.0.iter().all(|thread| thread.tid != *tid))
                .filter(|tid| process.has_live_thread(*tid))
                .collect();
            // While one executes a program it may not be in the list, nor may its process have a thread that lives.
            calm = if new.is_empty() { calm + 1 } else { 0 };
            if calm > 1 && (!stopped.0.is_empty() || process.has_ended()) {
                return Ok(stopped);
            }
            if calm > 0 {
                thread::sleep(A_MOMENT);
            }
            for tid in new {
                let is_first = tid == process.pid;
                stopped.add(process, tid, (!is_first).then_some(undertaker))?;
            }
        }
        let what = format!(
            "--stop: process {} did not stop in {PATIENCE:?}",
            process.pid
        );
        Err(Failure::failed(what)
            .hint("its threads come and go, or are not shown: write without --stop")
            .into())
    }

    /// Stops one thread, unless it has ended.
    fn add(&mut self, process: &Process, tid: u32, undertaker: Option<&Undertaker>) -> Result<()> {
        let mut seized = ptrace(libc::PTRACE_SEIZE, tid, 0);
        if seized.is_err() && tracer_of(tid).is_none() {
            // Who executed a program meanwhile has the number of the thread that was found, and was not asked.
            seized = ptrace(libc::PTRACE_SEIZE, tid, 0);
        }
        match seized {
            Ok(()) => {}
            // It had another number when it was seized, and executed a program since.
            Err(_) if tracer_of(tid) == Some(own_tid()) => {}
            Err(e) if has_ended(process, tid, &e) => return Ok(()),
            Err(e) => return Err(refused(tid, &e).into()),
        }
        if let Some(undertaker) = undertaker {
            undertaker.mind(tid);
        }
        // From here on it is let go when this is dropped.
        self.0.push(Thread { tid, signal: 0 });
        if let Err(e) = ptrace(libc::PTRACE_INTERRUPT, tid, 0) {
            self.0.pop();
            return match has_ended(process, tid, &e) {
                true => Ok(()),
                false => Err(e).with_context(|| format!("PTRACE_INTERRUPT of thread {tid}")),
            };
        }
        match wait(tid)? {
            Some(signal) => {
                if let Some(last) = self.0.last_mut() {
                    last.signal = signal;
                }
                Ok(())
            }
            None => {
                self.0.pop();
                Ok(())
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

/// Buries threads that die while they are held. A thread that executes a program waits for the others to be gone, and with that waits who wants to
/// trace it (ptrace_attach takes cred_guard_mutex, kernel/ptrace.c; de_thread, fs/exec.c; 6.1 to 7.3): without burial for ever.
struct Undertaker {
    held: Mutex<Vec<u32>>,
    is_over: AtomicBool,
}

impl Undertaker {
    /// Runs `deed` with one beside it.
    fn beside<T>(deed: impl FnOnce(&Self) -> T) -> T {
        let undertaker = Self {
            held: Mutex::new(Vec::new()),
            is_over: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            let work = || {
                while !undertaker.is_over.load(Ordering::Acquire) {
                    undertaker.bury();
                    thread::park_timeout(BURIED_EVERY);
                }
            };
            // Where there is no thread to be had, it is done without.
            let beside = thread::Builder::new().spawn_scoped(scope, work);
            let done = deed(&undertaker);
            undertaker.is_over.store(true, Ordering::Release);
            if let Ok(beside) = beside {
                beside.thread().unpark();
            }
            done
        })
    }

    /// This thread is traced from now on. The first of a process is not to be minded: nobody waits for its burial.
    fn mind(&self, tid: u32) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push(tid);
    }

    fn bury(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|tid| match end_of(*tid, libc::WNOWAIT) {
            // The stops, which are shown whether asked for or not, are for who waits for them.
            Ok(Some(libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED)) => {
                _ = end_of(*tid, 0);
                false
            }
            Ok(_) => true,
            Err(()) => false,
        });
    }
}

/// What waitid(2) has of the thread, a `CLD_` value, which it forgets then without WNOWAIT in `flags`. None: nothing.
///
/// # Errors
/// It is not ours to wait for.
fn end_of(tid: u32, flags: libc::c_int) -> Result<Option<libc::c_int>, ()> {
    let flags = flags | libc::WEXITED | libc::WNOHANG | libc::__WALL;
    // SAFETY: numbers and addresses, for which zeros are values.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid place.
    let r = unsafe { libc::waitid(libc::P_PID, tid, &raw mut info, flags) };
    match r {
        0 => Ok(Some(info.si_code).filter(|code| *code != 0)),
        _ => Err(()),
    }
}

/// The running thread, which is the tracer of those that it holds.
fn own_tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned()
}

/// Waits until the thread stands; gives the signal that it was about to take, 0 for none. `None`: it has ended.
fn wait(tid: u32) -> Result<Option<libc::c_int>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place.
        let r = unsafe {
            libc::waitpid(
                tid.cast_signed(),
                &raw mut status,
                libc::__WALL | libc::WNOHANG,
            )
        };
        match r {
            // The first thread has gone, and who executed a program has its number.
            0 if tracer_of(tid) != Some(own_tid()) => return Ok(None),
            0 if Instant::now() < deadline => thread::sleep(A_MOMENT),
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
fn has_ended(process: &Process, tid: u32, error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH) || !process.has_live_thread(tid)
}

fn refused(tid: u32, error: &io::Error) -> Failure {
    let what = format!("--stop: thread {tid} may not be traced: {error}");
    Failure::unsupported(what).hint(match tracer_of(tid) {
        Some(tracer) => format!("process {tracer} traces it already"),
        None => "it needs ptrace rights on the process: run as root; a security module may deny it"
            .to_owned(),
    })
}

fn ptrace(request: libc::c_uint, tid: u32, data: libc::c_int) -> io::Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take numbers and no memory of ours.
    let r = unsafe {
        libc::ptrace(
            request,
            tid.cast_signed(),
            nothing,
            libc::c_long::from(data),
        )
    };
    match r {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
