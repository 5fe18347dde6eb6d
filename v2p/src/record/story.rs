//! Stories: moves of neighbours to which the same was done, by the same task, at about the same time. A few are told at a time, page by page
//! in turn: a range that is given back and touched again, a copy by two threads. Pure.

use std::{collections::VecDeque, mem::discriminant, rc::Rc};

use v2p_common::PAGE_SIZE;

use super::Move;

/// Stories that are told at a time.
pub const AT_A_TIME: usize = 4;

/// Moves farther apart in time than this are not one story.
const TOGETHER_NS: u64 = 1_000_000_000;

/// Moves of neighbours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Story {
    /// As the lowest page moved, with the pages of all, at the time of the move that was told first.
    pub first: Move,
    /// Whose pages, where there are several processes.
    pub pid: Option<u32>,
    /// The name of their mapping.
    pub mapping: Rc<str>,
    /// Whether the frames do not lie one after the other.
    pub scattered: bool,
}

impl Story {
    /// One that begins.
    pub fn of(one: Move, pid: Option<u32>, mapping: &Rc<str>) -> Self {
        Self {
            first: one,
            pid,
            mapping: Rc::clone(mapping),
            scattered: false,
        }
    }

    /// Takes the next move, if it is of this story and lies before or behind it.
    fn takes(&mut self, next: &Move, (pid, mapping): (Option<u32>, &Rc<str>)) -> bool {
        let first = &mut self.first;
        if pid != self.pid || !are_alike(next, first) || *mapping != self.mapping {
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
}

/// Whether one of the latest stories, the last ones of `all`, goes on with the next move, which it then has taken. What befell one page comes
/// in its order: no move is told by a story that began before another one of the same page.
pub fn is_continued(
    all: &mut VecDeque<Story>,
    next: &Move,
    whose: (Option<u32>, &Rc<str>),
) -> bool {
    for story in all.iter_mut().rev().take(AT_A_TIME) {
        if story.takes(next, whose) {
            return true;
        }
        if story.tells_of(next, whose.0) {
            break;
        }
    }
    false
}

/// Whether two moves are alike in all but address and frame, and at about the same time.
fn are_alike(next: &Move, first: &Move) -> bool {
    next.cause == first.cause
        && next.reason == first.reason
        && next.by == first.by
        && next.proof == first.proof
        && discriminant(&next.from) == discriminant(&first.from)
        && discriminant(&next.to) == discriminant(&first.to)
        && next.t_ns.abs_diff(first.t_ns) < TOGETHER_NS
}

/// Where the pages of a move end.
const fn end(one: &Move) -> u64 {
    one.va.0.saturating_add(one.pages.saturating_mul(PAGE_SIZE))
}

#[cfg(test)]
mod tests {
    use v2p_common::Pfn;

    use super::*;
    use crate::{
        record::{Cause, Hex, Proof},
        state::PageState,
    };

    /// Page `i` comes.
    fn comes(i: u64) -> Move {
        Move {
            seq: Some(i),
            t_ns: 1_000_000 + i,
            va: Hex(i * PAGE_SIZE),
            pages: 1,
            from: PageState::Absent,
            to: PageState::Present { pfn: Pfn(200 + i) },
            cause: Cause::FirstTouch,
            reason: None,
            by: None,
            proof: Proof::Event,
        }
    }

    fn goes(i: u64) -> Move {
        let come = comes(i);
        Move {
            from: come.to,
            to: come.from,
            cause: Cause::Discard,
            ..come
        }
    }

    /// First page, pages and cause of each story, in the order in which they began.
    fn stories(moves: impl IntoIterator<Item = Move>) -> Vec<(u64, u64, Cause)> {
        let (mut all, name) = (VecDeque::new(), "[heap]".into());
        for one in moves {
            if !is_continued(&mut all, &one, (None, &name)) {
                all.push_back(Story::of(one, None, &name));
            }
        }
        let shape = |story: &Story| {
            let Move {
                va, pages, cause, ..
            } = story.first;
            (va.0 / PAGE_SIZE, pages, cause)
        };
        all.iter().map(shape).collect()
    }

    #[test]
    fn two_in_turn_are_two() {
        let turns = (0..100).flat_map(|i| [goes(i), comes(i)]);
        assert_eq!(
            stories(turns),
            [(0, 100, Cause::Discard), (0, 100, Cause::FirstTouch)]
        );
    }

    #[test]
    fn what_befell_a_page_comes_in_its_order() {
        // Page 2 goes and comes back beside others that came before.
        let moves = [comes(0), comes(1), goes(2), comes(2), comes(3)];
        assert_eq!(
            stories(moves),
            [
                (0, 2, Cause::FirstTouch),
                (2, 1, Cause::Discard),
                (2, 2, Cause::FirstTouch)
            ]
        );
    }

    #[test]
    fn neighbours_may_come_from_above() {
        let from_above = (0..3).rev().map(comes);
        assert_eq!(stories(from_above), [(0, 3, Cause::FirstTouch)]);
    }

    #[test]
    fn frames_one_after_the_other_are_told_from_others() {
        let name = "".into();
        for (order, to, scattered) in [
            ([0, 1], 201, false),
            ([1, 0], 201, false),
            ([1, 0], 7, true),
        ] {
            let moved = |i| match i {
                0 => comes(0),
                i => Move {
                    to: PageState::Present { pfn: Pfn(to) },
                    ..comes(i)
                },
            };
            let mut all = VecDeque::from([Story::of(moved(order[0]), None, &name)]);
            assert!(is_continued(&mut all, &moved(order[1]), (None, &name)));
            assert_eq!(all[0].scattered, scattered, "{order:?} {to}");
        }
    }

    #[test]
    fn what_differs_in_anything_told_is_another_story() {
        let name: Rc<str> = "[heap]".into();
        let next = comes(1);
        let of = |next: Move, pid, name: &str| {
            let mut all = VecDeque::from([Story::of(comes(0), None, &"[heap]".into())]);
            is_continued(&mut all, &next, (pid, &name.into()))
        };
        assert!(of(next, None, &name));
        assert!(!of(next, Some(7), &name));
        assert!(!of(next, None, "[stack]"));
        let reconciled = Move {
            proof: Proof::Reconciled,
            ..next
        };
        assert!(!of(reconciled, None, &name));
        let late = Move {
            t_ns: next.t_ns + TOGETHER_NS,
            ..next
        };
        assert!(!of(late, None, &name));
        let zero = Move {
            to: PageState::Zero,
            ..next
        };
        assert!(!of(zero, None, &name));
        assert!(!of(comes(2), None, &name));
    }
}
