//! What became of a write: pure.

use super::{moves::Began, strike::Struck};
use crate::record::Verdict;

/// When the page left the frame that was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// It did not.
    Not,
    /// After the last look-up, and before the pwrite had returned: by then the frame was no longer the page's.
    Before,
    /// About when the pwrite returned: before or after it.
    Unclear,
    /// Afterwards: the bytes were the page's.
    After,
}

/// When the page left; and whether an event shows that it did. `there`: it is there in the end.
///
/// The event of a removal comes when the deed is done, so one that is stamped a moment after the pwrite may tell of a page that
/// was gone a moment before it. The look-up after the pwrite decides: where it names the frame, and nobody was taking entries out, the page had not
/// gone and come again, and what is stamped later began later.
pub(super) fn left(struck: &Struck, moves: &[Began], there: bool) -> (Left, bool) {
    let Struck {
        look_up_ns,
        written_ns,
        seen_ns,
        still,
        quiet,
        ..
    } = *struck;
    let since = moves.iter().filter(|m| m.at_ns >= look_up_ns);
    // Their order is that of the events, which come when the deeds are done.
    let Some(first) = since.min_by_key(|m| m.at_ns) else {
        return match (there, still) {
            (true, _) => (Left::Not, false),
            (false, true) => (Left::After, false),
            (false, false) => (Left::Unclear, false),
        };
    };
    let left = match first.at_ns {
        t if t <= written_ns => Left::Before,
        _ if first.copied_later => Left::After,
        t if still && quiet && t > seen_ns => Left::After,
        _ => Left::Unclear,
    };
    (left, true)
}

/// What is known after the write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    pub(super) left: Left,
    /// An event shows that it left.
    pub(super) by_event: bool,
    /// The process, or its program, is gone.
    pub(super) gone: bool,
    /// Other bytes were there before: that they are ours now shows that they arrived.
    pub(super) changed: bool,
    /// The hooks on migrations are live.
    pub(super) hooked: bool,
    /// So are those on all that takes a page away, or nobody but we can do that.
    pub(super) sees_removals: bool,
    /// Events lost.
    pub(super) lost: u64,
    /// Entries are still being taken out, of which no event has told.
    pub(super) zapping: bool,
    /// The bytes are there, through the virtual address.
    pub(super) read_back_va: bool,
    /// The bytes are there, through /dev/mem at the frame of the look-up after it.
    pub(super) read_back_pa: bool,
    /// The frame still has what it had before.
    pub(super) as_before: bool,
}

/// The verdict over a write that was made, and why where it is not plain.
///
/// `Strayed` is said where it is known: the page had left the frame when the pwrite returned. `Landed` asks that both
/// routes read the bytes back. What is left is `Unproven`: events were lost, the owner took the page or the bytes away before
/// they could be read back, or did so at the very moment of the write, of which no event tells the order.
pub(super) fn verdict(e: &Evidence) -> (Verdict, Option<&'static str>) {
    use Verdict::{Landed, Strayed, Unproven};
    let say = |verdict, why| (verdict, Some(why));
    if e.left == Left::Before {
        return say(
            Strayed,
            match (e.gone, e.read_back_va) {
                (true, _) => {
                    "between look-up and write the process has ended, or executed another program"
                }
                (_, true) => {
                    "a move began between look-up and write; the page took the bytes along"
                }
                (_, false) => "a move began between look-up and write",
            },
        );
    }
    let unproven = if e.lost > 0 {
        Some("events were lost")
    } else if !e.hooked {
        Some("the hooks on migrations are not live")
    } else if !e.read_back_va {
        Some(not_read_back(e))
    } else if !e.changed && !e.sees_removals {
        Some("the same bytes were there before, and not every hook is live that would see a move")
    } else if !e.changed && e.left != Left::Not {
        Some("the page moved about when the write was made, and the same bytes were there before")
    } else if e.left == Left::Unclear && !e.by_event {
        Some(no_event(e))
    } else if !e.read_back_pa {
        Some("the bytes are there for the process, but not at the frame that the routes name")
    } else {
        None
    };
    match (unproven, e.left) {
        (Some(why), _) => say(Unproven, why),
        (None, Left::Not) => (Landed, None),
        (None, _) => say(
            Landed,
            "the page moved after the write, and took the bytes along",
        ),
    }
}

/// Why the bytes are not in the page, though no event says that it had left before the pwrite returned.
const fn not_read_back(e: &Evidence) -> &'static str {
    match (e.left, e.gone) {
        (Left::After, true) => {
            "the page had the bytes, but the process has ended, or executed another program, before they could be read back"
        }
        (Left::After, false) => {
            "the page had the bytes, and was taken away or replaced before they could be read back"
        }
        (_, true) => {
            "the process has ended, or executed another program, at the time of the write: before or after it cannot be said"
        }
        (Left::Unclear, false) if e.by_event => {
            "the page was taken away at the time of the write: before or after it cannot be said"
        }
        (Left::Unclear, false) => no_event(e),
        (_, false) if e.as_before => {
            "nothing moved, and the frame has what it had before: the kernel dropped the write"
        }
        (_, false) => "nothing moved, and other bytes are there: the process has written over them",
    }
}

