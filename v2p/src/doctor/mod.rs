//! Which check denied it, with the evidence, and the mend.

pub mod devmem;

use serde::Serialize;

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
