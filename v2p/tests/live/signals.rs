//! A signal at every stage: v2p ends soon, by itself or by the signal, and leaves nothing behind: no process, no file, no pin; and who was
//! looked at goes on as before.

use std::{
    fs, io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, ChildStdout, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::{
    Done,
    harness::{self, PATIENCE, Watching},
    leavings,
    stepped::Stepped,
    target::{Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_signal_before_a_watch_is_live_ends_it", before_it_is_live),
        trial(
            "a_signal_as_its_handler_is_set_is_not_lost",
            as_its_handler_is_set,
        ),
        trial("a_watch_ends_with_its_end_by_sigterm", sigterm),
        trial(
            "a_watch_that_waits_for_a_reader_of_its_trace_ends",
            a_pipe_for_the_trace,
        ),
        trial("a_signal_at_any_stage_leaves_nothing_behind", any_stage),
        trial(
            "a_process_that_is_held_still_goes_on_after_a_signal",
            held_still,
        ),
    ]
}

pub(crate) const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

/// v2p in a group of its own, which gets `signal` after a while.
pub(crate) struct Struck {
    child: Child,
    stdout: Option<ChildStdout>,
}

impl Struck {
    pub(crate) fn start(arguments: &[&str], stdin: Stdio) -> Self {
        let mut child = harness::v2p()
            .args(arguments)
            .process_group(0)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Nobody reads it: what says much waits, and is met by the signal half way.
        let stdout = child.stdout.take();
        Self { child, stdout }
    }

    /// The same, with somebody who reads what it says.
    pub(crate) fn with_a_reader(mut self) -> Self {
        if let Some(mut stdout) = self.stdout.take() {
            thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
        }
        self
    }

    /// How it ended: in time, and nobody of its group is left.
    pub(crate) fn strike(self, after: Duration, signal: Signal) -> ExitStatus {
        thread::sleep(after);
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
        self.ends(&format!("{signal:?} after {after:?}"))
    }

    /// The same, where it has been struck: `by` this.
    fn ends(mut self, by: &str) -> ExitStatus {
        let group = Pid::from_child(&self.child);
        let struck = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if struck.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("{by}: it goes on");
            }
            thread::sleep(Duration::from_millis(1));
        };
        drop(self.stdout);
        while leavings::lives(group) {
            assert!(struck.elapsed() < PATIENCE, "somebody of its group is left");
            thread::sleep(Duration::from_millis(1));
        }
        status
    }
}

/// Stages: from before main to the end of most commands, slower where there is no hardware for it.
pub(crate) fn stages() -> impl Iterator<Item = Duration> {
    let whole = {
        let start = Instant::now();
        assert!(
            harness::run(&["translate", "--pid", "self"])
                .status
                .success()
        );
        start.elapsed()
    };
    [0, 15, 40, 75, 110]
        .into_iter()
        .map(move |percent| whole * percent / 100)
}

/// Death by the signal, or one of these codes.
pub(crate) fn assert_ended(what: &[&str], status: ExitStatus, signal: Signal, codes: &[i32]) {
    let died = status.signal() == Some(signal.as_raw());
    let ended = status.code().is_some_and(|code| codes.contains(&code));
    assert!(died || ended, "{what:?}: {signal:?}: {status:?}");
}

fn before_it_is_live() -> Done {
    let mut target = Target::start();
    let pins = leavings::pins();
    let pid = target.pid().to_string();
    let arguments = ["watch", "--json", "--pid", &pid];
    for signal in SIGNALS {
        for after in stages() {
            // What compaction does to the target meanwhile may fill a pipe, and a watch waits for who reads it.
            let struck = Struck::start(&arguments, Stdio::null()).with_a_reader();
            assert_ended(&arguments, struck.strike(after, signal), signal, &[0]);
        }
    }
    assert_eq!(leavings::pins(), pins);
    assert_ne!(target.tell("write", 1), 0);
    Done::Passed
}

/// At the very system call that sets the handler, before v2p has done anything more.
fn as_its_handler_is_set() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    for signal in [Signal::INT, Signal::TERM] {
        let child = struck_as_its_handler_is_set(&["watch", "--pid", &pid], signal);
        let stdout = None;
        let status = Struck { child, stdout }.ends(&format!("{signal:?} as its handler is set"));
        assert_eq!(status.code(), Some(0), "{signal:?}: {status:?}");
    }
    Done::Passed
}