/// Why it is not known since when the page no longer has the frame.
const fn no_event(e: &Evidence) -> &'static str {
    match e.zapping {
        true => {
            "entries of the process are being taken out still, and the page no longer has that frame: whether it went before the write cannot be said"
        }
        false => "the page no longer has that frame, and no event says since when",
    }
}

/// Where the bytes of a pwrite went that failed, or took not all of them: `n` is what it said to have taken, `now` what the
/// frame has now.
pub(super) fn aftermath(n: usize, sent: &[u8], before: &[u8], now: Option<&[u8]>) -> String {
    let rest = sent.len().saturating_sub(n);
    let Some(now) = now else {
        return format!("{n} bytes were written, and the frame cannot be read any more");
    };
    if now == before {
        return "no byte there has changed".to_owned();
    }
    let tail = |of: &[u8]| of.get(n..).unwrap_or_default().to_vec();
    let head = match now.get(..n) == sent.get(..n) {
        true => format!("{n} bytes were written"),
        false => format!("{n} bytes were said to be written, but others are there"),
    };
    let tail = match tail(now) {
        _ if rest == 0 => return head,
        tail_now if tail_now == tail(before) => "are as they were",
        tail_now if tail_now.iter().all(|byte| *byte == 0) => "are zeros now",
        _ => "have changed",
    };
    format!("{head}, the {rest} after them {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Landed, Strayed, Unproven};

    const LANDED: Evidence = Evidence {
        left: Left::Not,
        by_event: false,
        gone: false,
        changed: true,
        hooked: true,
        sees_removals: true,
        lost: 0,
        zapping: false,
        read_back_va: true,
        read_back_pa: true,
        as_before: false,
    };

    /// Every evidence that there can be.
    fn all() -> impl Iterator<Item = Evidence> {
        (0u32..1 << 10).flat_map(|bits| {
            let bit = |n: u32| bits >> n & 1 != 0;
            let evidence = move |left| Evidence {
                left,
                by_event: bit(0),
                gone: bit(1),
                changed: bit(2),
                hooked: bit(3),
                lost: u64::from(bit(4)),
                read_back_va: bit(5),
                read_back_pa: bit(6),
                as_before: bit(7),
                sees_removals: bit(8),
                zapping: bit(9),
            };
            [Left::Not, Left::Before, Left::Unclear, Left::After].map(evidence)
        })
    }

    /// The pwrite returned at 200, and the look-up after it at 300.
    fn when(still: bool, there: bool, moves: &[(u64, bool)]) -> (Left, bool) {
        while_zapping(false, still, there, moves)
    }

    /// The same, where entries were being taken out as the look-up ended, or not.
    fn while_zapping(
        zapping: bool,
        still: bool,
        there: bool,
        moves: &[(u64, bool)],
    ) -> (Left, bool) {
        let struck = Struck {
            look_up_ns: 100,
            written_ns: 200,
            seen_ns: 300,
            wrote: Ok(8),
            still,
            quiet: !zapping,
        };
        let began = |(at_ns, copied_later): &(u64, bool)| Began {
            at_ns: *at_ns,
            copied_later: *copied_later,
        };
        let moves: Vec<_> = moves.iter().map(began).collect();
        left(&struck, &moves, there)
    }

    #[test]
    fn what_began_before_the_pwrite_returned_came_before_it_whatever_was_seen_later() {
        for (still, there) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_eq!(when(still, there, &[(150, false)]).0, Left::Before);
            // The event of a long deed comes after that of a short one which began later.
            let moves = [(250, false), (200, true)];
            assert_eq!(when(still, there, &moves).0, Left::Before);
        }
    }

    #[test]
    fn a_removal_told_after_the_pwrite_came_after_it_only_where_the_page_was_still_seen() {
        assert_eq!(when(true, false, &[(400, false)]).0, Left::After);
        assert_eq!(when(false, false, &[(400, false)]).0, Left::Unclear);
        // It was seen, but may have come again by then.
        assert_eq!(when(true, true, &[(250, false)]).0, Left::Unclear);
    }

    #[test]
    fn while_entries_are_taken_out_a_page_that_was_still_seen_may_have_gone_and_come_again() {
        let removed = [(400, false)];
        assert_eq!(while_zapping(true, true, false, &removed).0, Left::Unclear);
        assert_eq!(while_zapping(true, true, true, &removed).0, Left::Unclear);
        // A migration's entry is set before the page is copied, whoever takes entries out.
        assert_eq!(
            while_zapping(true, true, false, &[(400, true)]).0,
            Left::After
        );
    }

    #[test]
    fn a_long_removal_that_goes_on_is_named() {
        let e = Evidence {
            left: Left::Unclear,
            zapping: true,
            read_back_va: false,
            read_back_pa: false,
            ..LANDED
        };
        let (verdict, why) = verdict(&e);
        assert_eq!(verdict, Unproven);
        assert!(why.unwrap().contains("taken out still"));
    }

    #[test]
    fn a_migration_or_a_swap_out_takes_along_what_was_written_before_it() {
        assert_eq!(when(false, false, &[(201, true)]), (Left::After, true));
    }

    #[test]
    fn without_an_event_the_look_ups_alone_tell() {
        assert_eq!(when(true, true, &[]), (Left::Not, false));
        assert_eq!(
            when(false, true, &[]),
            (Left::Not, false),
            "seen on its way and back"
        );
        assert_eq!(when(true, false, &[]), (Left::After, false));
        assert_eq!(when(false, false, &[]), (Left::Unclear, false));
        assert_eq!(when(true, true, &[(99, false)]), (Left::Not, false));
    }

    #[test]
    fn a_write_lands_when_nothing_moved_and_both_read_backs_are_equal() {
        assert_eq!(verdict(&LANDED), (Landed, None));
    }

    #[test]
    fn nothing_is_called_landed_that_is_not_there_by_both_routes() {
        for e in all().filter(|e| verdict(e).0 == Landed) {
            assert!(e.read_back_va && e.read_back_pa, "{e:?}");
            assert!(e.left != Left::Before && e.hooked && e.lost == 0, "{e:?}");
            assert!(e.changed || e.sees_removals && e.left == Left::Not, "{e:?}");
        }
    }

    #[test]
    fn what_is_known_to_have_left_before_is_a_stray_whatever_else_is_said_and_nothing_else_is() {
        for e in all() {
            assert_eq!(verdict(&e).0 == Strayed, e.left == Left::Before, "{e:?}");
        }
    }

    #[test]
    fn with_every_hook_and_nothing_lost_bytes_that_are_there_are_never_unproven() {
        let known = |e: &Evidence| e.hooked && e.lost == 0 && e.changed;
        let told = |e: &Evidence| e.by_event || e.left != Left::Unclear;
        let there = |e: &Evidence| e.read_back_pa && e.read_back_va;
        for e in all().filter(|e| known(e) && told(e) && there(e)) {
            assert_ne!(verdict(&e).0, Unproven, "{e:?}");
        }
    }

    #[test]
    fn lost_events_leave_it_unproven() {
        let e = Evidence { lost: 1, ..LANDED };
        assert_eq!(verdict(&e), (Unproven, Some("events were lost")));
    }

    #[test]
    fn a_move_after_the_write_takes_the_bytes_along() {
        let e = Evidence {
            left: Left::After,
            by_event: true,
            ..LANDED
        };
        assert_eq!(verdict(&e).0, Landed);
    }

    #[test]
    fn a_page_that_is_thrown_away_after_the_write_is_no_stray_and_it_is_said_which_came_first() {
        let gone = |left| {
            let e = Evidence {
                left,
                by_event: true,
                read_back_va: false,
                read_back_pa: false,
                ..LANDED
            };
            verdict(&e)
        };
        let (verdict, why) = gone(Left::After);
        assert_eq!(verdict, Unproven);
        assert!(why.unwrap().starts_with("the page had the bytes"));
        let (verdict, why) = gone(Left::Unclear);
        assert_eq!(verdict, Unproven);
        assert!(why.unwrap().contains("cannot be said"));
    }

    #[test]
    fn a_dropped_write_is_told_from_one_that_was_written_over() {
        let gone = Evidence {
            read_back_va: false,
            read_back_pa: false,
            ..LANDED
        };
        let dropped = Evidence {
            as_before: true,
            ..gone
        };
        assert!(verdict(&gone).1.unwrap().contains("written over"));
        assert!(verdict(&dropped).1.unwrap().contains("dropped"));
    }

    #[test]
    fn a_failed_write_says_how_many_bytes_went_where() {
        let (sent, before) = (b"abcdef", b"uvwxyz");
        let tell = |n, now: &[u8]| aftermath(n, sent, before, Some(now));
        assert_eq!(tell(0, before), "no byte there has changed");
        assert_eq!(
            tell(2, b"abwxyz"),
            "2 bytes were written, the 4 after them are as they were"
        );
        assert_eq!(
            tell(0, &[0; 6]),
            "0 bytes were written, the 6 after them are zeros now"
        );
        assert_eq!(
            tell(4, b"abcd\0\0"),
            "4 bytes were written, the 2 after them are zeros now"
        );
        assert_eq!(
            tell(1, b"?vwxyz"),
            "1 bytes were said to be written, but others are there, the 5 after them are as they were"
        );
        assert!(aftermath(3, sent, before, None).starts_with("3 bytes were written, and"));
    }
}
