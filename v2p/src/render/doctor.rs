//! The doctor's report: marks that read at a glance, the first denial and its mend at the end.

use anyhow::Result;
use serde::Serialize;

use super::{Colour, Output};
use crate::doctor::{
    check::{Access, Check, Id, Status},
    losses::Lost,
    movable::Mover,
    page::PageFacts,
    verdict::{Verdict, Way, Word},
    witness::Said,
};

/// A line of JSON.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Check(&'a Check),
    /// What may move a page is a check with its parts.
    #[serde(rename = "check")]
    Movable {
        #[serde(flatten)]
        check: &'a Check,
        movers: &'a [Mover],
        page: Option<&'a PageFacts>,
    },
    /// What takes programs, with what a watch loses where something does not.
    #[serde(rename = "check")]
    Hooks {
        #[serde(flatten)]
        check: &'a Check,
        lost: Vec<&'a Lost>,
    },
    Verdict(&'a Verdict),
}

/// What stands between pieces of evidence.
const BETWEEN: &str = "; ";

/// Says it in either form.
pub struct DoctorText<'a>(&'a mut Output);

impl<'a> DoctorText<'a> {
    /// On `output`.
    pub const fn new(output: &'a mut Output) -> Self {
        Self(output)
    }

    fn mark(&self, status: Status) -> String {
        let (mark, colour) = match status {
            Status::Ok => ("ok", Colour::Good),
            Status::Denies => ("NO", Colour::Bad),
            Status::Limits => (" !", Colour::Heading),
            Status::Unknown => (" ?", Colour::Heading),
        };
        self.0.coloured(mark, colour)
    }

    /// What is looked at.
    ///
    /// # Errors
    /// Where stdout cannot be written to, as for all of these.
    pub fn start(&mut self, kernel: &str, what: &str) -> Result<()> {
        let line = format!("v2p doctor: Linux {kernel}, {what}");
        self.0.text(&line)
    }

