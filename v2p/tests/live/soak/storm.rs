//! The storm: a process that touches, throws away, moves and pages out its own pages, and counts what became of each.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    mm::{MapFlags, ProtFlags, mmap_anonymous},
};
use v2p::{common::VirtAddr, process::Pagemap};

use super::tally::State;
use crate::{
    memory::to_node,
    target::{KIND, PAGE, write_to},
};

/// Where its pages are.
pub(super) const START: u64 = 0x6800_0000_0000;
pub(super) const PAGES: u64 = N as u64;
const N: usize = 64;
/// What it counts, as `v2p watch` calls it; the faults come last.
pub(super) const COUNTED: [&str; 6] = [
    "first-touch",
    "discard",
    "migration",
    "swap-out",
    "swap-in",
    "faults",
];
/// Between two deeds, so that all of it can be told.
const PACE: Duration = Duration::from_millis(2);

pub(super) fn range() -> String {
    format!("{START:#x}+{}K", PAGES * PAGE / 1024)
}

/// The process's side.
pub(crate) fn run() {
    let len = usize::try_from(PAGES * PAGE).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: a new mapping at an address that nothing has.
    unsafe { mmap_anonymous(START as *mut _, len, access, flags) }.unwrap();
    let mut work = Work {
        pagemap: Pagemap::of_self().unwrap(),
        counts: [0; 6],
    };
    let mut orders = BufReader::new(io::stdin());
    let mut line = String::new();
    say("ready");
    orders.read_line(&mut line).unwrap();
    work.blow(line.trim() == "swap");
    orders.read_line(&mut line).unwrap();
    say(&work.counts.map(|n| n.to_string()).join(" "));
    // It keeps its pages until nobody orders it about any more.
    orders.read_line(&mut line).unwrap();
}

fn say(line: &str) {
    println!("{line}");
    io::stdout().flush().unwrap();
}

struct Work {
    pagemap: Pagemap,
    counts: [u64; 6],
}

impl Work {
    /// Until there is an order.
    fn blow(&mut self, swaps: bool) {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut node = 0;
        while !is_ordered() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let pages = Some(random >> 8 & (PAGES - 1))
                .map(|first| first..PAGES.min(first + 1 + (random >> 16 & 15)));
            let pages = pages.unwrap();
            match random >> 32 & 7 {
                0..=2 => self.touch(pages),
                3 => self.discard(pages),
                4 | 5 if swaps => self.page_out(pages),
                _ => {
                    node ^= 1;
                    self.move_all(node);
                }
            }
        }
    }

    fn count(&mut self, what: &str, n: usize) {
        let place = COUNTED.iter().position(|known| *known == what).unwrap();
        self.counts[place] += n as u64;
    }

    fn states(&self) -> Vec<State> {
        let mut states = Vec::with_capacity(usize::try_from(PAGES).unwrap());
        let end = VirtAddr(START + PAGES * PAGE);
        let each = |_, word| states.push(State::of_word(word));
        self.pagemap.words(VirtAddr(START), end, each).unwrap();
        states
    }

    fn touch(&mut self, pages: std::ops::Range<u64>) {
        let before = self.states();
        for i in pages {
            write_to(START + i * PAGE);
            match before[usize::try_from(i).unwrap()] {
                State::Absent => self.count("first-touch", 1),
                State::Swapped { .. } => self.count("swap-in", 1),
                State::Present(_) => continue,
            }
            self.count("faults", 1);
        }
    }

    fn discard(&mut self, pages: std::ops::Range<u64>) {
        let before = self.states();
        advise(&pages, libc::MADV_DONTNEED);
        let there = pages.filter(|i| before[usize::try_from(*i).unwrap()] != State::Absent);
        self.count("discard", there.count());
    }

    fn page_out(&mut self, pages: std::ops::Range<u64>) {
        let before = self.states();
        advise(&pages, libc::MADV_PAGEOUT);
        let after = self.states();
        let gone = before.iter().zip(&after).filter(|(before, after)| {
            matches!((before, after), (State::Present(_), State::Swapped { .. }))
        });
        self.count("swap-out", gone.count());
    }

    /// All pages to one node.
    fn move_all(&mut self, node: libc::c_int) {
        let before = self.states();
        let pages: [u64; N] = std::array::from_fn(|i| START + i as u64 * PAGE);
        to_node(&pages, Some(node));
        let after = self.states();
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a);
        self.count("migration", moved.count());
    }
}

fn advise(pages: &std::ops::Range<u64>, advice: libc::c_int) {
    let len = usize::try_from((pages.end - pages.start) * PAGE).unwrap();
    // SAFETY: pages of the mapping, which is used by writes alone.
    let done = unsafe { libc::madvise((START + pages.start * PAGE) as *mut _, len, advice) };
    assert_eq!(done, 0);
}

/// Waits a while; whether there is an order on stdin.
fn is_ordered() -> bool {
    let stdin = io::stdin();
    let timeout = PACE.try_into().unwrap();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).unwrap() > 0
}

/// The test's side.
pub(super) struct Storm {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    swaps: bool,
}

impl Storm {
    pub(super) fn start(swaps: bool) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(KIND, "soak")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut storm = Self {
            orders: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
            swaps,
        };
        assert_eq!(storm.answer(), "ready");
        storm
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn begin(&mut self) {
        let how = if self.swaps { "swap" } else { "no swap" };
        writeln!(self.orders, "{how}").unwrap();
    }

    /// It stands still from then on; gives what it counted.
    pub(super) fn end(&mut self) -> Vec<u64> {
        writeln!(self.orders, "end").unwrap();
        let counts = self.answer();
        counts.split(' ').map(|n| n.parse().unwrap()).collect()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
