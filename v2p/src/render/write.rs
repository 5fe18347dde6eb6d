//! A guarded write as a story, told while it happens.

use std::{cell::RefCell, time::Duration};

use anyhow::Result;
use v2p_common::VirtAddr;

use super::{
    Colour, Output, printable, state_text,
    words::{self, count},
};
use crate::{
    record::{Denial, HexBytes, Move, Verdict, Write},
    tracer::Tracer,
};

/// Bytes that are shown of what was there before.
const SHOWN: usize = 16;

/// Says the steps of a write as text; nothing where the form is JSON.
pub struct WriteText<'a>(RefCell<&'a mut Output>);

impl<'a> WriteText<'a> {
    /// Text on `output`.
    pub const fn new(output: &'a mut Output) -> Self {
        Self(RefCell::new(output))
    }

    /// A step, and what came of it.
    ///
    /// # Errors
    /// Those of [`Output::text`], as for all of these.
    pub(super) fn say(&self, what: &str, text: &str) -> Result<()> {
        self.line(&format!("  {what:<10} {text}"))
    }

    pub(super) fn line(&self, line: &str) -> Result<()> {
        self.0.borrow_mut().text(line)
    }

    pub(super) fn coloured(&self, text: &str, colour: Colour) -> String {
        self.0.borrow().coloured(text, colour)
    }

    /// What is to be done.
    ///
    /// # Errors
    /// As for all of these.
    pub fn start(&self, pid: u32, va: VirtAddr, bytes: &[u8]) -> Result<()> {
        let (va, len) = (va.0, count(bytes.len() as u64, "byte"));
        self.line(&format!("v2p write: {len} to {va:#x} of process {pid}\n"))
    }

    /// The hooks, and what is said of those that are live.
    ///
    /// # Errors
    /// As for all of these.
    pub fn hooks(&self, tracer: &Tracer, on: &str) -> Result<()> {
        let live = count(tracer.live().len() as u64, "hook");
        self.say("tracer", &format!("{live} live{on}"))?;
        let missing = tracer.missing().iter();
        let missing = missing.map(|one| (one.hook.as_str(), one.why.as_str()));
        let mut lines = words::missing(missing).into_iter();
        lines.try_for_each(|line| self.say("", &line))
    }

    /// The injected move.
    ///
    /// # Errors
    /// As for all of these.
    pub fn injected(&self, how: &str) -> Result<()> {
        self.say(
            "inject",
            &format!("the page was moved on purpose, by {how}"),
        )
    }

    /// What was done, and seen.
    ///
    /// # Errors
    /// As for all of these.
    pub fn write(&self, write: &Write) -> Result<()> {
        let pa = write.pa.map_or_else(|| "?".to_owned(), |pa| pa.to_string());
        if let Some(pfn) = write.pfn {
            self.say("frame", &format!("{pa}  pfn {pfn}"))?;
        }
        self.pinned(write)?;
        self.written(write, &pa)?;
        if let Some(denial) = &write.denied {
            self.denied(denial)?;
        }
        self.moves(&write.moves)?;
        if write.window_ns.is_some() {
            let what = between(write.verdict);
            let lost = count(write.lost, "event");
            self.say("tracer", &format!("{what}, {lost} lost"))?;
        }
        self.hit(write, &pa)
    }

    fn pinned(&self, write: &Write) -> Result<()> {
        match (write.pinned, &write.not_pinned, write.stopped) {
            (true, ..) => self.say("pinned", "as a buffer of an io_uring"),
            (_, Some(why), false) => self.say("not pinned", why),
            (_, Some(why), true) => {
                self.say("not pinned", &format!("{why}; the process was stopped"))
            }
            _ => Ok(()),
        }
    }

    fn written(&self, write: &Write, pa: &str) -> Result<()> {
        let Write {
            window_ns,
            written,
            len,
            parts,
            ..
        } = write;
        match window_ns {
            Some(ns) if parts.is_empty() => {
                self.say("write", &one_write(*written, pa, *ns))?;
            }
            Some(_) => {
                for part in parts {
                    let what = one_write(part.len, &part.pa.to_string(), part.window_ns);
                    let verdict = part.verdict.name();
                    self.say("write", &format!("{what}: {verdict}"))?;
                }
                if written < len {
                    let rest = count((len - written) as u64, "byte");
                    self.say("", &format!("not written: {rest}"))?;
                }
            }
            None => self.say("write", "nothing was written")?,
        }
        Ok(())
    }

    fn denied(&self, denial: &Denial) -> Result<()> {
        self.say("denied", &format!("{}: {}", denial.check, denial.what))?;
        self.say("evidence", &denial.evidence)?;
        self.say("mend", &denial.mend)
    }

    fn moves(&self, moves: &[Move]) -> Result<()> {
        for (i, m) in moves.iter().enumerate() {
            let what = if i == 0 { "moved" } else { "" };
            let who = m.by.as_ref().map_or_else(String::new, |by| {
                format!(", by {} ({})", printable(&by.comm.to_string()), by.tid)
            });
            self.say(
                what,
                &format!("{} -> {}{who}", state_text(m.from), state_text(m.to)),
            )?;
        }
        Ok(())
    }

    /// What lay where the write went, if that was not the page, or may not have been.
    fn hit(&self, write: &Write, pa: &str) -> Result<()> {
        match (write.verdict, &write.before) {
            (Verdict::Strayed | Verdict::Unproven, Some(before)) if write.window_ns.is_some() => {
                let what = format!("{pa}, where there was {} before", shown(before));
                self.say("hit", &what)
            }
            _ => Ok(()),
        }
    }

    /// The end of it.
    ///
    /// # Errors
    /// As for all of these.
    pub fn verdict(&self, write: &Write) -> Result<()> {
        if let Some(why) = &write.why {
            self.say("because", &printable(why))?;
        }
        let colour = match write.verdict {
            Verdict::Landed | Verdict::Allowed => Colour::Good,
            _ => Colour::Bad,
        };
        let word = self.coloured(write.verdict.name(), colour);
        self.line(&format!("\nverdict: {word}"))
    }
}

/// What is known of the time between look-up and write, where something was written. What ended it before a later page was
/// written says nothing against those that were: they had landed.
const fn between(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Strayed => "the page moved between look-up and write",
        Verdict::Unproven => "cannot tell whether the page moved between look-up and write",
        Verdict::Moved => {
            "no page that was written moved between look-up and write; the next one moved before"
        }
        Verdict::Landed | Verdict::Allowed | Verdict::Denied | Verdict::Refused => {
            "no move of the page between look-up and write"
        }
    }
}

/// One pwrite: its bytes, where it went, and its window.
fn one_write(len: usize, pa: &str, window_ns: u64) -> String {
    format!(
        "{} by pwrite on /dev/mem at {pa}, done {} us after the last look-up began",
        count(len as u64, "byte"),
        Duration::from_nanos(window_ns).as_micros()
    )
}

/// The first bytes.
fn shown(HexBytes(bytes): &HexBytes) -> String {
    let (first, rest) = bytes.split_at(bytes.len().min(SHOWN));
    let first = HexBytes(first.to_vec());
    match rest.len() {
        0 => first.to_string(),
        n => format!(
            "{first} and {} more (--json has all)",
            count(n as u64, "byte")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_before_a_later_page_is_not_told_of_those_that_landed() {
        let told = between(Verdict::Moved);
        assert!(told.starts_with("no page that was written moved"), "{told}");
        assert!(between(Verdict::Unproven).starts_with("cannot tell"));
        assert!(between(Verdict::Refused).starts_with("no move"));
    }
}
