//! What is done to a page at each step of a write to it, and what must be said of it then.

use std::panic::panic_any;

use v2p::{guard::Step, record::Verdict};

use super::inside;
use crate::{
    Again,
    target::{PAGE, Target, va},
};

pub(super) const MADV_DONTNEED: u64 = 4;

/// What is done at a step, and what must be said.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) step: Step,
    pub(super) deed: fn(&mut Target, u64),
    pub(super) verdict: Verdict,
    /// What the reason says.
    pub(super) says: &'static str,
    /// Whether the target has the bytes in the end.
    pub(super) arrived: bool,
    /// Whether a move is to be told.
    pub(super) moves: bool,
}

pub(super) const CASES: [Case; 16] = [
    Case {
        name: "nothing",
        step: Step::Write,
        deed: nothing,
        verdict: Verdict::Landed,
        says: "",
        arrived: true,
        moves: false,
    },
    Case {
        name: "replaced before the last look-up",
        step: Step::LookUp,
        deed: replace,
        verdict: Verdict::Moved,
        says: "now it is in frame",
        arrived: false,
        moves: true,
    },
    Case {
        name: "discarded before the last look-up",
        step: Step::LookUp,
        deed: discard,
        verdict: Verdict::Moved,
        says: "never touched, or dropped",
        arrived: false,
        moves: true,
    },
    Case {
        name: "copied before the last look-up",
        step: Step::LookUp,
        deed: share_and_write,
        verdict: Verdict::Moved,
        says: "now it is in frame",
        arrived: false,
        moves: true,
    },
    Case {
        name: "shared before the last look-up",
        step: Step::LookUp,
        deed: share,
        verdict: Verdict::Refused,
        says: "mapped 2 times",
        arrived: false,
        moves: false,
    },
    Case {
        name: "replaced before the write",
        step: Step::Write,
        deed: replace,
        verdict: Verdict::Strayed,
        says: "between look-up and write",
        arrived: false,
        moves: true,
    },
    Case {
        name: "discarded before the write",
        step: Step::Write,
        deed: discard,
        verdict: Verdict::Strayed,
        says: "",
        arrived: false,
        moves: true,
    },
    Case {
        name: "copied before the write",
        step: Step::Write,
        deed: share_and_write,
        verdict: Verdict::Strayed,
        says: "between look-up and write",
        arrived: false,
        moves: true,
    },
    Case {
        name: "shared before the write",
        step: Step::Write,
        deed: share,
        verdict: Verdict::Landed,
        says: "mapped 2 times",
        arrived: true,
        moves: false,
    },
    Case {
        name: "copied after the write",
        step: Step::Prove,
        deed: share_and_write,
        verdict: Verdict::Landed,
        says: "took the bytes along",
        arrived: true,
        moves: true,
    },
    Case {
        name: "replaced after the write",
        step: Step::Prove,
        deed: replace,
        verdict: Verdict::Landed,
        says: "taken away or replaced since",
        arrived: false,
        moves: true,
    },
    Case {
        name: "discarded after the write",
        step: Step::Prove,
        deed: discard,
        verdict: Verdict::Landed,
        says: "taken away or replaced since",
        arrived: false,
        moves: true,
    },
    Case {
        name: "written over after the write",
        step: Step::Prove,
        deed: write_over,
        verdict: Verdict::Landed,
        says: "written over them since",
        arrived: false,
        moves: false,
    },
    Case {
        name: "replaced before it is read back",
        step: Step::ReadBack,
        deed: replace,
        verdict: Verdict::Unproven,
        says: "before or after it cannot be said",
        arrived: false,
        moves: true,
    },
    Case {
        name: "discarded before it is read back",
        step: Step::ReadBack,
        deed: discard,
        verdict: Verdict::Unproven,
        says: "before or after it cannot be said",
        arrived: false,
        moves: true,
    },
    Case {
        name: "written over before it is read back",
        step: Step::ReadBack,
        deed: write_over,
        verdict: Verdict::Unproven,
        says: "nothing moved, and other bytes are there",
        arrived: false,
        moves: false,
    },
];

fn nothing(_: &mut Target, _: u64) {}

/// The page is thrown away, and another one comes: its frame goes to a page further on, which is the next that the kernel
/// gives out.
pub(super) fn replace(target: &mut Target, i: u64) {
    let before = target.frame(i);
    discard(target, i);
    target.tell("write", i + 40);
    if target.tell("write", i) == before {
        panic_any(Again("the page came back in its own frame".to_owned()));
    }
}

pub(super) fn discard(target: &mut Target, i: u64) {
    target.must(libc::SYS_madvise, &[va(i), PAGE, MADV_DONTNEED]);
}

fn share(target: &mut Target, _: u64) {
    target.fork();
}

/// The page goes to the child, the target gets a copy.
fn share_and_write(target: &mut Target, i: u64) {
    target.fork();
    target.tell("write", i);
}

fn write_over(target: &mut Target, i: u64) {
    let mine = target.scratch(&[7]);
    // process_vm_writev to itself: it has no other way to write just there.
    let (local, remote) = (mine + 64, mine + 128);
    target.scratch(&[
        7,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        mine,
        8,
        0,
        0,
        0,
        0,
        0,
        0,
        inside(i),
        8,
    ]);
    let pid = u64::from(target.pid());
    let n = target.must(libc::SYS_process_vm_writev, &[pid, local, 1, remote, 1, 0]);
    assert_eq!(n, 8);
}
