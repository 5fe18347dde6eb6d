//! The target's side: children of its own, and programs that it starts.

use std::{
    ffi::CString,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, ChildStdout, Command, Stdio},
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicI32, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use rustix::pipe::{PipeFlags, pipe, pipe_with};

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
        ("lend", _) => lend(),
        ("have-borrower-execute", _) => have_borrower_execute(),
        ("stop-started", _) => {
            let (mut child, _) = STARTED.lock().unwrap().take().unwrap();
            drop(child.stdin.take());
            u64::from(child.wait().unwrap().success())
        }
        _ => return None,
    })
}

/// The pipe that a borrower waits at, and who says that it has executed.
static LENT: Mutex<Option<(OwnedFd, Receiver<()>)>> = Mutex::new(None);

/// What a borrower needs, made before it is there.
struct Loan {
    wait: OwnedFd,
    silence: File,
    program: CString,
    environment: CString,
}

/// A child that has our address space (vfork) until it executes a target; gives its number.
fn lend() -> u64 {
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (said, executed) = channel();
    let loan = Loan {
        wait,
        silence: File::options().write(true).open("/dev/null").unwrap(),
        program: CString::new("/proc/self/exe").unwrap(),
        environment: CString::new(format!("{KIND}=memory")).unwrap(),
    };
    let number: &AtomicI32 = Box::leak(Box::new(AtomicI32::new(0)));
    thread::spawn(move || {
        let mut stack = vec![0u128; 1 << 12];
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
        // SAFETY: a stack and a loan that live until it has executed, for which the kernel has this thread wait.
        let child = unsafe {
            let (top, loan) = (stack.as_mut_ptr_range().end, &raw const loan);
            libc::clone(borrow, top.cast(), flags, loan as *mut _, number.as_ptr())
        };
        assert!(child > 0, "{}", std::io::Error::last_os_error());
        said.send(()).unwrap();
    });
    *LENT.lock().unwrap() = Some((go, executed));
    while number.load(Ordering::Relaxed) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    u64::try_from(number.load(Ordering::Relaxed)).unwrap()
}

/// The borrower: makes system calls only.
extern "C" fn borrow(loan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the loan that `lend` gives; strings that end in NUL, and lists of them that end in a null pointer.
    unsafe {
        let loan = &*loan.cast::<Loan>();
        let (wait, program) = (loan.wait.as_raw_fd(), loan.program.as_ptr());
        let mut byte = 0u8;
        libc::read(wait, (&raw mut byte).cast(), 1);
        libc::dup2(wait, 0);
        libc::dup2(loan.silence.as_raw_fd(), 1);
        let arguments = [program, ptr::null()];
        let environment = [loan.environment.as_ptr(), ptr::null()];
        libc::execve(program, arguments.as_ptr(), environment.as_ptr());
        libc::_exit(1)
    }
}

/// Returns when it has. It ends with us, when nobody can tell it anything any more.
fn have_borrower_execute() -> u64 {
    let lent = LENT.lock().unwrap();
    let (go, executed) = lent.as_ref().unwrap();
    rustix::io::write(go, b"\n").unwrap();
    executed.recv().unwrap();
    0
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
