//! Who is told what a watch sees: what prints it, shows it, or writes it to a file.

use anyhow::Result;

use crate::{record::Record, render::Output};

/// Takes the records of a watch, in their order: `start` first, `end` last.
pub trait Listener {
    /// Takes one record.
    ///
    /// # Errors
    /// The listener's own; the watch ends with it.
    fn record(&mut self, record: &Record) -> Result<()>;

    /// Whether moves shall come with the name of their mapping.
    fn wants_names(&self) -> bool;

    /// Called after every batch of events, and at least every 50 ms: lets what was told be seen. Gives why to stop, where the
    /// listener wants to.
    ///
    /// # Errors
    /// As [`Self::record`].
    fn turn(&mut self) -> Result<Option<&'static str>>;

    /// Takes something for the person, that is no record.
    fn say(&mut self, message: &str);
}

impl Listener for Output {
    fn record(&mut self, record: &Record) -> Result<()> {
        Self::record(self, record)
    }

    fn wants_names(&self) -> bool {
        !self.is_json()
    }

    fn turn(&mut self) -> Result<Option<&'static str>> {
        self.flush()?;
        self.check_reader()?;
        Ok(None)
    }

    fn say(&mut self, message: &str) {
        Self::say(self, message);
    }
}
