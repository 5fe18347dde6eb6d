//! Signals that wait: what comes at a moment at which nobody could take it is not lost, and ends nobody too early.

use std::{io, mem::MaybeUninit, ptr};

/// All of them, held for later.
pub(super) struct Held {
    before: libc::sigset_t,
}

/// Holds all signals of this thread, and of a child that it will have, until what this gives is dropped.
///
/// # Errors
/// None that the kernel has for a set of its own (rt_sigprocmask(2)).
pub(super) fn hold() -> io::Result<Held> {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sets that these two fill; the second is read where the kernel has done so.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        match libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
            0 => Ok(Held {
                before: before.assume_init(),
            }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Held {
    /// In a child: what was held comes now, and no handler of ours, which is no longer there to tell of it, takes it. Makes system calls
    /// only.
    ///
    /// # Errors
    /// As [`hold`].
    pub(super) fn let_go(&self) -> io::Result<()> {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the default action needs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        self.restore()
    }

    fn restore(&self) -> io::Result<()> {
        // SAFETY: the set is one that the kernel gave.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // There is no error for a set that came from the kernel.
        let _ = self.restore();
    }
}
