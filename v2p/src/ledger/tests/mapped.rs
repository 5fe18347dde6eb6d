//! Pages that come with the one that was touched.

use v2p_common::{call, event::mapped};

use super::*;

/// `pages` pages from the one at `VA` on, in frames from `pfn` on, mapped by the event of number `seq`.
fn mapped_as(pages: u64, pfn: u64, (seq, detail): (u64, u64)) -> Event {
    let mut look = event::Look {
        entry: pte(pfn),
        level: 0,
        ..look(how::MAPPED, pages, detail)
    };
    look.header.seq = seq;
    Event::Look(look)
}

/// All of `pages` pages went.
fn zapped(pages: u64, seq: u64, tid: u32) -> Event {
    let mut look = look(how::ZAP, pages, zap::WHOLE | 11);
    look.header.seq = seq;
    look.header.tid = tid;
    Event::Look(look)
}

fn told(moves: &[Move]) -> Vec<(Cause, u64, PageState, PageState, Proof)> {
    let told = moves.iter();
    told.map(|m| (m.cause, m.pages, m.from, m.to, m.proof))
        .collect()
}

#[test]
fn neighbours_are_told_with_their_frames_and_their_end() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    let came = ledger.apply(&mapped_as(4, 100, (1, 0)));
    let absent = PageState::Absent;
    let event = Proof::Event;
    assert_eq!(
        told(&came),
        [(Cause::FirstTouch, 4, absent, present(100), event)]
    );
    // The fault that it was for, and what is mapped already, tell nothing anew.
    assert!(ledger.apply(&fault(VA, pte(100), 0)).is_empty());
    assert!(ledger.apply(&mapped_as(4, 100, (2, 0))).is_empty());
    let copied = ledger.apply(&fault(VirtAddr(VA.0 + PAGE_SIZE), pte(500), 0));
    assert_eq!(
        told(&copied),
        [(Cause::Cow, 1, present(101), present(500), event)]
    );
    let gone: u64 = ledger
        .apply(&zapped(4, 3, 42))
        .iter()
        .map(|m| m.pages)
        .sum();
    assert_eq!((gone, ledger.len()), (4, 0));
}

#[test]
fn a_removal_that_was_under_way_may_have_been_before() {
    for (detail, gone) in [(0, 2), (mapped::CONTESTED, 0)] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING)
            .seeing_removals(true)
            .weighing_contests(true);
        assert_eq!(ledger.apply(&mapped_as(2, 100, (5, detail))).len(), 1);
        let moves = ledger.apply(&zapped(2, 6, 43));
        assert_eq!(moves.iter().map(|m| m.pages).sum::<u64>(), gone);
        // What is there now says which.
        let words = [0, 1].map(|i| (VA.page_number() + i, PagemapWord(1 << 63 | (100 + i))));
        ledger.compare(VA.page_number()..VA.page_number() + 2, &words);
        let back: u64 = ledger.confirm(1, |_| true).iter().map(|m| m.pages).sum();
        assert_eq!(back, gone);
    }
}

#[test]
fn what_is_known_of_a_page_that_was_away_is_told_first() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    // Private copies of a file's pages may have been spared.
    let mut truncated = look(how::ZAP, 2, 77);
    truncated.header.seq = 1;
    assert!(ledger.apply(&Event::Look(truncated)).is_empty());
    let moves = ledger.apply(&mapped_as(1, 100, (2, 0)));
    let causes: Vec<_> = moves.iter().map(|m| (m.cause, m.from, m.to)).collect();
    let absent = PageState::Absent;
    assert_eq!(
        causes,
        [
            (Cause::Discard, present(7), absent),
            (Cause::FirstTouch, absent, present(100))
        ]
    );
}

#[test]
fn what_came_around_a_fault_is_told_where_nothing_was_known() {
    let page = |i: u64| VirtAddr(VA.0 + i * PAGE_SIZE);
    let mut ledger = Ledger::new(ZERO, PAGING);
    ledger.seed(page(1), PagemapWord(1 << 63 | 7), false);
    let clean = |pfn| pte(pfn) & !0x40;
    // Known; of zeros; written to; empty; and three that are new, two of them in a row.
    let entries = [
        0,
        clean(8),
        clean(5),
        pte(9),
        0,
        clean(60),
        clean(61),
        clean(80),
    ];
    let around = event::Around {
        header: header(event::kind::AROUND),
        va: VA.0,
        entries,
    };
    let moves = ledger.apply(&Event::Around(around));
    let absent = PageState::Absent;
    let event = Proof::Event;
    assert_eq!(
        told(&moves),
        [
            (Cause::FirstTouch, 2, absent, present(60), event),
            (Cause::FirstTouch, 1, absent, present(80), event)
        ]
    );
    assert_eq!(moves[0].va, Hex(page(5).0));
    assert!(ledger.apply(&Event::Around(around)).is_empty());
}

