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
    Ledger::new(ZeroFrames::UNKNOWN, PAGING).weighing_contests(true)
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
fn what_was_replaced_while_it_may_have_been_taken_has_no_cause() {
    let mut ledger = seeing(1);
    let moves = ledger.apply(&touched(1, 2));
    let replaced = (present(1), present(2), Cause::Unknown, Some(TOUCHES));
    assert_eq!(story(&moves), [replaced]);
    // The removal was of what lay there before.
    assert!(ledger.apply(&taken(TAKES, 2)).is_empty());
    assert!(reread(&mut ledger, &[word(0, 2)]).is_empty());
    // The CPU said that it was there: it was copied.
    let Event::Fault(fault) = touched(1, 2) else {
        unreachable!("made as a fault");
    };
    let flags = fault.flags | fault::PROTECTION;
    let moves = seeing(1).apply(&Event::Fault(event::Fault { flags, ..fault }));
    assert_eq!(moves[0].cause, Cause::Cow);
}

/// The fault saw its page, which was taken away before that had its number.
#[test]
fn what_replaces_a_page_that_may_have_gone_already_is_no_copy() {
    let plain = |seq, pfn| of(TOUCHES, seq, fault(VA, pte(pfn), 0));
    for (read, cause) in [(false, Cause::Unknown), (true, Cause::Cow)] {
        let mut ledger = weighing().seeing_removals(true);
        assert!(ledger.apply(&taken(TAKES, 1)).is_empty());
        assert_eq!(ledger.apply(&touched(2, 1))[0].cause, Cause::FirstTouch);
        if read {
            assert!(reread(&mut ledger, &[word(0, 1)]).is_empty());
        }
        let moves = ledger.apply(&plain(3, 2));
        let replaced = (present(1), present(2), cause, Some(TOUCHES));
        assert_eq!(story(&moves), [replaced]);
        // Nobody was at taking it away as this fault ended.
        assert_eq!(ledger.apply(&plain(4, 3))[0].cause, Cause::Cow);
        let moves = ledger.apply(&taken(TAKES, 5));
        let gone = (present(3), PageState::Absent, Cause::Discard, Some(TAKES));
        assert_eq!(story(&moves), [gone]);
    }
}

#[test]
fn who_collapsed_what_a_fault_finds_huge_tells_so_next_or_nobody_does() {
    let huge = || {
        let mut ledger = weighing().seeing_removals(true);
        for i in 0..512 {
            let va = VirtAddr(VA.0 + i * PAGE_SIZE);
            ledger.seed(va, PagemapWord(1 << 63 | (7 + 3 * i)), false);
        }
        let found = of(TOUCHES, 1, fault(VA, pte(512 * 9) | 1 << 7, 1));
        assert!(ledger.apply(&found).is_empty());
        ledger
    };
    let is_told = |moves: &[Move], by| {
        let there = |m: &&Move| m.to != PageState::Absent;
        let of_it = moves.iter().filter(there);
        assert_eq!(of_it.clone().map(|m| m.pages).sum::<u64>(), 512);
        for m in of_it {
            let told = (m.cause, m.proof, m.by.map(|by| by.tid));
            assert_eq!(told, (Cause::Collapse, Proof::Event, by));
        }
    };
    let end = event::Look {
        entry: pte(512 * 9) | 1 << 7,
        level: 1,
        ..look(how::COLLAPSE, 512, 0)
    };
    is_told(&huge().apply(&of(TAKES, 2, Event::Look(end))), Some(TAKES));
    // It could not say where.
    let somewhere = Event::Look(look(how::COLLAPSE, 512, 0));
    is_told(&huge().apply(&of(TAKES, 2, somewhere)), Some(TAKES));
    let mut ledger = huge();
    let moves = ledger.apply(&of(
        TAKES,
        2,
        Event::Look(look(how::ZAP, 512, zap::WHOLE | 28)),
    ));
    is_told(&moves, None);
    assert_eq!(moves.last().unwrap().from, present(512 * 9));
    let whole: Vec<_> = (0..512).map(|i| word(i, 512 * 9 + i)).collect();
    is_told(&reread(&mut huge(), &whole), None);
    let mut moves = Vec::new();
    huge().end(3, &mut |one| moves.push(one));
    is_told(&moves, None);
}

