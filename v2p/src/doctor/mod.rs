//! Which check denied it, with the evidence, and the mend.
//!
//! [`facts`] are gathered in one place; each check is a pure function of them ([`open`], [`address`], `device`), in the
//! order in which the kernel makes them; [`predict`] says what an access will meet, and whether it did; [`witness`] tells what the kernel's own functions
//! answered meanwhile, and [`verdict`] is what comes of it all. What the tracer needs is probed by [`tracing`], what may move a page is read by [`movable`],
//! what holds for one is told by [`page`].

pub mod address;
mod cause;
pub mod check;
mod device;
pub mod explain;
pub mod facts;
pub mod limits;
pub mod losses;
pub mod movable;
pub mod open;
pub mod page;
pub mod predict;
pub mod tracing;
pub mod verdict;
pub mod witness;

#[cfg(test)]
mod tests;

use check::{Check, Errno};
use facts::{Facts, Target};

use crate::record::Denial;

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
