//! What readings of the tables find, and what was so before.

use super::*;

#[test]
fn comparing_finds_what_changed_and_what_went() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let next = VirtAddr(VA.0 + PAGE_SIZE);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.seed(next, PagemapWord(1 << 63 | 8), false);
    let moves = reread(&mut ledger, &[word(0, 9)]);
    assert_eq!(moves.len(), 2);
    assert_eq!((moves[0].from, moves[0].to), (present(7), present(9)));
    assert_eq!(
        (moves[1].from, moves[1].to),
        (present(8), PageState::Absent)
    );
    let reconciled = |m: &Move| m.proof == Proof::Reconciled && m.seq.is_none();
    assert!(moves.iter().all(reconciled));
    assert!(moves.iter().all(|m| m.cause == Cause::Unknown));
    assert!(reread(&mut ledger, &[word(0, 9)]).is_empty());
}

#[test]
fn a_page_in_transit_from_its_own_frame_has_not_moved() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 700), false);
    let under_way = (VA.page_number(), PagemapWord(1 << 62 | 700 << 5 | 28));
    assert!(reread(&mut ledger, &[under_way]).is_empty());
    assert!(ledger.apply(&fault(VA, migration_entry(700), 0)).is_empty());
}

#[test]
fn a_page_that_an_event_tells_of_after_the_reading_is_left_to_it() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let first = VA.page_number();
    ledger.compare(first..first + 512, &[word(0, 7), word(1, 8)]);
    let moves = ledger.apply(&fault(VA, pte(7), 0));
    assert_eq!((moves.len(), moves[0].proof), (1, Proof::Event));
    let rest = ledger.confirm(1, |_| true);
    assert_eq!((rest.len(), rest[0].to), (1, present(8)));
    assert_eq!(rest[0].cause, Cause::FirstTouch);
}

#[test]
fn after_a_loss_a_replaced_page_has_no_cause_until_all_was_read_again() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.missed();
    assert_eq!(ledger.apply(&fault(VA, pte(9), 0))[0].cause, Cause::Unknown);
    ledger.take_unread();
    assert_eq!(
        ledger.apply(&fault(VA, pte(10), 0))[0].cause,
        Cause::Unknown
    );
    reread(&mut ledger, &[word(0, 10)]);
    assert_eq!(ledger.apply(&fault(VA, pte(11), 0))[0].cause, Cause::Cow);
}

#[test]
fn a_zap_that_spares_some_is_read_again_and_explains_what_went() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.seed(VirtAddr(VA.0 + PAGE_SIZE), PagemapWord(1 << 63 | 8), false);
    let truncate = Event::Look(look(how::ZAP, 2, 77));
    assert!(ledger.apply(&truncate).is_empty());
    let first = VA.page_number();
    assert_eq!(ledger.take_unread(), [first..first + 2]);
    let moves = reread(&mut ledger, &[word(1, 8)]);
    assert_eq!(moves.len(), 1);
    assert_eq!(
        (moves[0].cause, moves[0].proof),
        (Cause::Discard, Proof::Event)
    );
    assert!(ledger.take_unread().is_empty());
}

#[test]
fn what_was_discarded_and_touched_again_before_the_reading_is_two_moves() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.apply(&Event::Look(look(how::ZAP, 1, 28)));
    let moves = ledger.apply(&fault(VA, pte(9), 0));
    let story: Vec<_> = moves.iter().map(|m| (m.cause, m.from, m.to)).collect();
    assert_eq!(
        story,
        [
            (Cause::Discard, present(7), PageState::Absent),
            (Cause::FirstTouch, PageState::Absent, present(9))
        ]
    );
}

