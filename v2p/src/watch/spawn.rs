//! Starting a program so that it is watched from its first instruction: a child waits until the hooks are live, and only
//! then executes it.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::Child,
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use super::signals::{self, Held};
use crate::exit::Failure;

/// A child of ours that is to execute a program.
pub struct Command {
    /// Its number.
    pub pid: u32,
    /// What it was called by.
    pub name: String,
    /// Written to: it may go on.
    go: Option<io::PipeWriter>,
    /// Ends when it has executed its program, or has failed to.
    starting: Option<JoinHandle<io::Result<Child>>>,
    child: Option<Child>,
}

impl Command {
    /// Makes the child, which waits. Whatever happens to us, it does not wait for ever: it then ends. `aside`: what it says on stdout goes
    /// to stderr.
    ///
    /// # Errors
    /// Where there can be no child.
    pub fn new(words: &[OsString], aside: bool) -> Result<Self> {
        let named = words
            .split_first()
            .filter(|(program, _)| !program.is_empty());
        let (program, arguments) = named.context("no command is named")?;
        let pair = || pipe_with(PipeFlags::CLOEXEC).context("a pipe to the command");
        let (told, tell) = pair()?;
        let (go, waits) = {
            let (read, write) = pair()?;
            (write, read)
        };
        let mut command = std::process::Command::new(program);
        command.args(arguments);
        if aside {
            command.stdout(io::stderr());
        }
        let our_end = go.as_raw_fd();
        let starting = std::thread::Builder::new().spawn(move || {
            // A Ctrl-C is for us too, who then let the child go nowhere. Until then it is to be there: what ended it would look like a
            // process that is none.
            let held = signals::hold()?;
            // SAFETY: between fork and exec the closure makes system calls only, on descriptors that it owns.
            unsafe { command.pre_exec(move || wait_for_go(&tell, &waits, our_end, &held)) };
            command.spawn()
        });
        let starting = starting.context("a thread that starts the command")?;
        let mut number = [0; 4];
        let came = io::PipeReader::from(told).read_exact(&mut number);
        let mut this = Self {
            pid: u32::from_ne_bytes(number),
            name: program.display().to_string(),
            go: Some(go.into()),
            starting: Some(starting),
            child: None,
        };
        if came.is_err() {
            this.started()?;
            // Who ended it, SIGKILL alone, told us nothing.
            return Err(Failure::failed(format!("{}: killed before it began", this.name)).into());
        }
        Ok(this)
    }

    /// Lets the child execute its program.
    ///
    /// # Errors
    /// Exit code 2 where it cannot, with the kernel's reason.
    pub fn execute(&mut self) -> Result<()> {
        if let Some(mut go) = self.go.take() {
            // Where the child has ended meanwhile, what follows says so.
            let _ = go.write_all(&[1]);
        }
        self.started()
    }

    fn started(&mut self) -> Result<()> {
        let Some(starting) = self.starting.take() else {
            return Ok(());
        };
        let started = starting
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("no child")));
        let child = started.map_err(|e| Failure::failed(format!("{}: {e}", self.name)))?;
        self.child = Some(child);
        Ok(())
    }

    /// Its exit status, as a shell gives it, where it has ended.
    pub fn status(mut self) -> Option<i32> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        status.code().or_else(|| Some(128 + status.signal()?))
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // A child that still waits reads the end of its pipe, and ends.
        self.go = None;
        if let Some(starting) = self.starting.take() {
            let _ = starting.join();
        }
    }
}

/// In the child: says its number, and waits for a byte. An error ends it, and nobody there to give one.
fn wait_for_go(tell: &OwnedFd, waits: &OwnedFd, our_end: i32, held: &Held) -> io::Result<()> {
    // The end that is ours came over the fork too: while it is open here, ours alone would not end the wait.
    // SAFETY: a descriptor of this process, which nothing here uses.
    unsafe { libc::close(our_end) };
    let pid = std::process::id().to_ne_bytes();
    rustix::io::write(tell, &pid)?;
    let mut byte = [0];
    match rustix::io::read(waits, &mut byte)? {
        // Who would be told of an error has ended perhaps.
        // SAFETY: ends this process alone, without a word.
        0 => unsafe { libc::_exit(1) },
        _ => held.let_go(),
    }
}
