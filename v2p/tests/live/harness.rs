//! Running v2p, and reading what it says.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::Again;

/// How long anything may take, in a guest without hardware virtualisation too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn v2p() -> Command {
    let path =
        std::env::var_os("V2P_BIN").map_or_else(|| env!("CARGO_BIN_EXE_v2p").into(), PathBuf::from);
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// The same through a descriptor, which is to stay open until it runs: a user need not be able to reach the folder that the build lies in.
pub(crate) fn v2p_by_descriptor() -> std::io::Result<(Command, File)> {
    let program = File::open(v2p().get_program())?;
    rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty())?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.stdin(Stdio::null());
    Ok((command, program))
}

/// What a watch says on stderr where the kernel skipped a hook: of any process's, and by chance.
pub(crate) const SKIPPED: &str = "skipped by the kernel";

/// What the demo says on stderr where the kernel did not move the page that it was to move.
pub(crate) const UNMOVED: &str = "the page was not moved";

/// Runs it to its end; see [`whole`].
pub(crate) fn run(arguments: &[&str]) -> Output {
    let output = v2p().args(arguments).output().expect("v2p runs");
    whole(arguments.first().unwrap_or(&""), output)
}

/// What a `command` said that missed no event. Where a watch says that the kernel skipped a hook, or a write or the demo that it lost events, the test is
/// done again, some times: what loses them every time fails.
pub(crate) fn whole(command: &str, output: Output) -> Output {
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    let lost = ["write", "demo"].contains(&command) && said.contains("events were lost");
    if lost || errors.contains(SKIPPED) {
        std::panic::panic_any(Again(format!("{errors}{said}")));
    }
    output
}

/// The last line of stdout as JSON.
pub(crate) fn last_json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = text
        .lines()
        .last()
        .unwrap_or_else(|| panic!("no output; stderr: {errors}"));
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

/// What /dev/mem answers to a write of RAM on this kernel: `open`, or the id of the check that denies.
pub(crate) fn expected_devmem() -> Option<String> {
    std::env::var("V2P_LAB_DEVMEM").ok()
}

/// A running `v2p watch --json`, whose hooks are live.
pub(crate) struct Watching {
    child: Child,
    /// By us.
    killed: Arc<AtomicBool>,
    /// What it says on stderr of hooks that were skipped, once it has ended.
    skipped: Option<thread::JoinHandle<Option<String>>>,
    records: Receiver<Value>,
    seen: Vec<Value>,
}

impl Watching {
    /// Starts it, and waits for its `start` record.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = v2p()
            .args(["watch", "--json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("v2p runs");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let skipped = thread::spawn(move || {
            let said = stderr.lines().map_while(Result::ok);
            // All of them, so that none is in its way.
            said.filter(|line| {
                eprintln!("{line}");
                line.contains(SKIPPED)
            })
            .last()
        });
        let (sender, records) = channel();
        let killed = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&killed);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let record = match serde_json::from_str(&line) {
                    Ok(record) => record,
                    // The last line of a watch that was killed may be half of one.
                    Err(_) if cut.load(Ordering::Relaxed) => return,
                    Err(e) => panic!("{e}: {line:?}"),
                };
                if sender.send(record).is_err() {
                    return;
                }
            }
        });
        let mut watching = Self {
            child,
            killed,
            skipped: Some(skipped),
            records,
            seen: Vec::new(),
        };
        watching.wait_for(|r| r["type"] == "start");
        watching
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads records until one is as wanted.
    pub(crate) fn wait_for(&mut self, wanted: impl FnMut(&Value) -> bool) -> Value {
        let found = self.comes_within(PATIENCE, wanted);
        found.unwrap_or_else(|| panic!("no such record came; these did: {:#?}", self.seen))
    }

    /// The same, for a while.
    pub(crate) fn comes_within(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Option<Value> {
        let deadline = Instant::now() + patience;
        while let Ok(record) = self
            .records
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(record.clone());
            if wanted(&record) {
                return Some(record);
            }
        }
        None
    }

    /// Ends it as Ctrl-C does; gives every record of the whole watch and its exit status.
    pub(crate) fn interrupt(self) -> (Vec<Value>, ExitStatus) {
        self.signal(rustix::process::Signal::INT);
        self.finish()
    }

    /// The same of a watch that is to lose events.
    pub(crate) fn interrupt_losing(self) -> (Vec<Value>, ExitStatus) {
        self.signal(rustix::process::Signal::INT);
        self.finish_losing()
    }

    /// The same of a watch whose hooks the kernel is to skip; also what it said of that, where the kernel did.
    pub(crate) fn interrupt_skipped(mut self) -> (Vec<Value>, Option<String>) {
        let skipped = self.skipped.take();
        let (records, status) = self.interrupt_losing();
        assert!(status.success(), "{status}");
        let said = skipped.and_then(|skipped| skipped.join().unwrap());
        (records, said)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its own end; gives every record and its exit status. Where the kernel skipped a hook, which was told, the test is done again.
    pub(crate) fn finish(mut self) -> (Vec<Value>, ExitStatus) {
        let skipped = self.skipped.take();
        let ended = self.finish_losing();
        if let Some(what) = skipped.and_then(|skipped| skipped.join().unwrap()) {
            std::panic::panic_any(Again(what));
        }
        ended
    }

    /// The same of a watch that is to lose events.
    pub(crate) fn finish_losing(mut self) -> (Vec<Value>, ExitStatus) {
        loop {
            match self.records.recv_timeout(PATIENCE) {
                Ok(record) => self.seen.push(record),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the watch neither tells anything nor ends")
                }
            }
        }
        let status = self.child.wait().unwrap();
        (std::mem::take(&mut self.seen), status)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.killed.store(true, Ordering::Relaxed);
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal: the side of the person who looks at it, and that of the program. Or why there is none.
pub(crate) fn terminal() -> Result<(OwnedFd, File), String> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let opened = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .and_then(|master| grantpt(&master).map(|()| master))
        .and_then(|master| unlockpt(&master).map(|()| master))
        .and_then(|master| Ok((ptsname(&master, Vec::new())?, master)));
    let opened = opened.map_err(std::io::Error::from);
    let both = opened.and_then(|(name, master)| {
        let mut options = File::options();
        let slave = options.read(true).write(true);
        // Else it might become this program's own.
        let slave = slave.custom_flags(libc::O_NOCTTY);
        Ok((master, slave.open(&*name.to_string_lossy())?))
    });
    both.map_err(|e| format!("there are no terminals here: {e}"))
}

/// Waits for `child` to end; gives how, and the most memory that it had, in KiB. It has at least what this program had as it started it.
pub(crate) fn wait_for_peak(mut child: Child) -> (ExitStatus, i64) {
    let mut status = 0;
    // SAFETY: all zeros is a valid value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: both places are valid, and nobody else waits for the child.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, pid);
    // Nobody is there any more.
    let _ = child.wait();
    (ExitStatus::from_raw(status), usage.ru_maxrss)
}

/// read(2)s and the like that this program has made. `None`: this kernel does not count (CONFIG_TASK_IO_ACCOUNTING).
pub(crate) fn reads() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    let reads = text.lines().find_map(|line| line.strip_prefix("syscr: "))?;
    reads.parse().ok()
}

/// An address as v2p prints it, as a number.
pub(crate) fn address(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_default();
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .unwrap_or_else(|e| panic!("{e}: {value}"))
}