    /// Some checks under a heading.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn checks(&mut self, heading: &str, checks: &[Check]) -> Result<()> {
        self.heading(heading)?;
        for check in checks {
            self.0.json(&Line::Check(check))?;
            self.check(check)?;
        }
        Ok(())
    }

    /// What tracing needs; and, where hooks could be tried, what a watch would not see as it happens.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn tracing(&mut self, checks: &[Check], lost: Option<&[Lost]>) -> Result<()> {
        self.heading("for tracing")?;
        for check in checks {
            let by_function = match check.id {
                Id::BpfTracepoint => Some(false),
                Id::BpfFentry => Some(true),
                _ => None,
            };
            match (by_function, lost) {
                (Some(by_function), Some(lost)) => {
                    let of = lost.iter().filter(|one| one.by_function == by_function);
                    let lost: Vec<_> = of.collect();
                    self.0.json(&Line::Hooks {
                        check,
                        lost: lost.clone(),
                    })?;
                    self.check(check)?;
                    self.lost(&lost)?;
                }
                _ => {
                    self.0.json(&Line::Check(check))?;
                    self.check(check)?;
                }
            }
        }
        Ok(())
    }

    /// Those that are seen in the same way are told together.
    fn lost(&mut self, lost: &[&Lost]) -> Result<()> {
        let mut ways: Vec<&str> = Vec::new();
        for one in lost {
            if !ways.contains(&one.then) {
                ways.push(one.then);
            }
        }
        for way in ways {
            for one in lost.iter().filter(|one| one.then == way) {
                self.0.text(&format!("      {}", one.what))?;
            }
            self.detail("watch", way)?;
        }
        Ok(())
    }

    fn heading(&mut self, heading: &str) -> Result<()> {
        self.0.text("")?;
        self.0.heading(heading)
    }

    fn check(&mut self, check: &Check) -> Result<()> {
        let Check {
            id,
            status,
            what,
            evidence,
            mend,
            ..
        } = check;
        let mark = self.mark(*status);
        let id = id.name();
        if *status == Status::Ok && !evidence.contains(BETWEEN) {
            return self
                .0
                .text(&format!("  {mark}  {id:<18} {what}: {evidence}"));
        }
        self.0.text(&format!("  {mark}  {id:<18} {what}"))?;
        self.evidence(evidence)?;
        match mend {
            Some(mend) => self.detail("mend", mend),
            None => Ok(()),
        }
    }

    fn detail(&mut self, name: &str, text: &str) -> Result<()> {
        let line = self.0.coloured(&format!("{name:<9} {text}"), Colour::Dim);
        self.0.text(&format!("{:25}{line}", ""))
    }

    /// Each piece of it on a line of its own.
    fn evidence(&mut self, evidence: &str) -> Result<()> {
        let names = std::iter::once("evidence").chain(std::iter::repeat(""));
        for (name, piece) in names.zip(evidence.split(BETWEEN)) {
            self.detail(name, piece)?;
        }
        Ok(())
    }

    /// What may move a page.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn movable(
        &mut self,
        check: &Check,
        movers: &[Mover],
        page: Option<&PageFacts>,
    ) -> Result<()> {
        self.heading("what may move a page")?;
        self.0.json(&Line::Movable {
            check,
            movers,
            page,
        })?;
        self.check(check)?;
        for mover in movers {
            let Mover {
                name,
                may,
                what,
                evidence,
                mend,
            } = mover;
            let may_or_not = match may {
                Some(true) => "may",
                Some(false) => "does not",
                None => "unknown",
            };
            self.0
                .text(&format!("      {name:<25}{may_or_not:<9} {evidence}"))?;
            if *may != Some(false) {
                self.0.text(&format!("{:36} {what}; stop it: {mend}", ""))?;
            }
        }
        page.map_or(Ok(()), |page| self.page(page))
    }

    fn page(&mut self, page: &PageFacts) -> Result<()> {
        let PageFacts {
            state,
            flags,
            mapcount,
            holds,
            ..
        } = page;
        let flags = flags
            .as_ref()
            .map_or_else(|| "unknown".to_owned(), |f| f.join(","));
        let count = mapcount.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
        self.0.text(&format!(
            "      this page            {}, flags {flags}, mapped {count} times",
            state.name()
        ))?;
        for what in holds {
            self.0.text(&format!("{:27}{what}", ""))?;
        }
        Ok(())
    }

    /// The trial, what was watched, and the verdict.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn verdict(&mut self, verdict: &Verdict, is_watched: bool) -> Result<()> {
        self.0.json(&Line::Verdict(verdict))?;
        self.heading("tried")?;
        for way in &verdict.ways {
            let line = self.way(way);
            self.0.text(&line)?;
        }
        self.heading("watched")?;
        if !is_watched {
            self.0
                .text("  nothing: functions take no programs here (bpf-fentry); the evidence is from files and calls")?;
        }
        for call in ["open", "pread", "pwrite", "mmap"] {
            let of_call = verdict.watched.iter().filter(|said| said.call == call);
            let said: Vec<_> = of_call.map(Said::evidence).collect();
            if !said.is_empty() {
                self.0.text(&format!("  {call:<6} {}", said.join(", ")))?;
            }
        }
        self.close(verdict)
    }

    fn way(&self, way: &Way) -> String {
        let name = match way.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Mmap => "mmap",
        };
        let error = |errno: Option<_>| match errno {
            Some(errno) => format!(": {errno}"),
            None => String::new(),
        };
        let by = way
            .check
            .map_or_else(String::new, |check| format!(" by {}", check.name()));
        let predicted = format!("{}{by}{}", word(way.predicted), error(way.predicted_errno));
        let met = match (way.met, &way.untried) {
            (Some(met), _) => {
                let watched = way.watched.filter(|id| way.check != Some(*id));
                let by = watched.map_or_else(String::new, |id| format!(" by {}", id.name()));
                format!("{}{by}{}", word(met), error(way.met_errno))
            }
            (None, Some(why)) => {
                return format!("  {name:<6} not tried ({why}); predicted: {predicted}");
            }
            (None, None) => "not tried".to_owned(),
        };
        match way.agrees {
            Some(true) => format!("  {name:<6} {met}, as predicted"),
            Some(false) => {
                let bad = self.0.coloured("DISAGREES", Colour::Bad);
                format!("  {name:<6} {met}: {bad} with the prediction: {predicted}")
            }
            None => format!("  {name:<6} {met}; the checks could not tell"),
        }
    }

    fn close(&mut self, verdict: &Verdict) -> Result<()> {
        let Verdict {
            read,
            write,
            denial,
            ..
        } = verdict;
        let colour = match verdict.exit_code() {
            crate::exit::YES => Colour::Good,
            _ => Colour::Bad,
        };
        let words = format!("read {}, write {}", word(*read), word(*write));
        let words = self.0.coloured(&words, colour);
        let by = match verdict.by {
            "mmap" => ", by mmap: it may be a device, whose registers are neither read nor written",
            _ => "",
        };
        self.0.text(&format!("\nverdict: {words}{by}"))?;
        if verdict.agrees == Some(false) {
            self.0.text(
                "  note     what was tried counts: this kernel does not do what it says of itself",
            )?;
        }
        if let Some(check) = denial {
            let first = match check.status {
                Status::Unknown => check.what.clone(),
                _ => format!("{}: {}", check.id.name(), check.what),
            };
            self.0.text(&format!("  first    {first}"))?;
            let names = std::iter::once("evidence").chain(std::iter::repeat(""));
            for (name, piece) in names.zip(check.evidence.split(BETWEEN)) {
                self.0.text(&format!("  {name:<8} {piece}"))?;
            }
            if let Some(mend) = &check.mend {
                self.0.text(&format!("  mend     {mend}"))?;
            }
        }
        Ok(())
    }
}

const fn word(word: Word) -> &'static str {
    match word {
        Word::Allowed => "allowed",
        Word::Denied => "denied",
        Word::Dropped => "dropped",
        Word::Unknown => "unknown",
    }
}
