//! What v2p says, whatever it is rendered as. Each record is one JSON line of the contract; the text
//! form is made from the same record.

mod hex;

use std::rc::Rc;

use serde::{Serialize, Serializer};
use v2p_common::event;

pub use hex::Hex;

use crate::{
    doctor::Denial,
    state::PageState,
    translate::{self, Totals},
};

/// As serde wants it: what is 0 is left out.
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Why what lies behind a page changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing was there before.
    FirstTouch,
    /// A write to a shared page got a page of its own.
    Cow,
    /// The zero page was replaced by the first write.
    ZeroFill,
    /// A page went to swap.
    SwapOut,
    /// A page came back from swap.
    SwapIn,
    /// The kernel moved the page.
    Migration,
    /// A huge page took the place of base pages.
    Collapse,
    /// KSM shared the page with its equals.
    KsmMerge,
    /// A page of KSM became one of its own again.
    KsmBreak,
    /// The mapping is gone.
    Unmap,
    /// The contents were thrown away: MADV_DONTNEED and the like, truncation.
    Discard,
    /// The entries went to another address.
    Remap,
    /// A file's page was dropped to free memory.
    Reclaim,
    /// The memory is bad.
    Poison,
    /// The process executed another program.
    Exec,
    /// The process ended.
    Exit,
    /// What was seen does not tell.
    Unknown,
}

impl std::fmt::Display for Cause {
    /// As in JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

/// How a move is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// A kernel event shows it.
    Event,
    /// Found by comparing the page tables; no event was seen.
    Reconciled,
}

/// A task's name as the kernel has it: bytes up to the first NUL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comm(pub [u8; event::COMM_LEN]);

impl std::fmt::Display for Comm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.0.split(|b| *b == 0).next().unwrap_or_default();
        f.pad(&String::from_utf8_lossy(name))
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The task that did it, in the initial PID namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct By {
    /// Thread.
    pub tid: u32,
    /// Its name.
    pub comm: Comm,
}

/// A run of neighbouring pages that got other frames for the same cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Move {
    /// The event's number; none where it was reconciled.
    pub seq: Option<u64>,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub t_ns: u64,
    /// The first page's address.
    pub va: Hex,
    /// Base pages.
    pub pages: u64,
    /// What lay behind the first page before.
    pub from: PageState,
    /// What does now.
    pub to: PageState,
    /// Why.
    pub cause: Cause,
    /// The kernel's reason for a migration; null where no event told it.
    pub reason: Option<&'static str>,
    /// Who; null where that was not seen.
    pub by: Option<By>,
    /// How it is known.
    pub proof: Proof,
}

/// What became of a physical write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
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
}

/// A guarded write.
#[derive(Clone, Debug, Serialize)]
pub struct Write {
    /// Whose page.
    pub pid: u32,
    /// Where, for the process.
    pub va: Hex,
    /// Bytes.
    pub len: usize,
    /// The frame that was looked up.
    pub pfn: Option<u64>,
    /// The physical address.
    pub pa: Option<Hex>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, where the verdict alone does not tell.
    pub why: Option<String>,
    /// Whether the page was pinned.
    pub pinned: bool,
    /// From the start of the last look-up to the return of the pwrite; null where nothing was written.
    pub window_ns: Option<u64>,
    /// Moves of the page between the first look-up and the last.
    pub moves: Vec<Move>,
    /// Events lost meanwhile.
    pub lost: u64,
    /// The check that denied it.
    pub denied: Option<Denial>,
}

/// What each route says of the demo's page.
#[derive(Clone, Debug, Serialize)]
pub struct Routes {
    /// The PFN in /proc/self/pagemap.
    pub pagemap: Option<u64>,
    /// The PFN at the end of the page-table walk.
    pub walk: Option<u64>,
    /// Whether the nonce was found at the physical address.
    pub content: bool,
}

