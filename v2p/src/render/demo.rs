//! The demo as a story, told while it happens.

use std::{cell::RefCell, time::Duration};

use anyhow::Result;
use v2p_common::{Pfn, VirtAddr};

use super::{Colour, Output, text::state};
use crate::{
    exit,
    record::{Routes, Verdict, Write},
    tracer::Tracer,
};

/// Says the demo's steps as text; nothing where the form is JSON.
pub struct DemoText<'a>(RefCell<&'a mut Output>);

impl<'a> DemoText<'a> {
    /// Text on `output`.
    pub const fn new(output: &'a mut Output) -> Self {
        Self(RefCell::new(output))
    }

    fn say(&self, what: &str, text: &str) -> Result<()> {
        self.line(&format!("  {what:<10} {text}"))
    }

    /// A line, heard or not: the demo goes on when nobody reads it.
    fn line(&self, line: &str) -> Result<()> {
        match self.0.borrow_mut().text(line) {
            Err(e) if exit::is_closed_stdout(&e) => Ok(()),
            said => said,
        }
    }

    /// The page.
    ///
    /// # Errors
    /// Those of [`Output::text`], as for all of these.
    pub fn start(&self, kernel: &str, pid: u32, before: &str, va: VirtAddr) -> Result<()> {
        let head = format!("v2p demo: process {pid} on Linux {kernel}\n");
        self.line(&head)?;
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
        let live = tracer.live().len();
        self.say(
            "tracer",
            &format!("{live} hooks live, on page faults, migration entries and exit"),
        )?;
        for missing in tracer.missing() {
            self.say("", &format!("missing: {}: {}", missing.hook, missing.why))?;
        }
        Ok(())
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
            let what = self.0.borrow().coloured("the routes disagree", Colour::Bad);
            self.say("", &what)?;
        }
        Ok(())
    }

    /// The injected move.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn injected(&self, how: &str) -> Result<()> {
        self.say(
            "inject",
            &format!("the page was moved on purpose, by {how}"),
        )
    }

    /// The write and its verdict.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn write(&self, write: &Write, after: &str) -> Result<()> {
        let Write {
            len,
            pa,
            window_ns,
            moves,
            lost,
            verdict,
            why,
            denied,
            ..
        } = write;
        let pa = pa.map_or_else(|| "?".to_owned(), |pa| pa.to_string());
        match window_ns {
            Some(ns) => {
                let us = Duration::from_nanos(*ns).as_micros();
                self.say(
                    "write",
                    &format!("{len} bytes by pwrite on /dev/mem at {pa}, done {us} us after the last look-up began"),
                )?;
            }
            None => self.say("write", "nothing was written")?,
        }
        if let Some(denial) = denied {
            self.say("denied", &format!("{}: {}", denial.check, denial.what))?;
            self.say("evidence", &denial.evidence)?;
            self.say("mend", &denial.mend)?;
        }
        for (i, m) in moves.iter().enumerate() {
            let what = if i == 0 { "moved" } else { "" };
            let who =
                m.by.as_ref()
                    .map_or_else(String::new, |by| format!(", by {} ({})", by.comm, by.tid));
            self.say(what, &format!("{} -> {}{who}", state(m.from), state(m.to)))?;
        }
        if window_ns.is_some() {
            let what = match verdict {
                Verdict::Landed => "no move of the page",
                Verdict::Strayed => "the page moved",
                _ => "cannot tell whether the page moved",
            };
            self.say(
                "tracer",
                &format!("{what} between look-up and write, {lost} events lost"),
            )?;
        }
        self.say(
            "buffer",
            &format!("{after:?}, read through its virtual address"),
        )?;
        if let Some(why) = why {
            self.say("because", why)?;
        }
        let word = format!("{verdict:?}").to_lowercase();
        let colour = if *verdict == Verdict::Landed {
            Colour::Good
        } else {
            Colour::Bad
        };
        let word = self.0.borrow().coloured(&word, colour);
        self.line(&format!("\nverdict: {word}"))
    }
}
