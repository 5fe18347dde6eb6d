//! Moves as lines for people: neighbours with the same story, which come one after the other, in one line. A few stories may be told
//! at a time, page by page in turn: a range that is given back and touched again, a copy by two threads.

use std::{
    collections::VecDeque,
    fmt::{self, Display},
    mem::discriminant,
    rc::Rc,
};

use v2p_common::PAGE_SIZE;

use super::{Clock, Colour, cause_text, column, paint, printable, text::state};
use crate::{
    record::{By, Move, Proof},
    state::PageState,
};

/// Moves farther apart in time than this are not one story.
const TOGETHER_NS: u64 = 1_000_000_000;

/// Stories that are told at a time.
const OPEN: usize = 4;

/// The moves that may be continued by the next, in the order in which they began.
#[derive(Default)]
pub(super) struct Moves {
    open: VecDeque<Run>,
}

/// Moves of neighbours.
struct Run {
    /// The first; its `pages` are those of all.
    first: Move,
    /// Whose, where there are several processes.
    pid: Option<u32>,
    mapping: Rc<str>,
    /// Whether the frames do not lie one after the other.
    scattered: bool,
}

/// Whether two moves of neighbours can be told as one: alike in all but address and frame, and at about the same time.
pub fn is_of_one_story(next: &Move, first: &Move) -> bool {
    next.cause == first.cause
        && next.reason == first.reason
        && next.by == first.by
        && next.proof == first.proof
        && discriminant(&next.from) == discriminant(&first.from)
        && discriminant(&next.to) == discriminant(&first.to)
        && next.t_ns.abs_diff(first.t_ns) < TOGETHER_NS
}

impl Run {
    /// Takes the next move, if it is of this story and lies before or behind it.
    fn takes(&mut self, next: &Move, (pid, mapping): (Option<u32>, &Rc<str>)) -> bool {
        let first = &mut self.first;
        if pid != self.pid || !is_of_one_story(next, first) || *mapping != self.mapping {
            return false;
        }
        let (lower, upper) = if next.va.0 == end(first) {
            (*first, next)
        } else if end(next) == first.va.0 {
            (*next, &*first)
        } else {
            return false;
        };
        self.scattered |= upper.from != lower.from.advanced(lower.pages)
            || upper.to != lower.to.advanced(lower.pages);
        *first = Move {
            pages: first.pages + next.pages,
            t_ns: first.t_ns,
            ..lower
        };
        true
    }

    /// Whether it tells of any page of that move.
    fn tells_of(&self, one: &Move, pid: Option<u32>) -> bool {
        pid == self.pid && one.va.0 < end(&self.first) && self.first.va.0 < end(one)
    }

    fn line(&self, clock: &mut Clock, colour: bool) -> String {
        let Self {
            first: m,
            pid,
            mapping,
            scattered,
        } = self;
        let mut line = String::with_capacity(192);
        clock.add_time(&mut line, m.t_ns);
        line.push_str("  ");
        line.push_str(&of_process(*pid));
        column::right(&mut line, 14, m.va);
        line.push(' ');
        match m.pages {
            1 => column::left(&mut line, 7, ""),
            pages => column::left(&mut line, 7, format_args!("x{pages}")),
        }
        line.push(' ');
        let cause = cause_text(m.cause, m.reason);
        match colour && m.cause.stands_out() {
            false => column::left(&mut line, 20, cause),
            // Colours have no width: padded before they are put on.
            true => line.push_str(&paint(&format!("{cause:<20}"), Colour::Bad, true)),
        }
        line.push(' ');
        column::right(&mut line, 16, frames(m.from, *scattered));
        line.push_str(" -> ");
        column::left(&mut line, 16, frames(m.to, *scattered));
        line.push(' ');
        match (&m.by, m.proof) {
            (Some(By { tid, comm }), _) => {
                let name = comm.text();
                column::left(
                    &mut line,
                    28,
                    format_args!("by {} ({tid})", printable(&name)),
                );
            }
            (None, Proof::Reconciled) => column::left(&mut line, 28, "(compared)"),
            (None, Proof::Event) => column::left(&mut line, 28, ""),
        }
        line.push(' ');
        line.push_str(&printable(mapping));
        line.truncate(line.trim_end().len());
        line
    }
}

/// Where the pages of a move end.
const fn end(one: &Move) -> u64 {
    one.va.0.saturating_add(one.pages.saturating_mul(PAGE_SIZE))
}

/// A column that is there where there are several processes.
pub(super) fn of_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!("{pid:>7}  "))
}

fn frames(one: PageState, scattered: bool) -> impl Display {
    let more = matches!(one, PageState::Present { .. } | PageState::Swapped { .. });
    let dots = if scattered && more { ", .." } else { "" };
    fmt::from_fn(move |f| write!(f, "{}{dots}", state(one)))
}

