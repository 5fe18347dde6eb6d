//! `v2p top` on a terminal, and what the terminal shows.

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

use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::harness::{self, PATIENCE};

/// A running `v2p top`, and what its terminal was sent.
pub(crate) struct Showing {
    pub(super) child: Child,
    pub(super) person: File,
    /// Kept open: what the terminal is set to is asked here.
    pub(super) terminal: File,
    pub(super) before: String,
    pub(super) shown: Arc<Mutex<String>>,
}

/// What a terminal is set to, to be compared.
pub(super) fn settings(terminal: &File) -> String {
    let Termios {
        input_modes,
        output_modes,
        local_modes,
        control_modes,
        ..
    } = tcgetattr(terminal).unwrap();
    format!("{input_modes:?} {output_modes:?} {local_modes:?} {control_modes:?}")
}

pub(super) fn size(columns: u16, rows: u16) -> Winsize {
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
    pub(super) fn of(mut command: Command) -> Result<Self, String> {
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

    pub(super) fn shown(&self) -> String {
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
pub(super) const ENTER: &str = "\u{1b}[?1049h";
pub(super) const LEAVE: &str = "\u{1b}[?1049l";

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
