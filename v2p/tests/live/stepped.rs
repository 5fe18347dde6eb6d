//! v2p, held by a debugger (us) at each of its system calls.

use std::{
    io,
    mem::MaybeUninit,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

/// One that stops at the begin and at the end of every system call. Of the thread that made it.
pub(crate) struct Stepped(Child);

impl Stepped {
    /// Held before its first instruction.
    pub(crate) fn start(v2p: &mut Command) -> Self {
        // SAFETY: one system call, between fork and exec.
        unsafe { v2p.pre_exec(|| request(libc::PTRACE_TRACEME, 0, 0)) };
        let this = Self(v2p.spawn().unwrap());
        this.wait();
        // Where we end, it does.
        let options = u64::try_from(libc::PTRACE_O_EXITKILL).unwrap();
        this.request(libc::PTRACE_SETOPTIONS, options);
        this
    }

    /// Lets it go on to the next begin or end of a system call; gives its registers there.
    pub(crate) fn step(&self) -> libc::user_regs_struct {
        self.request(libc::PTRACE_SYSCALL, 0);
        self.wait();
        let mut registers = MaybeUninit::uninit();
        self.request(libc::PTRACE_GETREGS, registers.as_mut_ptr() as u64);
        // SAFETY: the kernel has filled them.
        unsafe { registers.assume_init() }
    }

    /// Lets it go on with this signal, by itself.
    pub(crate) fn go(self, signal: i32) -> Child {
        self.request(libc::PTRACE_DETACH, signal.unsigned_abs().into());
        self.0
    }

    fn request(&self, number: libc::c_uint, data: u64) {
        request(number, self.0.id().cast_signed(), data).unwrap();
    }

    fn wait(&self) {
        let pid = self.0.id().cast_signed();
        let mut status = 0;
        // SAFETY: a place for the status of a child of ours.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        let by = libc::WIFSTOPPED(status).then(|| libc::WSTOPSIG(status));
        assert_eq!(by, Some(libc::SIGTRAP), "{status:#x}");
    }
}

fn request(number: libc::c_uint, pid: i32, data: u64) -> io::Result<()> {
    // SAFETY: where a request fills a place, that is what its maker gives.
    match unsafe { libc::ptrace(number, pid, 0u64, data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
