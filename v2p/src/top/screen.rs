//! The terminal: keys in, the view out, and as it was before whatever ends us.

use std::{
    mem,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ratatui::{DefaultTerminal, crossterm::event::Event};

use super::{
    App,
    app::{Mode, Wish},
    keys::Keys,
    sample::Sampler,
    view,
};
use crate::{record::Record, watch::Listener};

/// The view is drawn so often where something happens, at most.
const REDRAW: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);
/// How many times longer than reading the mappings the rest in between is at least.
const REST: u32 = 20;

/// Shows a watch.
pub struct Top {
    app: App,
    sampler: Sampler,
    screen: Option<(DefaultTerminal, Keys)>,
    drawn: Option<Instant>,
    /// When the last second was over.
    second: Instant,
    /// When the mappings are read next.
    next_sample: Instant,
    /// The watch's last record.
    end: Option<Record>,
}

impl Top {
    /// Nothing is shown before the watch's start: what hinders it is told as anywhere.
    pub fn new(app: App, sampler: Sampler) -> Self {
        let now = Instant::now();
        Self {
            app,
            sampler,
            screen: None,
            drawn: None,
            second: now,
            next_sample: now,
            end: None,
        }
    }

    /// Gives the terminal back, and the watch's last record where it came to its end.
    pub fn close(mut self) -> Option<Record> {
        self.leave();
        self.end.take()
    }

    fn enter(&mut self) -> Result<()> {
        // It also has a panic give the terminal back before it says anything.
        let screen = ratatui::try_init().context("the terminal")?;
        let keys = Keys::listen().inspect_err(|_| _ = ratatui::try_restore());
        self.screen = Some((screen, keys.context("the terminal's keys")?));
        self.second = Instant::now();
        Ok(())
    }

    fn leave(&mut self) {
        if let Some((mut screen, _)) = self.screen.take() {
            // It may be gone. Then the screen must not be dropped: it would say so on stderr, which is gone too, and panic of that
            // (ratatui-core 0.1, Terminal::drop).
            if screen.show_cursor().is_err() {
                mem::forget(screen);
            }
            let _ = ratatui::try_restore();
        }
    }

    /// Reads the keys that there are; gives whether there was any, or the wish to end.
    fn keys(&mut self) -> Result<Option<bool>> {
        let mut any = false;
        while let Some((_, keys)) = &self.screen
            && let Some(event) = keys.next().context("the terminal's keys")?
        {
            any = true;
            let Event::Key(key) = event else { continue };
            match self.app.key(key) {
                Wish::Quit => return Ok(None),
                Wish::Pages => self.sample_pages()?,
                Wish::None => {}
            }
        }
        Ok(Some(any))
    }

    fn sample(&mut self) -> Result<()> {
        let began = Instant::now();
        if let Some(sampled) = self.sampler.sample()? {
            self.app.sampled(sampled);
        }
        if self.app.mode == Mode::Pages {
            self.sample_pages()?;
        }
        self.next_sample = Instant::now() + SECOND.max(began.elapsed() * REST);
        Ok(())
    }

    fn sample_pages(&mut self) -> Result<()> {
        let (start, end) = (self.app.opened.start, self.app.opened.end);
        if let Some(pages) = self.sampler.pages(start, end)? {
            self.app.pages(pages);
        }
        Ok(())
    }
}

impl Listener for Top {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.app.record(record);
        match record {
            Record::Start { .. } => {
                self.sample()?;
                self.enter()?;
            }
            Record::End { .. } => self.end = Some(record.clone()),
            _ => {}
        }
        Ok(())
    }

    fn wants_names(&self) -> bool {
        true
    }

    fn turn(&mut self) -> Result<Option<&'static str>> {
        let Some(touched) = self.keys()? else {
            return Ok(Some("quit"));
        };
        let now = Instant::now();
        while now.duration_since(self.second) >= SECOND {
            self.second += SECOND;
            self.app.roll();
        }
        if now >= self.next_sample {
            self.sample()?;
        }
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW);
        if let Some((screen, _)) = &mut self.screen
            && (touched || is_due)
        {
            let app = &self.app;
            screen
                .draw(|frame| view::draw(frame, app))
                .context("the terminal")?;
            self.drawn = Some(now);
        }
        Ok(None)
    }

    fn say(&mut self, message: &str) {
        message.clone_into(&mut self.app.message);
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        self.leave();
    }
}