/// One line of JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Record {
    /// Hooks are live.
    Start {
        /// The target.
        pid: u32,
        /// `uname -r`.
        kernel: String,
        /// Live hooks.
        hooks: Vec<String>,
        /// Hooks that are not live, with the reason.
        missing: Vec<String>,
    },
    /// A page fault was handled.
    Fault {
        /// The event's number.
        seq: u64,
        /// CLOCK_MONOTONIC, nanoseconds.
        t_ns: u64,
        /// The faulting thread.
        tid: u32,
        /// The address.
        va: Hex,
        /// The frame that the fault brought; null: there was none afterwards.
        pfn: Option<u64>,
        /// Whether it waited for I/O.
        major: bool,
    },
    /// Pages moved.
    Move {
        /// The move.
        #[serde(flatten)]
        one: Move,
        /// The name of the mapping, for people.
        #[serde(skip)]
        mapping: String,
    },
    /// Events were lost.
    Lost {
        /// How many, since the last such record.
        events: u64,
    },
    /// The watch is over.
    End {
        /// `signal`, `duration` or `target-exited`.
        why: &'static str,
        /// Events that were read.
        events: u64,
        /// Of them, faults.
        faults: u64,
        /// Moves that were reported.
        moves: u64,
        /// Events that were lost.
        lost: u64,
        /// Moves that the closing comparison found.
        reconciled: u64,
        /// Exit status of a command that was started; else null.
        status: Option<i32>,
    },
    /// Pages that lie together in both address spaces, alike in everything shown.
    Run {
        /// The first page's address.
        va: Hex,
        /// Base pages.
        pages: u64,
        /// What lies behind the first.
        #[serde(flatten)]
        state: PageState,
        /// Its physical address.
        #[serde(skip_serializing_if = "Option::is_none")]
        pa: Option<Hex>,
        /// Bytes that the page-table leaf maps; null where the route does not tell.
        page_size: Option<u64>,
        /// Flags of pagemap's word and of the frame.
        flags: Rc<[&'static str]>,
        /// The NUMA node, where there are several.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<u32>,
        /// The mapping's name, as /proc/PID/maps has it.
        mapping: Rc<str>,
        /// What the routes say together.
        verdict: translate::Verdict,
    },
    /// One level of a walk.
    Level {
        /// `pgd`, `p4d`, `pud`, `pmd` or `pte`.
        level: &'static str,
        /// The index into the table.
        index: u64,
        /// The entry.
        entry: Hex,
        /// Where it leads; null: nowhere.
        pa: Option<Hex>,
        /// Its flags.
        flags: Vec<&'static str>,
    },
    /// The translation is done.
    #[serde(rename = "end")]
    Translated {
        /// `pagemap`, `walk` or `both`.
        route: &'static str,
        /// Why `auto` did not take both.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// Mappings whose pages the route cannot tell; they are not counted.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        left_out: Vec<String>,
        /// Pages of each kind.
        #[serde(flatten)]
        totals: Totals,
    },
    /// A process that maps a frame.
    Mapping {
        /// The frame.
        pfn: u64,
        /// The process.
        pid: u32,
        /// Its name.
        comm: String,
        /// Where it has it.
        va: Hex,
        /// The mapping's name, as /proc/PID/maps has it.
        name: String,
        /// Bytes that the page-table leaf maps.
        page_size: Option<u64>,
    },
    /// All processes were looked at.
    #[serde(rename = "end")]
    Looked {
        /// Processes that have pages.
        processes: u64,
        /// Pages that were compared.
        pages: u64,
        /// Mappings that were found.
        mappings: u64,
        /// Processes that could not be read: what they map is not known.
        #[serde(skip_serializing_if = "is_zero")]
        unread: u64,
        /// What /proc/kpageflags says of the frames; null where they differ or it cannot be read.
        flags: Option<Vec<&'static str>>,
    },
    /// The demo's result.
    Demo {
        /// The page.
        va: Hex,
        /// Its frame, where the routes agree.
        pfn: Option<u64>,
        /// Its physical address.
        pa: Option<Hex>,
        /// The text before.
        before: String,
        /// The text after, through the virtual address.
        after: String,
        /// The three routes.
        routes: Routes,
        /// The write.
        write: Box<Write>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::SwapPlace;
    use v2p_common::Pfn;

    #[test]
    fn a_move_is_the_json_of_the_contract() {
        let record = Record::Move {
            mapping: String::new(),
            one: Move {
                seq: Some(7),
                t_ns: 5,
                va: Hex(0x7f00),
                pages: 1,
                from: PageState::Present { pfn: Pfn(1) },
                to: PageState::Swapped {
                    swap: Some(SwapPlace {
                        device: 0,
                        offset: 9,
                    }),
                },
                cause: Cause::FirstTouch,
                reason: None,
                by: Some(By {
                    tid: 3,
                    comm: Comm(*b"kcompactd0\0\0\0\0\0\0"),
                }),
                proof: Proof::Event,
            },
        };
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"type":"move","seq":7,"t_ns":5,"va":"0x7f00","pages":1,"from":{"state":"present","pfn":1},"to":{"state":"swapped","swap":{"device":0,"offset":9}},"cause":"first-touch","reason":null,"by":{"tid":3,"comm":"kcompactd0"},"proof":"event"}"#
        );
    }
}