pub(crate) fn struck_as_its_handler_is_set(arguments: &[&str], signal: Signal) -> Child {
    let mut v2p = harness::v2p();
    v2p.args(arguments).process_group(0).stdin(Stdio::null());
    v2p.stdout(Stdio::piped()).stderr(Stdio::piped());
    let stepped = Stepped::start(&mut v2p);
    let number: u64 = signal.as_raw().unsigned_abs().into();
    let sets_handler = |call: &libc::user_regs_struct| {
        call.orig_rax == libc::SYS_rt_sigaction.unsigned_abs()
            && call.rdi == number
            && call.rsi != 0
    };
    let began = Instant::now();
    while !sets_handler(&stepped.step()) {
        assert!(began.elapsed() < PATIENCE, "{signal:?}: no handler");
    }
    // That was its begin.
    assert!(sets_handler(&stepped.step()));
    stepped.go(signal.as_raw())
}

/// Nobody reads it.
fn a_pipe_for_the_trace() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    let pipe = format!("/tmp/v2p-pipe-{}", std::process::id());
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    let arguments = ["watch", "--pid", &pid, "--output", &pipe];
    let ended = SIGNALS.map(|signal| {
        let struck = Struck::start(&arguments, Stdio::null());
        (signal, struck.strike(Duration::from_millis(500), signal))
    });
    fs::remove_file(&pipe).unwrap();
    for (signal, status) in ended {
        assert_eq!(
            status.signal(),
            Some(signal.as_raw()),
            "{signal:?}: {status:?}"
        );
    }
    Done::Passed
}

/// By SIGINT all tests of a watch end it.
fn sigterm() -> Done {
    let mut target = Target::start();
    let pid = target.pid().to_string();
    let end_of = |records: &[Value]| records.last().unwrap().clone();
    for signal in [Signal::INT, Signal::TERM] {
        let watching = Watching::start(&["--pid", &pid]);
        target.tell("write", 1);
        kill_process(Pid::from_raw(watching.pid().cast_signed()).unwrap(), signal).unwrap();
        let (records, status) = watching.finish();
        let end = end_of(&records);
        assert_eq!(
            (&end["type"], &end["why"]),
            (&"end".into(), &"signal".into())
        );
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
    // Nobody is there any more to be told of an end.
    let watching = Watching::start(&["--pid", &pid]);
    let hangup = Pid::from_raw(watching.pid().cast_signed()).unwrap();
    kill_process(hangup, Signal::HUP).unwrap();
    let (_, status) = watching.finish();
    assert_ended(&["watch"], status, Signal::HUP, &[0]);
    assert_ne!(target.tell("write", 2), 0);
    Done::Passed
}

fn any_stage() -> Done {
    let mut target = Target::start();
    let pins = leavings::pins();
    // Much to read, and more lines than a pipe holds.
    let start = target.tell("reserve", 1500);
    let (pid, range) = (target.pid().to_string(), format!("{start:#x}+1024G"));
    target.tell("write", 1);
    let folder = format!("/tmp/v2p-signals-{}", std::process::id());
    fs::create_dir(&folder).unwrap();
    let picture = format!("{folder}/map.svg");
    let page = format!("{:#x}", va(1));
    let commands: [(&[&str], &[i32]); 6] = [
        (
            &["translate", "--each", "--json", "--pid", &pid, &range],
            &[0],
        ),
        (&["map", "--pid", &pid, "-o", &picture], &[0]),
        (&["who", "pfn:1", "--json"], &[0, 1]),
        (&["demo", "--json"], &[0, 1, 3]),
        (
            &["write", "--pid", &pid, &page, "--hex", "01", "--dry-run"],
            &[0, 1, 3],
        ),
        (&["doctor", "--json"], &[0, 1]),
    ];
    for (i, after) in stages().enumerate() {
        for (arguments, codes) in commands {
            let signal = SIGNALS[i % SIGNALS.len()];
            let status = Struck::start(arguments, Stdio::null()).strike(after, signal);
            assert_ended(arguments, status, signal, codes);
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let text = fs::read_to_string(&path).unwrap();
                let whole = path.ends_with("map.svg") && text.trim_end().ends_with("</svg>");
                assert!(whole, "{path:?}: neither the whole picture nor nothing");
                fs::remove_file(path).unwrap();
            }
        }
    }
    fs::remove_dir(folder).unwrap();
    assert_eq!(leavings::pins(), pins);
    assert_ne!(target.tell("write", 2), 0);
    Done::Passed
}

/// Whatever v2p has done to the target is undone by the kernel.
fn held_still() -> Done {
    let mut target = Target::start();
    target.tell("write", 1);
    let (pid, page) = (target.pid().to_string(), format!("{:#x}", va(1)));
    let arguments = [
        "write",
        "--pid",
        &pid,
        &page,
        "--hex",
        "01",
        "--stop",
        "--dry-run",
    ];
    for after in stages() {
        let status = Struck::start(&arguments, Stdio::null()).strike(after, Signal::TERM);
        assert_ended(&arguments, status, Signal::TERM, &[0, 1, 3]);
        assert_ne!(target.tell("write", 1), 0);
    }
    Done::Passed
}
