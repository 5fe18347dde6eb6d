//! Moves as lines for people: neighbours with the same story, which come one after the other, in one line.

use std::mem::discriminant;

use v2p_common::PAGE_SIZE;

use super::{Clock, Colour, cause_text, paint, printable, text::state};
use crate::{
    record::{By, Move, Proof},
    state::PageState,
};

/// Moves farther apart in time than this are not one story.
const TOGETHER_NS: u64 = 1_000_000_000;

/// The move that may be continued by the next.
#[derive(Default)]
pub(super) struct Moves {
    last: Option<Run>,
}

/// Moves of neighbours.
struct Run {
    /// The first; its `pages` are those of all.
    first: Move,
    /// Whose, where there are several processes.
    pid: Option<u32>,
    mapping: String,
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
    fn is_continued_by(&self, next: &Move, (pid, mapping): (Option<u32>, &str)) -> bool {
        let first = &self.first;
        next.va.0 == first.va.0 + first.pages * PAGE_SIZE
            && is_of_one_story(next, first)
            && mapping == self.mapping
            && pid == self.pid
    }

    fn line(&self, clock: &mut Clock, colour: bool) -> String {
        let Self {
            first: m,
            pid,
            mapping,
            scattered,
        } = self;
        let pages = match m.pages {
            1 => String::new(),
            pages => format!("x{pages}"),
        };
        // Colours have no width: padded before they are put on.
        let cause = format!("{:<20}", cause_text(m.cause, m.reason));
        let cause = paint(&cause, Colour::Bad, colour && m.cause.stands_out());
        let who = match (&m.by, m.proof) {
            (Some(By { tid, comm }), _) => format!("by {} ({tid})", printable(&comm.to_string())),
            (None, Proof::Reconciled) => "(compared)".to_owned(),
            (None, Proof::Event) => String::new(),
        };
        let line = format!(
            "{}  {}{:>14} {pages:<7} {cause} {:>16} -> {:<16} {who:<28} {}",
            clock.since_start(m.t_ns),
            of_process(*pid),
            m.va,
            frames(m.from, *scattered),
            frames(m.to, *scattered),
            printable(mapping),
        );
        line.trim_end().to_owned()
    }
}

/// A column that is there where there are several processes.
pub(super) fn of_process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!("{pid:>7}  "))
}

fn frames(one: PageState, scattered: bool) -> String {
    let more = matches!(one, PageState::Present { .. } | PageState::Swapped { .. });
    let dots = if scattered && more { ", .." } else { "" };
    format!("{}{dots}", state(one))
}

impl Moves {
    /// Takes the next move; gives the line of what came before it, where it does not continue that.
    pub(super) fn add(
        &mut self,
        next: &Move,
        (pid, mapping): (Option<u32>, &str),
        clock: &mut Clock,
        colour: bool,
    ) -> Option<String> {
        if let Some(run) = &mut self.last
            && run.is_continued_by(next, (pid, mapping))
        {
            let pages = run.first.pages;
            run.scattered |= next.from != run.first.from.advanced(pages)
                || next.to != run.first.to.advanced(pages);
            run.first.pages += next.pages;
            return None;
        }
        let before = self.line(clock, colour);
        self.last = Some(Run {
            first: *next,
            pid,
            mapping: mapping.to_owned(),
            scattered: false,
        });
        before
    }

    /// The line of what there is.
    pub(super) fn line(&mut self, clock: &mut Clock, colour: bool) -> Option<String> {
        self.last.take().map(|run| run.line(clock, colour))
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

    #[test]
    fn neighbours_are_one_line_that_says_whether_their_frames_are_too() {
        let mut clock = Clock::default();
        let mut moves = Moves::default();
        assert_eq!(
            moves.add(&one(0, 200), (None, "[heap]"), &mut clock, false),
            None
        );
        assert_eq!(
            moves.add(&one(1, 201), (None, "[heap]"), &mut clock, false),
            None
        );
        assert_eq!(
            moves
                .add(&one(3, 203), (None, "[heap]"), &mut clock, false)
                .unwrap(),
            "    0.000000  0x7f0000001000 x2      migration:compaction          pfn 100 -> pfn 200          by kcompactd0 (5)            [heap]"
        );
        assert_eq!(
            moves.add(&one(4, 999), (None, "[heap]"), &mut clock, false),
            None
        );
        let last = moves.line(&mut clock, false).unwrap();
        assert!(
            last.contains("x2 ") && last.contains("pfn 103, .. -> pfn 203, .."),
            "{last}"
        );
        assert_eq!(moves.line(&mut clock, false), None);
    }

    #[test]
    fn no_name_steers_the_terminal() {
        let mut one = one(0, 1);
        one.by = Some(By {
            tid: 5,
            comm: Comm(*b"\x1b[2Jx\0\0\0\0\0\0\0\0\0\0\0"),
        });
        let (mut clock, mut moves) = (Clock::default(), Moves::default());
        moves.add(&one, (None, "/tmp/\u{1b}[31m"), &mut clock, false);
        let line = moves.line(&mut clock, false).unwrap();
        assert!(!line.contains('\u{1b}'), "{line:?}");
        assert!(line.ends_with("/tmp/\\u{1b}[31m"), "{line:?}");
    }
}
