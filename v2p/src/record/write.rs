//! What is said of a physical write.

use serde::{Serialize, Serializer};

use super::{Hex, HexBytes, Move, is_not};

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

/// What became of a physical write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Read back equal by both routes, and no move between look-up and write.
    Landed,
    /// A move was seen before the write: nothing was written.
    Moved,
    /// The page moved in between: the bytes went to a frame that is no longer its own.
    Strayed,
    /// Events were lost, or the evidence does not fit together: neither can be said.
    Unproven,
    /// The kernel denied it.
    Denied,
    /// The page must not be written.
    Refused,
    /// Of a dry run alone: nothing is in the way.
    Allowed,
}

impl Verdict {
    /// As people and scripts read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Landed => "landed",
            Self::Moved => "moved",
            Self::Strayed => "strayed",
            Self::Unproven => "unproven",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Allowed => "allowed",
        }
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A guarded write.
#[derive(Clone, Debug, Serialize)]
pub struct Write {
    /// Whose page.
    pub pid: u32,
    /// Where, for the process.
    pub va: Hex,
    /// Bytes that were to be written.
    pub len: usize,
    /// The frame that was looked up: of the first page, or of the one that the verdict is about.
    pub pfn: Option<u64>,
    /// The physical address of its first byte.
    pub pa: Option<Hex>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, where the verdict alone does not tell.
    pub why: Option<String>,
    /// Why it was refused, for scripts; null where it was not.
    pub refused: Option<&'static str>,
    /// Whether the page was pinned.
    pub pinned: bool,
    /// Why not; null where it was, or nobody tried.
    pub not_pinned: Option<String>,
    /// Whether the process was held still.
    #[serde(skip_serializing_if = "is_not")]
    pub stopped: bool,
    /// Whether all was done but the write.
    #[serde(skip_serializing_if = "is_not")]
    pub dry_run: bool,
    /// Bytes that pwrite took, wherever they are.
    pub written: usize,
    /// What was at `pa` before; null where it was not read.
    pub before: Option<HexBytes>,
    /// From the start of the last look-up to the return of the pwrite, the longest; null where nothing was written.
    pub window_ns: Option<u64>,
    /// Page by page, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Moves of the pages between the first look-up and the last.
    pub moves: Vec<Move>,
    /// Events lost meanwhile.
    pub lost: u64,
    /// The check that denied it.
    pub denied: Option<Denial>,
}

/// What of a write went to one page.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Where, for the process.
    pub va: Hex,
    /// Bytes.
    pub len: usize,
    /// The frame.
    pub pfn: u64,
    /// The physical address of the first byte.
    pub pa: Hex,
    /// What became of it.
    pub verdict: Verdict,
    /// As of the whole.
    pub window_ns: u64,
    /// What was there before.
    pub before: HexBytes,
}
