//! How records are said: JSON lines for scripts, aligned text for people.

mod column;
mod demo;
mod digits;
mod doctor;
mod json;
mod moves;
mod progress;
mod text;
mod words;
mod write;

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use anyhow::{Context as _, Result};
use clap::ColorChoice;
use serde::Serialize;

use self::{
    column::Cell as _,
    moves::Moves,
    progress::Progress,
    text::{Clock, RunLines},
};

pub use self::{
    demo::DemoText,
    doctor::DoctorText,
    words::{bytes, cause_text, count, file_name, grouped, mapping_name},
    write::WriteText,
};
pub use crate::printable::printable;

use crate::{kernel::now_ns, record::Record, state::PageState};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 16;

/// Where output goes, and in which form.
pub struct Output {
    json: bool,
    colour: bool,
    /// Said to the end though nobody reads it: what is done is worth more than what is said of it.
    stands: bool,
    /// A line that is being put together.
    json_line: Vec<u8>,
    stdout: BufWriter<StdoutLock<'static>>,
    clock: Clock,
    runs: RunLines,
    moves: Moves,
    progress: Progress,
}

impl Output {
    /// Output on stdout.
    pub fn new(json: bool, colour: ColorChoice) -> Self {
        let colour = match colour {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            // https://no-color.org: set and not empty.
            ColorChoice::Auto => {
                io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        };
        Self {
            json,
            colour,
            stands: false,
            json_line: Vec::new(),
            stdout: BufWriter::with_capacity(BUFFER, io::stdout().lock()),
            clock: Clock::from(now_ns()),
            runs: RunLines::default(),
            moves: Moves::default(),
            progress: Progress::default(),
        }
    }

    /// From now on a reader that goes away is no error: the command goes on, and its exit code is the answer.
    pub const fn answer_stands(&mut self) {
        self.stands = true;
    }

    /// What is to be made of what a write to stdout gave.
    fn said(&self, said: io::Result<()>) -> Result<()> {
        match said {
            Err(e) if self.stands && e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            said => said.context("stdout"),
        }
    }

    /// Says one record, in either form; it is seen by the next [`Self::flush`] at the latest.
    ///
    /// # Errors
    /// Where stdout cannot be written to, also when nobody reads it any more.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        if self.json {
            self.json_line.clear();
            if !json::put(&mut self.json_line, record) {
                return self.json(record);
            }
            let (stdout, line) = (&mut self.stdout, &self.json_line);
            let said = self.progress.aside(|| stdout.write_all(line));
            return self.said(said);
        }
        if let Record::Move { pid, one, mapping } = record {
            let what = (*pid, mapping);
            let before = self.moves.add(one, what, &mut self.clock, self.colour);
            return before.map_or(Ok(()), |line| self.line(&line));
        }
        if let Some(line) = self.runs.line(record, self.colour) {
            let (stdout, progress) = (&mut self.stdout, &self.progress);
            let said = progress.aside(|| stdout.write_all(line.as_bytes()));
            return self.said(said);
        }
        self.finish_run()?;
        let line = self.clock.line(record, self.colour);
        self.line(&line)
    }

    /// Whether records are said as JSON.
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether colours are wanted.
    pub const fn is_coloured(&self) -> bool {
        self.colour
    }

    /// Says the moves that the next one might have continued.
    fn finish_run(&mut self) -> Result<()> {
        while let Some(line) = self.moves.line(&mut self.clock, self.colour) {
            self.line(&line)?;
        }
        Ok(())
    }

    /// Says one record if the form is JSON.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn json(&mut self, record: &impl Serialize) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let Self {
            stdout, progress, ..
        } = self;
        let said = progress.aside(|| {
            serde_json::to_writer(&mut *stdout, record)?;
            stdout.write_all(b"\n")
        });
        self.said(said)
    }

    /// Says a heading if the form is text.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn heading(&mut self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let line = paint(&printable(text), Colour::Heading, self.colour);
        self.line(&line)
    }

    /// Says one line if the form is text, at once.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn text(&mut self, line: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        self.line(line)?;
        self.flush()
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let Self {
            stdout, progress, ..
        } = self;
        let said = progress.aside(|| {
            stdout.write_all(line.as_bytes())?;
            stdout.write_all(b"\n")
        });
        self.said(said)
    }

    /// From now on, a bar on stderr shows how much of `total` is done, where it takes long and stderr is a terminal.
    pub fn progress(&mut self, total: u64) {
        self.progress = Progress::of(total);
    }

    /// So much more is done.
    pub fn advance(&mut self, more: u64) {
        self.progress.advance(more);
    }

    /// Has everything seen that was said.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn flush(&mut self) -> Result<()> {
        self.finish_run()?;
        let flushed = self.stdout.flush();
        self.said(flushed)
    }

    /// Notices a reader that went away while there was nothing to say (`| head`).
    ///
    /// # Errors
    /// BrokenPipe, as a write would give it.
    pub fn check_reader(&self) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let gone = poll(&mut fds, Some(&at_once)).is_ok_and(|n| n > 0)
            && fds[0].revents().contains(PollFlags::ERR);
        if gone {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe)).context("stdout");
        }
        Ok(())
    }

    /// Says something to the person, on stderr, where nobody may be listening.
    pub fn say(&self, message: &str) {
        let _ = writeln!(io::stderr(), "{message}");
    }

    /// `text` in `colour`, where colours are wanted.
    fn coloured(&self, text: &str, colour: Colour) -> String {
        paint(text, colour, self.colour)
    }
}

/// A page's state in a word or two.
pub fn state_text(state: PageState) -> String {
    let mut text = String::new();
    state.add(&mut text);
    text
}

/// What a colour means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Colour {
    Good,
    Bad,
    Dim,
    Heading,
}

fn paint(text: &str, colour: Colour, wanted: bool) -> String {
    if !wanted {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Good => "1;32",
        Colour::Bad => "1;31",
        Colour::Dim => "2",
        Colour::Heading => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}
