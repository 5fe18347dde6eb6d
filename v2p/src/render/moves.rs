//! Moves as lines for people: a story a line.

use std::{collections::VecDeque, rc::Rc};

use super::{
    Clock, Colour, cause_text,
    column::{self, Cell},
    paint, printable,
};
use crate::{
    record::{
        By, Move, Proof,
        story::{self, Story},
    },
    state::PageState,
};

/// The stories that the next move may continue, in the order in which they began.
#[derive(Default)]
pub(super) struct Moves {
    open: VecDeque<Story>,
}

fn line(story: &Story, clock: &mut Clock, colour: bool) -> String {
    let Story {
        first: m,
        pid,
        mapping,
        scattered,
    } = story;
    let mut line = String::with_capacity(192);
    clock.add_time(&mut line, m.t_ns);
    line.push_str("  ");
    line.push_str(&of_process(*pid));
    column::right(&mut line, 14, m.va);
    line.push(' ');
    match m.pages {
        1 => column::left(&mut line, 7, ""),
        pages => column::left(&mut line, 7, ("x", pages)),
    };
    line.push(' ');
    let cause = cause_text(m.cause, m.reason);
    let over = match colour && m.cause.stands_out() {
        false => column::left(&mut line, 20, cause.as_str()),
        true => {
            // Colours have no width: padded before they are put on.
            let mut padded = String::new();
            let over = column::left(&mut padded, 20, cause.as_str());
            line.push_str(&paint(&padded, Colour::Bad, true));
            over
        }
    };
    line.push(' ');
    let over = column::right(&mut line, 16 - over.min(16), frames(m.from, *scattered));
    line.push_str(" -> ");
    let over = column::left(&mut line, 16 - over.min(16), frames(m.to, *scattered));
    line.push(' ');
    match (&m.by, m.proof) {
        (Some(By { tid, comm }), _) => {
            let name = comm.text();
            let by = format_args!("by {} ({tid})", printable(&name));
            column::left(&mut line, 28 - over.min(28), by)
        }
        (None, Proof::Reconciled) => column::left(&mut line, 28 - over.min(28), "(compared)"),
        (None, Proof::Event) => column::left(&mut line, 28 - over.min(28), ""),
    };
    line.push(' ');
    line.push_str(&printable(mapping));
    line.truncate(line.trim_end().len());
    line
}

/// A column that is there where there are several processes.
pub(super) fn of_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!("{pid:>7}  "))
}

fn frames(one: PageState, scattered: bool) -> impl Cell {
    let more = matches!(one, PageState::Present { .. } | PageState::Swapped { .. });
    let dots = if scattered && more { ", .." } else { "" };
    (one, dots)
}

impl Moves {
    /// Takes the next move; gives the line of the oldest story, where there is no room for one more.
    pub(super) fn add(
        &mut self,
        next: &Move,
        (pid, mapping): (Option<u32>, &Rc<str>),
        clock: &mut Clock,
        colour: bool,
    ) -> Option<String> {
        if story::is_continued(&mut self.open, next, (pid, mapping)) {
            return None;
        }
        let full = self.open.len() >= story::AT_A_TIME;
        let oldest = full.then(|| self.line(clock, colour)).flatten();
        self.open.push_back(Story::of(*next, pid, mapping));
        oldest
    }

    /// The line of the oldest story.
    pub(super) fn line(&mut self, clock: &mut Clock, colour: bool) -> Option<String> {
        self.open
            .pop_front()
            .map(|story| line(&story, clock, colour))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{Cause, Comm, Hex},
        state::SwapPlace,
    };
    use v2p_common::{PAGE_SIZE, Pfn};

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
    fn names_that_are_longer_than_their_column_take_from_the_next() {
        let swap = |offset| PageState::Swapped {
            swap: Some(SwapPlace { device: 0, offset }),
        };
        let mut far = one(0, 200);
        (far.cause, far.reason) = (Cause::SwapOut, None);
        (far.from, far.to) = (swap(1_234_567_890), swap(12_345_678_901));
        let mut bad = one(5, 300);
        bad.reason = Some("memory-failure");
        let lines = told([one(9, 400), bad, far]);
        let places = |what: &str| -> Vec<_> {
            let place = |line: &String| line.find(what).unwrap();
            lines.iter().map(place).collect()
        };
        let (arrows, names) = (places("-> "), places("[heap]"));
        assert!(names.iter().all(|place| *place == names[0]), "{lines:#?}");
        assert!(
            arrows[0] == arrows[1] && arrows[2] == arrows[0] + 1,
            "{lines:#?}"
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
