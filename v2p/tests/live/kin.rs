//! The target's side: children of its own, and programs that it starts.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdout, Command, Stdio},
    ptr,
    sync::Mutex,
};

use rustix::pipe::pipe;

use crate::target::{KIND, write_to};

/// A target that this target started, and what it says.
static STARTED: Mutex<Option<(Child, BufReader<ChildStdout>)>> = Mutex::new(None);

/// Obeys, where the command is one of these. Children make system calls and write to memory only: other threads are not in them.
pub(crate) fn obey(command: &str, words: &[u64]) -> Option<u64> {
    Some(match (command, words) {
        ("flash", [va]) => flash(*va),
        ("many", [n]) => many(*n),
        ("start", [by_fork]) => start(*by_fork != 0),
        ("have-started", [i]) => have_started(*i),
        ("execute-started", _) => execute_started(),
        ("stop-started", _) => {
            let (mut child, _) = STARTED.lock().unwrap().take().unwrap();
            drop(child.stdin.take());
            u64::from(child.wait().unwrap().success())
        }
        _ => return None,
    })
}

/// A child that writes once and ends; gives its number.
fn flash(va: u64) -> u64 {
    // SAFETY: see above.
    let child = unsafe { libc::fork() };
    if child == 0 {
        write_to(va);
        // SAFETY: ends this process, at once.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(child, ptr::null_mut(), 0) };
    u64::try_from(child).unwrap()
}

/// So many children, that are there all at one time and then end.
fn many(n: u64) -> u64 {
    let (wait, go) = pipe().unwrap();
    let mut go = Some(go);
    for _ in 0..n {
        // SAFETY: see above.
        if unsafe { libc::fork() } == 0 {
            drop(go.take());
            let _ = rustix::io::read(&wait, &mut [0; 1]);
            // SAFETY: ends this process, at once.
            unsafe { libc::_exit(0) }
        }
    }
    drop(go);
    // SAFETY: no status is asked for.
    (0..n).for_each(|_| _ = unsafe { libc::waitpid(-1, ptr::null_mut(), 0) });
    n
}

/// Starts another target, as programs do, or by a fork; gives its number.
fn start(by_fork: bool) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env(KIND, "memory")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if by_fork {
        // SAFETY: does nothing; with it the standard library forks, without it does as vfork does.
        unsafe { command.pre_exec(|| Ok(())) };
    }
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    let pid = child.id();
    *STARTED.lock().unwrap() = Some((child, said));
    pid.into()
}

/// Has it execute itself anew.
fn execute_started() -> u64 {
    let mut started = STARTED.lock().unwrap();
    let (child, said) = started.as_mut().unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "exec 0").unwrap();
    said.read_line(&mut String::new()).unwrap();
    0
}

/// Has it write to its page `i`; gives the frame.
fn have_started(i: u64) -> u64 {
    let mut started = STARTED.lock().unwrap();
    let (child, said) = started.as_mut().unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "write {i}").unwrap();
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    line.trim().parse().unwrap()
}