#[test]
fn what_happened_before_the_seeding_is_not_told_again() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 9), false);
    ledger.seeded(VA.page_number()..VA.page_number() + 1, 1000);
    let at = |mut event: Event, t_ns| {
        match &mut event {
            Event::Fault(f) => f.header.t_ns = t_ns,
            Event::MigrationSet(m) | Event::MigrationRemove(m) => m.header.t_ns = t_ns,
            _ => {}
        }
        event
    };
    assert!(ledger.apply(&at(fault(VA, pte(7), 0), 900)).is_empty());
    assert!(ledger.apply(&at(set(VA, 7), 910)).is_empty());
    assert!(ledger.apply(&at(remove(VA, 9), 920)).is_empty());
    assert_eq!(ledger.pages.get(VA.page_number()), present(9));
    ledger.apply(&at(set(VA, 9), 1010));
    assert_eq!(ledger.apply(&at(remove(VA, 11), 1020))[0].from, present(9));
}

#[test]
fn a_migration_under_way_at_the_seeding_is_one_move() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 62 | 700 << 5 | 28), false);
    ledger.seeded(VA.page_number()..VA.page_number() + 1, 1000);
    let Event::MigrationSet(mut begin) = set(VA, 700) else {
        unreachable!()
    };
    begin.header.t_ns = 900;
    ledger.apply(&Event::MigrationSet(begin));
    let Event::MigrationRemove(mut done) = remove(VA, 800) else {
        unreachable!()
    };
    done.header.t_ns = 1100;
    let moves = ledger.apply(&Event::MigrationRemove(done));
    assert_eq!((moves[0].from, moves[0].to), (present(700), present(800)));
}

/// pagemap shows nothing of a page of hugetlb meanwhile.
#[test]
fn a_page_that_is_not_shown_while_it_moves_is_not_gone_until_it_is_read_again() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.apply(&set(VA, 7));
    ledger.take_unread();
    assert!(reread(&mut ledger, &[]).is_empty());
    let first = VA.page_number() & !511;
    assert_eq!(ledger.take_unread(), [first..first + 512]);
    let moves = ledger.apply(&remove(VA, 8));
    assert_eq!((moves[0].from, moves[0].to), (present(7), present(8)));
    // One that went without a word is told by the next reading; one whose mapping is gone, at once.
    for (mapped, readings) in [(true, 2), (false, 1)] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
        ledger.apply(&set(VA, 7));
        let page = VA.page_number();
        let mut told = Vec::new();
        for _ in 0..readings {
            assert!(told.is_empty());
            ledger.compare(page..page + 1, &[]);
            told = ledger.confirm(1, |_| mapped);
        }
        assert_eq!((told.len(), told[0].to), (1, PageState::Absent));
    }
}

#[test]
fn a_migration_under_way_at_the_seeding_that_is_given_up_is_no_move() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 62 | 700 << 5 | 28), false);
    assert!(ledger.apply(&remove(VA, 700)).is_empty());
    ledger.seed(VA, PagemapWord(1 << 62 | 700 << 5 | 28), false);
    let moves = ledger.apply(&remove(VA, 800));
    assert_eq!((moves[0].from, moves[0].to), (present(700), present(800)));
}

#[test]
fn the_seedings_are_kept_while_an_event_may_be_older_than_the_last_of_them() {
    const SECOND: u64 = 1_000_000_000;
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let page = VA.page_number();
    let last = page + 1000;
    for (page, began_ns) in (page..last).zip(1000..) {
        ledger.seeded(page..page + 1, began_ns);
    }
    ledger.seeded(last..last + 1, 10 * SECOND);
    let at = |page: u64, t_ns| match fault(VirtAddr(page * PAGE_SIZE), pte(7), 0) {
        Event::Fault(mut fault) => {
            fault.header.t_ns = t_ns;
            Event::Fault(fault)
        }
        other => other,
    };
    assert_eq!(ledger.apply(&at(last + 1, 5 * SECOND)).len(), 1);
    assert!(ledger.apply(&at(page + 500, 1499)).is_empty());
    assert_eq!(ledger.apply(&at(page + 500, 1500)).len(), 1);
    assert!(ledger.apply(&at(last, 9 * SECOND)).is_empty());
    ledger.apply(&at(last + 1, 11 * SECOND));
    assert_eq!(ledger.apply(&at(last, 9 * SECOND)).len(), 1);
}
