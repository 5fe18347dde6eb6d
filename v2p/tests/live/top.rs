//! `v2p top` on a terminal of its own.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use libtest_mimic::Trial;
use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{Termios, Winsize, tcgetattr, tcgetwinsize, tcsetwinsize},
};

use v2p::{
    process::Process,
    record::Record,
    top::{App, Top, app::Subject, sample::Sampler},
    watch::Listener as _,
};

use crate::{
    Done,
    harness::{self, PATIENCE},
    target::{KIND, PAGE, Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("top_shows_faults_as_they_happen", shows_faults),
        trial(
            "top_gives_the_terminal_back_however_it_ends",
            gives_the_terminal_back,
        ),
        trial(
            "a_panic_gives_the_terminal_back_before_it_speaks",
            gives_it_back_on_panic,
        ),
        trial("top_ends_where_its_terminal_goes_away", terminal_goes),
        trial("top_fills_a_terminal_of_another_size", resized),
        trial("top_ends_with_its_process", ends_with_its_process),
        trial(
            "top_of_what_is_not_there_leaves_the_terminal_alone",
            of_nobody,
        ),
    ]
}

/// A running `v2p top`, and what its terminal was sent.
pub(crate) struct Showing {
    child: Child,
    person: File,
    /// Kept open: what the terminal is set to is asked here.
    terminal: File,
    before: String,
    shown: Arc<Mutex<String>>,
}