impl Moves {
    /// Takes the next move; gives the line of the oldest story, where there is no room for one more. What befell one page comes in the
    /// order in which it did: a move is not told by a story that began before another one of the same page.
    pub(super) fn add(
        &mut self,
        next: &Move,
        (pid, mapping): (Option<u32>, &Rc<str>),
        clock: &mut Clock,
        colour: bool,
    ) -> Option<String> {
        for run in self.open.iter_mut().rev() {
            if run.takes(next, (pid, mapping)) {
                return None;
            }
            if run.tells_of(next, pid) {
                break;
            }
        }
        let full = self.open.len() >= OPEN;
        let oldest = full.then(|| self.line(clock, colour)).flatten();
        self.open.push_back(Run {
            first: *next,
            pid,
            mapping: Rc::clone(mapping),
            scattered: false,
        });
        oldest
    }

    /// The line of the oldest story.
    pub(super) fn line(&mut self, clock: &mut Clock, colour: bool) -> Option<String> {
        self.open.pop_front().map(|run| run.line(clock, colour))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cause, Comm, Hex};
    use v2p_common::Pfn;

    fn one(i: u64, to: u64) -> Move {
        Move {
            seq: Some(i),
            t_ns: 1_000_000 + i,
            va: Hex(0x7f00_0000_1000 + i * PAGE_SIZE),
            pages: 1,
            from: PageState::Present { pfn: Pfn(100 + i) },
            to: PageState::Present { pfn: Pfn(to) },
            cause: Cause::Migration,
            reason: Some("compaction"),
            by: Some(By {
                tid: 5,
                comm: Comm(*b"kcompactd0\0\0\0\0\0\0"),
            }),
            proof: Proof::Event,
        }
    }

    fn back(i: u64) -> Move {
        Move {
            cause: Cause::Unmap,
            reason: None,
            to: PageState::Absent,
            ..one(i, 0)
        }
    }

    /// The lines of moves in the mapping `[heap]`.
    fn told(all: impl IntoIterator<Item = Move>) -> Vec<String> {
        let (mut clock, mut moves) = (Clock::default(), Moves::default());
        let name: Rc<str> = "[heap]".into();
        let mut lines = Vec::new();
        for one in all {
            lines.extend(moves.add(&one, (None, &name), &mut clock, false));
        }
        lines.extend(std::iter::from_fn(|| moves.line(&mut clock, false)));
        lines
    }

    #[test]
    fn neighbours_are_one_line_that_says_whether_their_frames_are_too() {
        let lines = told([one(0, 200), one(1, 201), one(3, 203), one(4, 999)]);
        let [first, second] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        assert_eq!(
            first,
            "    0.000000  0x7f0000001000 x2      migration:compaction          pfn 100 -> pfn 200          by kcompactd0 (5)            [heap]"
        );
        assert!(
            second.contains("x2 ") && second.contains("pfn 103, .. -> pfn 203, .."),
            "{second}"
        );
    }

    #[test]
    fn stories_that_are_told_in_turn_are_a_line_each() {
        let lines = told((0..100).flat_map(|i| [back(i), one(i, 200 + i)]));
        let [first, second] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        assert!(first.contains("x100    unmap "), "{first}");
        assert!(second.contains("x100    migration:compaction"), "{second}");
    }

    #[test]
    fn what_befell_a_page_comes_in_its_order() {
        // Page 2 goes and comes back beside others that came before.
        let lines = told([one(0, 200), one(1, 201), back(2), one(2, 202), one(3, 203)]);
        let causes: Vec<_> = lines
            .iter()
            .map(|line| line.split_whitespace().skip(1).take(3).collect::<Vec<_>>())
            .collect();
        assert_eq!(
            causes,
            [
                ["0x7f0000001000", "x2", "migration:compaction"],
                ["0x7f0000003000", "unmap", "pfn"],
                ["0x7f0000003000", "x2", "migration:compaction"],
            ]
        );
    }

    #[test]
    fn neighbours_may_come_from_above() {
        let [line] = told([one(2, 202), one(1, 201), one(0, 200)])
            .try_into()
            .unwrap();
        assert_eq!(
            line,
            "    0.000000  0x7f0000001000 x3      migration:compaction          pfn 100 -> pfn 200          by kcompactd0 (5)            [heap]"
        );
    }

    #[test]
    fn more_stories_than_are_held_come_in_the_order_in_which_they_began() {
        let apart = (0..20).map(|i| one(2 * i, i));
        let lines = told(apart.clone());
        let wanted = apart.map(|one| one.va.to_string());
        let places = lines.iter().map(|line| line.split_whitespace().nth(1));
        assert!(
            places.eq(wanted
                .collect::<Vec<_>>()
                .iter()
                .map(|va| Some(va.as_str()))),
            "{lines:?}"
        );
    }

    #[test]
    fn no_name_steers_the_terminal() {
        let mut one = one(0, 1);
        one.by = Some(By {
            tid: 5,
            comm: Comm(*b"\x1b[2Jx\0\0\0\0\0\0\0\0\0\0\0"),
        });
        let (mut clock, mut moves) = (Clock::default(), Moves::default());
        let name = "/tmp/\u{1b}[31m".into();
        moves.add(&one, (None, &name), &mut clock, false);
        let line = moves.line(&mut clock, false).unwrap();
        assert!(!line.contains('\u{1b}'), "{line:?}");
        assert!(line.ends_with("/tmp/\\u{1b}[31m"), "{line:?}");
    }
}
