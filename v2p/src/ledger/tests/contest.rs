//! Two threads on one page: one takes it away while the other touches it again.

use super::*;

const TOUCHES: u32 = 7;
const TAKES: u32 = 8;

fn of(tid: u32, seq: u64, event: Event) -> Event {
    let stamped = |header: event::Header| event::Header { tid, seq, ..header };
    match event {
        Event::Fault(fault) => Event::Fault(event::Fault {
            header: stamped(fault.header),
            ..fault
        }),
        Event::Look(look) => Event::Look(event::Look {
            header: stamped(look.header),
            ..look
        }),
        other => other,
    }
}

fn touched(seq: u64, pfn: u64) -> Event {
    let Event::Fault(fault) = fault(VA, pte(pfn), 0) else {
        unreachable!("made as a fault");
    };
    let flags = fault::CONTESTED;
    of(TOUCHES, seq, Event::Fault(event::Fault { flags, ..fault }))
}

/// madvise.
fn taken(tid: u32, seq: u64) -> Event {
    of(tid, seq, Event::Look(look(how::ZAP, 1, zap::WHOLE | 28)))
}

fn weighing() -> Ledger {
    Ledger::new(None, PAGING).weighing_contests(true)
}

fn seeing(pfn: u64) -> Ledger {
    let mut ledger = weighing().seeing_removals(true);
    ledger.seed(VA, PagemapWord(1 << 63 | pfn), false);
    ledger
}

fn story(moves: &[Move]) -> Vec<(PageState, PageState, Cause, Option<u32>)> {
    let tell = |m: &Move| (m.from, m.to, m.cause, m.by.map(|by| by.tid));
    moves.iter().map(tell).collect()
}

#[test]
fn a_page_touched_again_while_it_was_being_taken_was_not_copied() {
    let mut ledger = seeing(1);
    assert!(ledger.apply(&touched(1, 2)).is_empty());
    let moves = ledger.apply(&taken(TAKES, 2));
    let absent = PageState::Absent;
    assert_eq!(
        story(&moves),
        [
            (present(1), absent, Cause::Discard, Some(TAKES)),
            (absent, present(2), Cause::FirstTouch, Some(TOUCHES)),
        ]
    );
    assert!(reread(&mut ledger, &[word(0, 2)]).is_empty());
    assert!(reread(&mut ledger, &[word(0, 2)]).is_empty());
}

#[test]
fn a_page_that_nobody_takes_was_copied() {
    let mut ledger = seeing(1);
    assert!(ledger.apply(&touched(1, 2)).is_empty());
    assert!(reread(&mut ledger, &[word(0, 2)]).is_empty());
    let moves = reread(&mut ledger, &[word(0, 2)]);
    let copied = (present(1), present(2), Cause::Cow, Some(TOUCHES));
    assert_eq!(story(&moves), [copied]);
    // What comes after tells it, and so does the end.
    let mut ledger = seeing(1);
    ledger.apply(&touched(1, 2));
    ledger.apply(&set(VA, 2));
    let moves = ledger.apply(&remove(VA, 3));
    assert_eq!(story(&moves)[0], copied);
    let mut ledger = seeing(1);
    ledger.apply(&touched(1, 2));
    assert_eq!(story(&ledger.end(9))[0], copied);
}

#[test]
fn a_page_that_came_while_it_was_being_taken_is_read() {
    let came = |ledger: &mut Ledger| {
        assert_eq!(ledger.apply(&touched(1, 2))[0].cause, Cause::FirstTouch);
        assert!(ledger.apply(&taken(TAKES, 2)).is_empty());
        let first = VA.page_number();
        assert_eq!(
            ledger.take_unread().first(),
            Some(&(first & !511..first + 512))
        );
    };
    let mut ledger = weighing().seeing_removals(true);
    came(&mut ledger);
    assert!(reread(&mut ledger, &[word(0, 2)]).is_empty());
    let mut ledger = weighing().seeing_removals(true);
    came(&mut ledger);
    let moves = reread(&mut ledger, &[]);
    assert_eq!(
        story(&moves),
        [(present(2), PageState::Absent, Cause::Discard, Some(TAKES))]
    );
    assert_eq!(moves[0].proof, Proof::Event);
}

#[test]
fn what_cannot_have_been_before_the_fault_is_believed() {
    // Of the same thread; or begun after it.
    for (earlier, by) in [(None, TOUCHES), (Some(2), TAKES)] {
        let mut ledger = weighing().seeing_removals(true);
        ledger.apply(&touched(1, 2));
        if let Some(seq) = earlier {
            let Event::Look(look) = taken(TAKES, seq) else {
                unreachable!("made as a look");
            };
            let va = VA.0 + PAGE_SIZE;
            ledger.apply(&Event::Look(event::Look { va, ..look }));
        }
        let moves = ledger.apply(&taken(by, 3));
        assert_eq!(moves.len(), 1);
        assert_eq!(
            (moves[0].from, moves[0].to),
            (present(2), PageState::Absent)
        );
    }
}

#[test]
fn where_removals_are_not_seen_to_begin_any_other_thread_may_have_been_at_one() {
    let mut ledger = weighing();
    ledger.seed(VA, PagemapWord(1 << 63 | 1), false);
    let plain = |seq, pfn| of(TOUCHES, seq, fault(VA, pte(pfn), 0));
    // Alone it is not a contest.
    let moves = ledger.apply(&plain(1, 2));
    assert_eq!(moves[0].cause, Cause::Unknown);
    assert_eq!(ledger.apply(&taken(TAKES, 2)).len(), 1);
    ledger.apply(&plain(3, 3));
    assert!(ledger.apply(&plain(4, 4)).is_empty());
    assert_eq!(ledger.apply(&taken(TAKES, 5)).len(), 2);
    assert_eq!(ledger.pages.get(VA.page_number()), present(4));
}

#[test]
fn nothing_waits_where_nobody_asks_for_it_again() {
    let mut ledger = Ledger::new(None, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 1), false);
    assert_eq!(ledger.apply(&touched(1, 2)).len(), 1);
}
