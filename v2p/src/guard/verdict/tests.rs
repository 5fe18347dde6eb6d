//! What is judged of every evidence, and of when a page left.

use super::*;
use Verdict::{Landed, Strayed, Unproven};

const LANDED: Evidence = Evidence {
    left: Left::Not,
    by_event: false,
    gone: false,
    telling: true,
    hooked: true,
    sees_removals: true,
    lost: 0,
    zapping: false,
    back_at_once: true,
    copied: false,
    read_back_va: true,
    read_back_pa: true,
    as_before: false,
};

/// Every evidence that there can be.
fn all() -> impl Iterator<Item = Evidence> {
    (0u32..1 << 12).flat_map(|bits| {
        let bit = |n: u32| bits >> n & 1 != 0;
        let evidence = move |left| Evidence {
            left,
            by_event: bit(0),
            gone: bit(1),
            telling: bit(2),
            hooked: bit(3),
            lost: u64::from(bit(4)),
            read_back_va: bit(5),
            read_back_pa: bit(6),
            as_before: bit(7),
            sees_removals: bit(8),
            zapping: bit(9),
            back_at_once: bit(10),
            copied: bit(11),
        };
        [Left::Not, Left::Before, Left::Unclear, Left::After].map(evidence)
    })
}

/// The pwrite returned at 200, and the look-up after it at 300.
fn when(still: bool, there: bool, moves: &[(u64, bool)]) -> (Left, bool) {
    while_zapping(false, still, there, moves)
}

/// The same, where entries were being taken out as the look-up ended, or not.
fn while_zapping(zapping: bool, still: bool, there: bool, moves: &[(u64, bool)]) -> (Left, bool) {
    let struck = Struck {
        look_up_ns: 100,
        written_ns: 200,
        seen_ns: 300,
        wrote: Ok(8),
        back: still,
        still,
        quiet: !zapping,
    };
    let began = |(at_ns, copied_later): &(u64, bool)| Began {
        at_ns: *at_ns,
        copied_later: *copied_later,
        copied_before: false,
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
    // Nor where the removal goes on still, and has no event.
    assert_eq!(
        while_zapping(true, true, false, &[]),
        (Left::Unclear, false)
    );
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
        back_at_once: false,
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
        let by_both = e.read_back_va && e.read_back_pa;
        assert!(e.back_at_once && !e.copied || by_both, "{e:?}");
        assert!(e.left != Left::Before && e.hooked && e.lost == 0, "{e:?}");
        assert!(e.telling || e.sees_removals && e.left == Left::Not, "{e:?}");
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
    let known = |e: &Evidence| e.hooked && e.lost == 0 && e.telling;
    let told = |e: &Evidence| e.by_event || e.left != Left::Unclear;
    let at_once = |e: &Evidence| e.back_at_once && !e.copied;
    let there = |e: &Evidence| at_once(e) || e.read_back_pa && e.read_back_va;
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
            back_at_once: false,
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
fn what_was_read_back_at_once_landed_whatever_became_of_it_since() {
    let since = |left, gone| {
        let e = Evidence {
            left,
            gone,
            by_event: true,
            read_back_va: false,
            read_back_pa: false,
            ..LANDED
        };
        let (verdict, why) = verdict(&e);
        assert_eq!(verdict, Landed);
        why.unwrap()
    };
    for left in [Left::After, Left::Unclear] {
        assert!(since(left, false).contains("taken away or replaced since"));
        assert!(since(left, true).contains("has ended"));
    }
    assert!(since(Left::Not, false).contains("written over them since"));
}

#[test]
fn a_copy_that_came_without_the_bytes_may_be_older_than_the_write() {
    let e = Evidence {
        left: Left::After,
        by_event: true,
        copied: true,
        read_back_va: false,
        read_back_pa: false,
        ..LANDED
    };
    let (said, why) = verdict(&e);
    assert_eq!(said, Unproven);
    assert!(why.unwrap().contains("a copy came"));
    let with_them = Evidence {
        read_back_va: true,
        read_back_pa: true,
        ..e
    };
    assert_eq!(verdict(&with_them).0, Landed);
}

#[test]
fn a_dropped_write_is_told_from_one_that_was_written_over() {
    let gone = Evidence {
        back_at_once: false,
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
