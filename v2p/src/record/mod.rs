//! What v2p says, whatever it is rendered as. Each record is one JSON line of the contract; the text
//! form is made from the same record. Two lie elsewhere, since their types do: the doctor's (`render/doctor`) and that of `map` (`commands/map`).

mod hex;
mod moves;
mod write;

pub mod story;

use std::rc::Rc;

use serde::Serialize;

pub use hex::{Hex, HexBytes};
pub use moves::{Access, By, Cause, Comm, Move, Proof};
pub use write::{Denial, Part, Verdict, Write};

use crate::state::{self, PageState, Totals};

/// As serde wants it: what is not so is left out.
const fn is_not(yes: &bool) -> bool {
    !*yes
}

/// A frame that was looked for.
#[derive(Clone, Debug, Serialize)]
pub struct Frame {
    /// Its number.
    pub pfn: u64,
    /// Mappings of it that were found.
    pub mappings: u64,
    /// What /proc/kpageflags says of it; null where that cannot be read.
    pub flags: Option<Vec<&'static str>>,
    /// What it is, where no process maps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
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
        /// Whose address space it was in, where children are followed.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
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
        /// What the CPU wanted of the page; null: that is not known.
        access: Option<Access>,
    },
    /// Pages moved.
    Move {
        /// Of whose address space, where children are followed.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The move.
        #[serde(flatten)]
        one: Move,
        /// The name of the mapping, for people.
        #[serde(skip)]
        mapping: Rc<str>,
    },
    /// A process that is followed started another.
    Fork {
        /// The event's number.
        seq: u64,
        /// CLOCK_MONOTONIC, nanoseconds.
        t_ns: u64,
        /// The new process.
        pid: u32,
        /// The one that started it.
        parent: u32,
        /// Its name, which at that moment is the child's too.
        comm: Comm,
        /// Whether they share an address space for now (vfork).
        #[serde(skip_serializing_if = "is_not")]
        shares: bool,
        /// Whether it is followed; if not, too many are.
        followed: bool,
    },
    /// A process that was followed is no more.
    Gone {
        /// The event's number; null where none told it.
        seq: Option<u64>,
        /// CLOCK_MONOTONIC, nanoseconds.
        t_ns: u64,
        /// The process.
        pid: u32,
        /// `ended`, or `no-room`: it executed a program, and too many are followed.
        why: &'static str,
    },
    /// Events were lost.
    Lost {
        /// How many, since the last such record.
        events: u64,
    },
    /// The watch is over.
    End {
        /// `signal`, `duration` or `target-exited`; in `top` also `quit`.
        why: &'static str,
        /// Events that were read.
        events: u64,
        /// Of them, faults.
        faults: u64,
        /// Moves that were reported.
        moves: u64,
        /// Events that were lost.
        lost: u64,
        /// Of the moves, those that only the page tables told.
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
        /// How often the frame is mapped, where each page has a line of its own.
        #[serde(skip_serializing_if = "Option::is_none")]
        mapped: Option<u32>,
        /// The NUMA node, where there are several.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<u32>,
        /// The mapping's name, as /proc/PID/maps has it.
        mapping: Rc<str>,
        /// What the routes say together.
        verdict: state::Verdict,
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
        #[serde(skip_serializing_if = "state::is_zero")]
        unread: u64,
        /// Which was the first of them, and why.
        #[serde(skip_serializing_if = "Option::is_none")]
        unread_why: Option<String>,
        /// What /proc/kpageflags says of the frames; null where they differ or it cannot be read.
        flags: Option<Vec<&'static str>>,
        /// Each frame that was asked about.
        frames: Vec<Frame>,
    },
    /// A guarded write's result.
    Write(Box<Write>),
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
            pid: None,
            mapping: Rc::default(),
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
