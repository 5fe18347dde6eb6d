//! Which check denied it, with the evidence, and the mend.
//!
//! [`facts`] are gathered in one place; each check is a pure function of them ([`open`], [`address`], `device`), in the
//! order in which the kernel makes them; [`predict`] says what an access will meet, and whether it did; [`witness`] tells what the kernel's own functions
//! answered meanwhile, and [`verdict`] is what comes of it all. What the tracer needs is probed by [`tracing`], what may move a page is read by [`movable`].

pub mod address;
pub mod check;
mod device;
pub mod devmem;
pub mod facts;
pub mod movable;
pub mod open;
pub mod predict;
pub mod tracing;
pub mod verdict;
pub mod witness;

#[cfg(test)]
mod tests;

use serde::Serialize;

use check::{Check, Errno};
use facts::{Facts, Target};

/// A check that denies, as the command-line contract names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// The check's id.
    pub check: &'static str,
    /// What it denied.
    pub what: String,
    /// The file and line, or the call and its error, that show it.
    pub evidence: String,
    /// What to do about it.
    pub mend: String,
    /// The error that the kernel gave, by name.
    pub errno: Option<&'static str>,
}

impl Denial {
    /// What `check` denied, and the error that came of it.
    pub fn of(check: &Check, errno: Option<Errno>) -> Self {
        Self {
            check: check.id.name(),
            what: check.what.clone(),
            evidence: check.evidence.clone(),
            mend: check.mend.clone().unwrap_or_default(),
            errno: errno.and_then(Errno::name),
        }
    }
}

/// Every check between us and the address, in the kernel's order.
pub fn checks(facts: &Facts, target: &Target) -> Vec<Check> {
    let mut checks = open::checks(facts);
    checks.extend(address::checks(facts, target));
    checks
}
