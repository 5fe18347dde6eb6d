//! What is pressed, read by a thread of its own: half a key, or a terminal that is gone, keeps nobody else waiting.

use std::{
    io,
    sync::mpsc::{Receiver, channel},
    thread,
};

use ratatui::crossterm::event::{self, Event};

/// Keys, sizes and whatever else the terminal tells.
pub(super) struct Keys(Receiver<io::Result<Event>>);

impl Keys {
    /// Reads from now on, as long as this process lives: who waits for a key cannot be called off.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub(super) fn listen() -> io::Result<Self> {
        let (sender, keys) = channel();
        let read = move || {
            loop {
                let told = event::read();
                let is_over = told.is_err();
                // Nobody listens any more where the view is left.
                if sender.send(told).is_err() || is_over {
                    break;
                }
            }
        };
        thread::Builder::new().spawn(read)?;
        Ok(Self(keys))
    }

    /// The next one, if there is any.
    ///
    /// # Errors
    /// Where the terminal cannot be read: then nothing comes any more.
    pub(super) fn next(&self) -> io::Result<Option<Event>> {
        self.0.try_recv().ok().transpose()
    }
}
