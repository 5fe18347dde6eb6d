//! A bar on stderr for what takes over a second, where a person looks at stderr.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What takes less time needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: &str = "{bar:30} {percent:>3}%  {elapsed} of about {duration}";

/// How far it has come.
#[derive(Default)]
pub(super) struct Progress {
    total: u64,
    done: u64,
    /// None: nobody looks, or there is nothing to wait for.
    start: Option<Instant>,
    bar: Option<ProgressBar>,
    /// Lines go to the same terminal, where the bar must make room for them.
    shared: bool,
}

impl Progress {
    /// Of `total` to do.
    pub(super) fn of(total: u64) -> Self {
        Self {
            total,
            start: io::stderr().is_terminal().then(Instant::now),
            shared: io::stdout().is_terminal(),
            done: 0,
            bar: None,
        }
    }

    /// So much more is done.
    pub(super) fn advance(&mut self, more: u64) {
        let Some(start) = self.start else { return };
        self.done += more;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if start.elapsed() > PATIENCE {
            let bar = ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(LOOK) {
                bar.set_style(style);
            }
            self.bar = Some(bar.with_elapsed(start.elapsed()));
        }
    }

    /// Writes something, and does not let the bar stand in between.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) if self.shared => bar.suspend(write),
            _ => write(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
