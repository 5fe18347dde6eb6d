//! What is said of a write that was not made, or not to its end.

use std::io;

use anyhow::{Context as _, Result};
use v2p_common::Pfn;

use super::{Job, parts::Part, refusal::Refusal};
use crate::{
    doctor,
    record::{Denial, Hex, Verdict, Write},
};

/// Before anything is known.
pub(super) const fn new(pid: u32, job: &Job<'_>, pinned: bool) -> Write {
    Write {
        pid,
        va: Hex(job.va.0),
        len: job.bytes.len(),
        pfn: None,
        pa: None,
        verdict: Verdict::Refused,
        why: None,
        refused: None,
        pinned,
        not_pinned: None,
        stopped: false,
        dry_run: job.dry_run,
        written: 0,
        before: None,
        window_ns: None,
        parts: Vec::new(),
        moves: Vec::new(),
        lost: 0,
        denied: None,
    }
}

/// What an error in the middle leaves behind.
pub(super) fn told(report: &Write) -> String {
    match report.written {
        0 => "nothing was written before".to_owned(),
        n => format!("{n} bytes were written before"),
    }
}

/// Ends it at a part that was not written; what was written before it had landed.
pub(super) fn stop(report: &mut Write, part: Part, verdict: Verdict, why: &str) {
    report.verdict = verdict;
    let at = match part.from {
        0 => String::new(),
        _ => format!("at {:#x}: ", part.va.0),
    };
    let landed = landed(report).map_or_else(String::new, |landed| format!("; {landed}"));
    report.why = Some(format!("{at}{why}{landed}"));
}

/// What is said of the parts before.
fn landed(report: &Write) -> Option<String> {
    (report.written > 0).then(|| format!("the {} bytes before it landed", report.written))
}

pub(super) fn refuse(report: &mut Write, part: Part, refusal: &Refusal) {
    report.refused = Some(refusal.id);
    stop(report, part, Verdict::Refused, &refusal.what);
}

pub(super) fn deny(report: &mut Write, denial: Denial) {
    report.verdict = Verdict::Denied;
    report.why = landed(report);
    report.denied = Some(denial);
}

/// The access of `pfn` failed: denied by a check that is known, or an error that names what happened.
pub(super) fn denied_or_error(
    report: &mut Write,
    call: &str,
    pfn: Pfn,
    error: io::Error,
) -> Result<()> {
    match doctor::explain::access(call, pfn.base(), &error) {
        Some(denial) => {
            deny(report, denial);
            Ok(())
        }
        None => Err(error).with_context(|| format!("{call} on /dev/mem at {:#x}", pfn.base().0)),
    }
}