#[test]
fn what_is_sure_to_have_gone_and_is_around_a_fault_has_come_back() {
    let clean = |pfn| pte(pfn) & !0x40;
    let mut ledger = Ledger::new(ZERO, PAGING);
    for i in 0..3 {
        let va = VirtAddr(VA.0 + i * PAGE_SIZE);
        ledger.seed(va, PagemapWord(1 << 63 | (60 + i)), false);
    }
    let done = |seq, detail| {
        let mut look = look(how::ZAP, 2, detail);
        look.header.seq = seq;
        Event::Look(look)
    };
    let came = |seq| {
        let mut around = event::Around {
            header: header(event::kind::AROUND),
            va: VA.0,
            entries: [clean(60), clean(91), clean(62), 0, 0, 0, 0, 0],
        };
        around.header.seq = seq;
        Event::Around(around)
    };
    // A call that failed may have taken nothing.
    assert!(
        ledger
            .apply(&done(1, call::MADVISE | zap::PERHAPS))
            .is_empty()
    );
    assert!(ledger.apply(&came(2)).is_empty());
    assert!(ledger.apply(&done(3, call::MADVISE)).is_empty());
    let moves = ledger.apply(&came(4));
    let (absent, event) = (PageState::Absent, Proof::Event);
    assert_eq!(
        told(&moves),
        [
            (Cause::Discard, 2, present(60), absent, event),
            (Cause::FirstTouch, 1, absent, present(60), event),
            (Cause::FirstTouch, 1, absent, present(91), event),
        ]
    );
    assert!(ledger.apply(&came(5)).is_empty());
}

#[test]
fn what_is_sure_to_have_gone_and_lies_elsewhere_was_filled_in() {
    let page = VA.page_number();
    for (detail, causes) in [
        (call::MMAP, &[Cause::Unmap, Cause::FirstTouch] as &[Cause]),
        (call::MMAP | zap::PERHAPS, &[Cause::Unknown]),
    ] {
        let mut ledger = Ledger::new(ZERO, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
        ledger.apply(&Event::Look(look(how::ZAP, 2, detail)));
        for range in ledger.take_unread() {
            ledger.compare(range, &[(page, PagemapWord(1 << 63 | 100))]);
        }
        let moves = ledger.confirm(1, |_| true);
        let found: Vec<_> = moves.iter().map(|m| m.cause).collect();
        assert_eq!(found, causes);
    }
}

#[test]
fn what_is_around_a_fault_tells_nothing_new_where_events_were_lost() {
    let mut ledger = Ledger::new(ZERO, PAGING);
    ledger.missed();
    let around = event::Around {
        header: header(event::kind::AROUND),
        va: VA.0,
        entries: [pte(60) & !0x40; event::AROUND],
    };
    assert!(ledger.apply(&Event::Around(around)).is_empty());
}

#[test]
fn what_nothing_has_taken_away_yet_waits_for_it_or_has_no_cause() {
    let known = || {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING)
            .seeing_removals(true)
            .weighing_contests(true);
        ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
        ledger
    };
    // Somebody is at it, or the page came back in its frame.
    for (pfn, detail) in [(100, mapped::CONTESTED), (7, 0)] {
        let mut ledger = known();
        let moves = ledger.apply(&mapped_as(1, pfn, (1, detail)));
        assert!(moves.is_empty(), "{moves:?}");
        assert!(!ledger.take_unread().is_empty());
    }
    let mut ledger = known();
    let moves = ledger.apply(&mapped_as(1, 100, (1, 0)));
    let absent = PageState::Absent;
    let event = Proof::Event;
    assert_eq!(
        told(&moves),
        [
            (Cause::Unknown, 1, present(7), absent, event),
            (Cause::FirstTouch, 1, absent, present(100), event)
        ]
    );
    assert!(moves[0].by.is_none());
    // The fault that it was for finds nothing to tell.
    assert!(ledger.apply(&fault(VA, pte(100), 0)).is_empty());
}

#[test]
fn what_else_may_have_brought_a_page_is_not_the_fault_beside_it() {
    let around = event::Around {
        header: header(event::kind::AROUND),
        va: VA.0,
        entries: [pte(60) & !0x40, 0, 0, 0, 0, 0, 0, 0],
    };
    // Entries came from elsewhere; it is written to, and read-only since; a reading found it.
    let mut moved = Ledger::new(ZERO, PAGING);
    let mut remap = look(how::REMAP, 1, event::remap::LATE);
    remap.other = VA.0;
    remap.va = VA.0 + (1 << 30);
    moved.apply(&Event::Look(remap));
    assert!(moved.apply(&Event::Around(around)).is_empty());
    let mut written = Ledger::new(ZERO, PAGING);
    let mut saved = around;
    saved.entries[0] |= v2p_common::pte::SAVED_DIRTY;
    assert!(written.apply(&Event::Around(saved)).is_empty());
    let mut read = Ledger::new(ZERO, PAGING);
    let page = VA.page_number();
    read.compare(page..page + 1, &[(page, PagemapWord(1 << 63 | 60))]);
    assert!(read.apply(&Event::Around(around)).is_empty());
    let moves = read.confirm(1, |_| true);
    assert_eq!(moves[0].proof, Proof::Reconciled);
    // Else it is.
    assert_eq!(
        Ledger::new(ZERO, PAGING)
            .apply(&Event::Around(around))
            .len(),
        1
    );
}

#[test]
fn a_page_in_the_place_of_a_mark_that_went_is_a_first_touch() {
    let mut ledger = Ledger::new(ZERO, PAGING).seeing_removals(true);
    ledger.pages.put(VA.page_number(), PageState::Guard);
    let moves = ledger.apply(&mapped_as(1, 100, (1, 0)));
    assert_eq!(moves.len(), 1);
    assert_eq!(
        (moves[0].cause, moves[0].from),
        (Cause::FirstTouch, PageState::Guard)
    );
}
