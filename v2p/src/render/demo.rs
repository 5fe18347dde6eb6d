//! The demo as a story, told while it happens.

use anyhow::Result;
use v2p_common::{Pfn, VirtAddr};

use super::{Colour, Output, WriteText};
use crate::{
    record::{Routes, Write},
    tracer::Tracer,
};

/// Says the demo's steps as text; nothing where the form is JSON.
pub struct DemoText<'a>(WriteText<'a>);

impl<'a> DemoText<'a> {
    /// Text on `output`.
    pub const fn new(output: &'a mut Output) -> Self {
        Self(WriteText::new(output))
    }

    fn say(&self, what: &str, text: &str) -> Result<()> {
        self.0.say(what, text)
    }

    /// The page.
    ///
    /// # Errors
    /// Those of [`Output::text`], as for all of these.
    pub fn start(&self, kernel: &str, pid: u32, before: &str, va: VirtAddr) -> Result<()> {
        let head = format!("v2p demo: process {pid} on Linux {kernel}\n");
        self.0.line(&head)?;
        self.say(
            "buffer",
            &format!("{before:?}, in a locked page of its own"),
        )?;
        self.say("virtual", &format!("{va:#x}", va = va.0))
    }

    /// The hooks.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn tracer(&self, tracer: &Tracer) -> Result<()> {
        self.0
            .hooks(tracer, ", on page faults, migration entries and exit")
    }

    /// The three routes.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn routes(&self, routes: &Routes, levels: u64) -> Result<()> {
        let place = |pfn: Option<u64>| match pfn {
            Some(pfn) => format!("{:#014x}  pfn {pfn:<9}", Pfn(pfn).base().0),
            None => format!("{:<30}", "no frame"),
        };
        let walk = format!("eBPF walk of the {levels}-level page tables");
        self.say(
            "physical",
            &format!("{}  by /proc/self/pagemap", place(routes.pagemap)),
        )?;
        self.say("", &format!("{}  by an {walk}", place(routes.walk)))?;
        let content = if routes.content {
            "64 random bytes of ours are there: read by eBPF through the direct map"
        } else {
            "our random bytes are NOT there: the routes above are wrong"
        };
        self.say("content", content)?;
        if routes.pagemap != routes.walk {
            let what = self.0.coloured("the routes disagree", Colour::Bad);
            self.say("", &what)?;
        }
        Ok(())
    }

    /// The injected move.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn injected(&self, how: &str) -> Result<()> {
        self.0.injected(how)
    }

    /// The write and its verdict.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn write(&self, write: &Write, after: &str) -> Result<()> {
        self.0.write(write)?;
        self.say(
            "buffer",
            &format!("{after:?}, read through its virtual address"),
        )?;
        self.0.verdict(write)
    }
}