#[test]
fn a_page_that_kept_its_frame_while_it_was_taken_is_read() {
    let mut ledger = seeing(1);
    assert!(ledger.apply(&touched(1, 1)).is_empty());
    assert!(ledger.apply(&taken(TAKES, 2)).is_empty());
    assert!(reread(&mut ledger, &[word(0, 1)]).is_empty());
}

#[test]
fn the_last_removals_are_believed() {
    let mut ledger = seeing(1);
    ledger.apply(&touched(1, 2));
    ledger.read_for_the_last_time();
    let moves = ledger.apply(&taken(TAKES, 2));
    assert_eq!(
        story(&moves),
        [(present(2), PageState::Absent, Cause::Discard, Some(TAKES))]
    );
}

#[test]
fn no_removal_is_waited_for_for_ever() {
    let mut ledger = seeing(1);
    ledger.apply(&touched(1, 2));
    for _ in 0..10 {
        assert!(reread(&mut ledger, &[word(0, 2)]).is_empty());
    }
    assert_eq!(ledger.apply(&taken(TAKES, 2)).len(), 1);
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
fn where_removals_are_not_seen_any_other_thread_may_have_been_at_one() {
    let mut ledger = weighing();
    ledger.seed(VA, PagemapWord(1 << 63 | 1), false);
    let plain = |seq, pfn| of(TOUCHES, seq, fault(VA, pte(pfn), 0));
    // Of one thread alone nothing is contested.
    ledger.apply(&plain(1, 2));
    assert_eq!(ledger.apply(&taken(TAKES, 2)).len(), 1);
    assert_eq!(ledger.apply(&plain(3, 3))[0].cause, Cause::FirstTouch);
    assert!(ledger.apply(&taken(TAKES, 4)).is_empty());
    assert!(reread(&mut ledger, &[word(0, 3)]).is_empty());
}

#[test]
fn where_nothing_is_read_again_removals_are_believed() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.apply(&touched(1, 2));
    assert_eq!(ledger.apply(&taken(TAKES, 2)).len(), 1);
}

/// Of a page that was there, this fault finds nothing any more, or what goes to swap.
fn finds(entry: u64) -> Event {
    of(TOUCHES, 1, fault(VA, entry, 0))
}

#[test]
fn a_fault_that_finds_nothing_any_more_leaves_it_to_what_took_the_page() {
    let mut ledger = seeing(1);
    assert!(ledger.apply(&finds(0)).is_empty());
    let moves = ledger.apply(&taken(TAKES, 2));
    let gone = (present(1), PageState::Absent, Cause::Discard, Some(TAKES));
    assert_eq!(story(&moves), [gone]);
    // Nobody tells of it: it is read, and found gone.
    let mut ledger = seeing(1);
    assert!(ledger.apply(&finds(0)).is_empty());
    let first = VA.page_number() & !511;
    assert_eq!(ledger.take_unread(), [first..first + 512]);
    assert_eq!(reread(&mut ledger, &[])[0].proof, Proof::Reconciled);
}

#[test]
fn a_fault_whose_page_went_to_swap_meanwhile_leaves_it_to_what_took_it() {
    const SLOT: u64 = (!5 << 14) >> 5;
    let swap = PageState::Swapped {
        swap: Some(crate::state::SwapPlace {
            device: 0,
            offset: 5,
        }),
    };
    let mut ledger = seeing(1);
    assert!(ledger.apply(&finds(SLOT)).is_empty());
    let out = event::Look {
        entry: SLOT,
        level: 0,
        ..look(how::UNMAP_ONE, 1, event::memory::ANONYMOUS)
    };
    let moves = ledger.apply(&of(TAKES, 2, Event::Look(out)));
    let gone = (present(1), swap, Cause::SwapOut, Some(TAKES));
    assert_eq!(story(&moves), [gone]);
}

#[test]
fn where_no_reading_is_to_come_a_fault_that_finds_nothing_is_believed() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 1), false);
    assert_eq!(ledger.apply(&finds(0)).len(), 1);
}
