//! `v2p top` on a terminal of its own.

mod showing;

use std::{
    fs::File,
    io::Read as _,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use libtest_mimic::Trial;
use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{tcgetwinsize, tcsetwinsize},
};

use v2p::{
    process::Process,
    record::Record,
    top::{App, Top, app::Subject, sample::Sampler},
    watch::Listener as _,
};

pub(crate) use self::showing::Showing;
use self::showing::{ENTER, LEAVE, settings, size};
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
    // Until it has drawn: then the cursor is hidden.
    while !shown.contains(ENTER) || !shown.contains("\u{1b}[?25l") {
        let mut bytes = [0; 4096];
        let n = person.read(&mut bytes).expect("it shows something");
        shown.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    drop(person);
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = v2p.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            v2p.kill().unwrap();
            v2p.wait().unwrap();
            panic!("it goes on without a terminal");
        }
        thread::sleep(std::time::Duration::from_millis(10));
    };
    // By the failure to write, or quietly where SIGHUP came first: not by a panic.
    assert!(matches!(status.code(), Some(0 | 2)), "{status}");
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