/// What a terminal is set to, to be compared.
fn settings(terminal: &File) -> String {
    let Termios {
        input_modes,
        output_modes,
        local_modes,
        control_modes,
        ..
    } = tcgetattr(terminal).unwrap();
    format!("{input_modes:?} {output_modes:?} {local_modes:?} {control_modes:?}")
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Showing {
    pub(crate) fn start(arguments: &[&str]) -> Result<Self, String> {
        let mut command = harness::v2p();
        command.arg("top").args(arguments);
        Self::of(command)
    }

    /// A program on a terminal of 80 by 24.
    fn of(mut command: Command) -> Result<Self, String> {
        let (master, terminal): (OwnedFd, File) = harness::terminal()?;
        tcsetwinsize(&terminal, size(80, 24)).unwrap();
        let before = settings(&terminal);
        let side = || Stdio::from(terminal.try_clone().unwrap());
        let child = command
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("it runs");
        let person = File::from(master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut eyes, all) = (person.try_clone().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Its end is an error: nobody has the other side any more.
            while let Ok(n @ 1..) = eyes.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                all.lock().unwrap().push_str(&text);
            }
        });
        Ok(Self {
            child,
            person,
            terminal,
            before,
            shown,
        })
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until what a person sees is as wanted: the lines of the screen, and what came before and after it.
    pub(crate) fn wait_for(&self, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&seen(&self.shown())) {
            assert!(Instant::now() < deadline, "{}", seen(&self.shown()));
            thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    pub(crate) fn type_keys(&mut self, keys: &str) {
        self.person.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for its end: everything must be as it was.
    pub(crate) fn finish(mut self, code: i32) -> String {
        let status = self.child.wait().unwrap();
        assert_eq!(settings(&self.terminal), self.before);
        // All that was sent is read at some moment.
        let deadline = Instant::now() + PATIENCE;
        let is_all = |shown: &str| shown.contains(LEAVE) || !shown.contains(ENTER);
        while !is_all(&self.shown()) && Instant::now() < deadline {
            thread::sleep(std::time::Duration::from_millis(50));
        }
        thread::sleep(std::time::Duration::from_millis(50));
        let shown = self.shown();
        assert_eq!(status.code(), Some(code), "{shown:?}");
        let last = shown.rfind(ENTER);
        assert!(
            last.is_none_or(|at| shown[at..].contains(LEAVE)),
            "{shown:?}"
        );
        shown
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other screen of a terminal, and back (xterm's private modes).
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// What a terminal that was sent `sent` shows, line by line: only as much of one as the view needs.
fn seen(sent: &str) -> String {
    let mut cells: BTreeMap<(usize, usize), char> = BTreeMap::new();
    let (mut row, mut column) = (0, 0);
    let mut rest = sent.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                // CSI, parameters, and a letter that says what it is.
                rest.next();
                let mut parameters = String::new();
                let what = rest.by_ref().find(|c| {
                    parameters.push(*c);
                    c.is_ascii_alphabetic()
                });
                parameters.pop();
                let mut numbers = parameters.split(';').map(|n| n.parse().unwrap_or(1usize));
                match what {
                    Some('H') => {
                        row = numbers.next().unwrap_or(1) - 1;
                        column = numbers.next().unwrap_or(1) - 1;
                    }
                    Some('J') => cells.clear(),
                    _ => {}
                }
            }
            '\r' => column = 0,
            '\n' => row += 1,
            c => {
                cells.insert((row, column), c);
                column += 1;
            }
        }
    }
    let mut lines = vec![String::new(); cells.keys().map(|(row, _)| row + 1).max().unwrap_or(0)];
    for ((row, column), c) in cells {
        let line = &mut lines[row];
        let missing = column - line.chars().count();
        line.extend(std::iter::repeat_n(' ', missing));
        line.push(c);
    }
    lines.join("\n")
}

fn of_target(target: &Target) -> Result<Showing, Done> {
    let pid = target.pid().to_string();
    let showing = Showing::start(&["--pid", &pid]).map_err(Done::Skipped)?;
    showing.wait_for(|shown| shown.contains("v2p top") && shown.contains("MAPPING"));
    Ok(showing)
}

fn shows_faults() -> Done {
    let mut target = Target::start();
    let mut showing = match of_target(&target) {
        Ok(showing) => showing,
        Err(skipped) => return skipped,
    };
    showing.type_keys("/anon\r");
    target.tell("write", 5);
    target.tell("write", 6);
    // In the row of their mapping: two pages came, by two faults.
    let row = format!("{:#x} anon 2 0 2 2", va(0));
    showing.wait_for(|shown| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines = shown
            .lines()
            .map(|line| words(line.trim_start_matches('>')));
        shown.contains("first-touch") && lines.any(|line| line.starts_with(&row))
    });
    showing.type_keys("\r");
    showing.wait_for(|shown| shown.contains("Esc back"));
    showing.type_keys("\u{1b}");
    showing.type_keys("q");
    let shown = showing.finish(0);
    assert!(shown.contains("end (quit)"), "{shown:?}");
    Done::Passed
}

fn gives_the_terminal_back() -> Done {
    let target = Target::start();
    for end in ["q", "\u{3}", "TERM", "INT", "HUP", "QUIT", "ALRM", "USR1"] {
        let mut showing = match of_target(&target) {
            Ok(showing) => showing,
            Err(skipped) => return skipped,
        };
        let raw = settings(&showing.terminal);
        assert_ne!(raw, showing.before, "keys come one by one");
        let signal = match end {
            "TERM" => Signal::TERM,
            "INT" => Signal::INT,
            "HUP" => Signal::HUP,
            "QUIT" => Signal::QUIT,
            "ALRM" => Signal::ALARM,
            "USR1" => Signal::USR1,
            keys => {
                showing.type_keys(keys);
                showing.finish(0);
                continue;
            }
        };
        // Half a key, of which the rest is waited for.
        showing.type_keys("\u{1b}[1");
        let pid = Pid::from_raw(i32::try_from(showing.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let shown = showing.finish(0);
        assert!(shown.contains("end (signal)"), "{end}: {shown:?}");
    }
    Done::Passed
}

/// A window that is closed, a line that is cut: there may be no signal.
fn terminal_goes() -> Done {
    let target = Target::start();
    let (master, terminal) = match harness::terminal() {
        Ok(both) => both,
        Err(why) => return Done::Skipped(why),
    };
    tcsetwinsize(&terminal, size(80, 24)).unwrap();
    let mut v2p = {
        let side = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = harness::v2p();
        command.args(["top", "--pid", &target.pid().to_string()]);
        command.stdin(side()).stdout(side()).stderr(side());
        command.spawn().unwrap()
    };
    drop(terminal);
    let (mut person, mut shown) = (File::from(master), String::new());
    while !shown.contains(ENTER) {
        let mut bytes = [0; 4096];
        let n = person.read(&mut bytes).expect("it shows something");
        shown.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    drop(person);
    let deadline = Instant::now() + PATIENCE;
    while v2p.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            v2p.kill().unwrap();
            v2p.wait().unwrap();
            panic!("it goes on without a terminal");
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    Done::Passed
}

/// What [`gives_it_back_on_panic`] runs: the view of a watch of itself, in which something panics.
pub(crate) fn panic_in_view() -> ! {
    let process = Process::open(std::process::id()).unwrap();
    let app = App::new(Subject::default(), true);
    let mut top = Top::new(app, Sampler::new(process).unwrap());
    let start = Record::Start {
        pid: std::process::id(),
        kernel: String::new(),
        hooks: Vec::new(),
        missing: Vec::new(),
    };
    top.record(&start).unwrap();
    // Drawn, and no key was pressed.
    assert_eq!(top.turn().unwrap(), None);
    panic!("as a bug in the view would");
}

/// No key, record or size makes the view panic that we know of, so a program of its own does it.
fn gives_it_back_on_panic() -> Done {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(KIND, "top-panics").env("RUST_BACKTRACE", "0");
    let showing = match Showing::of(command) {
        Ok(showing) => showing,
        Err(reason) => return Done::Skipped(reason),
    };
    // Rust's code for a panic.
    let shown = showing.finish(101);
    let (view, after) = shown.split_once(LEAVE).unwrap();
    assert!(
        view.contains(ENTER) && view.contains("v2p top"),
        "{shown:?}"
    );
    assert!(after.contains("as a bug in the view would"), "{shown:?}");
    Done::Passed
}

fn resized() -> Done {
    let target = Target::start();
    let mut showing = match of_target(&target) {
        Ok(showing) => showing,
        Err(skipped) => return skipped,
    };
    tcsetwinsize(&showing.terminal, size(120, 40)).unwrap();
    assert_eq!(tcgetwinsize(&showing.terminal).unwrap().ws_col, 120);
    // The keys go to the last line, which there was none of before.
    showing.wait_for(|shown| {
        shown
            .lines()
            .nth(39)
            .is_some_and(|keys| keys.contains("q quit"))
    });
    tcsetwinsize(&showing.terminal, size(30, 5)).unwrap();
    showing.wait_for(|shown| shown == "v2p top: the terminal is too s");
    showing.type_keys("q");
    showing.finish(0);
    Done::Passed
}

fn ends_with_its_process() -> Done {
    let mut target = Target::start();
    let showing = match of_target(&target) {
        Ok(showing) => showing,
        Err(skipped) => return skipped,
    };
    target.must(libc::SYS_madvise, &[va(0), PAGE, 4]);
    target.kill();
    let shown = showing.finish(0);
    assert!(shown.contains("end (target-exited)"), "{shown:?}");
    Done::Passed
}

fn of_nobody() -> Done {
    let showing = match Showing::start(&["--pid", "4194304"]) {
        Ok(showing) => showing,
        Err(reason) => return Done::Skipped(reason),
    };
    showing.wait_for(|shown| shown.contains("v2p: top: process 4194304: there is none"));
    let shown = showing.finish(1);
    assert!(!shown.contains(ENTER), "{shown:?}");
    Done::Passed
}
