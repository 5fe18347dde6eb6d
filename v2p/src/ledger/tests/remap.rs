//! Entries that go to another address.

use v2p_common::event::remap;

use super::*;

/// From `from` to `VA`.
fn moved_here(from: u64, detail: u64) -> Event {
    Event::Look(event::Look {
        va: from,
        other: VA.0,
        level: u32::MAX,
        ..look(how::REMAP, 1, detail)
    })
}

const ELSEWHERE: u64 = 0x7e00_0000_0000;

#[test]
fn a_page_that_came_from_where_nobody_asked_came_by_the_remap() {
    let asked = [Range {
        start: VA.0,
        end: VA.0 + PAGE_SIZE,
    }];
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).limited_to(&asked);
    assert!(ledger.apply(&moved_here(ELSEWHERE, 0)).is_empty());
    let moves = reread(&mut ledger, &[word(0, 100)]);
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert_eq!(
        (moves[0].cause, moves[0].proof),
        (Cause::Remap, Proof::Event)
    );
    assert_eq!(
        (moves[0].from, moves[0].to),
        (PageState::Absent, present(100))
    );
}

#[test]
fn a_remap_told_late_does_not_carry_away_what_came_since() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VirtAddr(ELSEWHERE), PagemapWord(1 << 63 | 100), false);
    // Another thread has mapped the old place anew, and touched it.
    let came = ledger.apply(&fault(VirtAddr(ELSEWHERE), pte(300), 0));
    assert_eq!(came[0].to, present(300));
    assert!(ledger.apply(&moved_here(ELSEWHERE, remap::LATE)).is_empty());
    let there = (ELSEWHERE / PAGE_SIZE, PagemapWord(1 << 63 | 300));
    let moves = reread(&mut ledger, &[there, word(0, 100)]);
    let told: Vec<_> = moves.iter().map(|m| (m.va.0, m.to, m.cause)).collect();
    assert_eq!(told, [(VA.0, present(100), Cause::Remap)]);
}

#[test]
fn what_a_remap_told_late_came_to_lie_on_is_replaced_by_it() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.apply(&moved_here(ELSEWHERE, remap::LATE));
    let moves = reread(&mut ledger, &[word(0, 100)]);
    assert_eq!((moves[0].from, moves[0].to), (present(7), present(100)));
    assert_eq!(
        (moves[0].cause, moves[0].proof),
        (Cause::Remap, Proof::Event)
    );
}

/// The page at `VA` came from elsewhere, by an event of its time.
fn arrived() -> Ledger {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    ledger.seed(VirtAddr(ELSEWHERE), PagemapWord(1 << 63 | 100), false);
    assert_eq!(ledger.apply(&moved_here(ELSEWHERE, 0)).len(), 2);
    ledger
}

fn story(moves: &[Move]) -> Vec<(u64, PageState, PageState, Cause)> {
    let tell = |m: &Move| (m.va.0, m.from, m.to, m.cause);
    moves.iter().map(tell).collect()
}

fn end(number: u64) -> Event {
    Event::MmGone(event::Number {
        header: header(event::kind::MM_GONE),
        number,
    })
}

#[test]
fn what_came_by_a_remap_does_not_go_by_it() {
    for (number, cause) in [(0, Cause::Exit), (1, Cause::Exec)] {
        let told = arrived().apply(&end(number));
        assert_eq!(
            story(&told),
            [(VA.0, present(100), PageState::Absent, cause)]
        );
    }
    let told = arrived().apply(&fault(VA, pte(300), 0));
    assert_eq!(
        story(&told),
        [(VA.0, present(100), present(300), Cause::Cow)]
    );
    let first = VA.page_number();
    let child = arrived().forked(std::slice::from_ref(&(first..first + 1)));
    assert_eq!(child.pages.get(first), present(100));
}

/// From one address to another, told late, as the event of this number.
fn remapped(from: u64, to: u64, pages: u64, seq: u64) -> Event {
    let Event::Look(mut remapped) = moved_here(from, remap::LATE) else {
        unreachable!("made as a look");
    };
    remapped.header.seq = seq;
    Event::Look(event::Look {
        other: to,
        len: pages * PAGE_SIZE,
        ..remapped
    })
}

const NOTHING: PageState = PageState::Absent;

#[test]
fn what_a_remap_told_late_took_elsewhere_ends_there() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    for i in 0..2 {
        let va = VirtAddr(ELSEWHERE + i * PAGE_SIZE);
        ledger.seed(va, PagemapWord(1 << 63 | (100 + i)), false);
    }
    ledger.apply(&remapped(ELSEWHERE, VA.0, 2, 1));
    let told = ledger.apply(&end(0));
    let expected = [
        (ELSEWHERE, present(100), NOTHING, Cause::Remap),
        (VA.0, NOTHING, present(100), Cause::Remap),
        (VA.0, present(100), NOTHING, Cause::Exit),
    ];
    assert_eq!(story(&told), expected);
    assert!(told.iter().all(|m| m.pages == 2 && m.proof == Proof::Event));
}

#[test]
fn what_went_on_or_was_unmapped_elsewhere_is_told_to_its_end() {
    const MUNMAP: u64 = 11;
    const FURTHER: u64 = ELSEWHERE + 64 * PAGE_SIZE;
    let mut unmapped = look(how::ZAP, 1, MUNMAP);
    unmapped.header.seq = 2;
    let gone = (VA.0, present(100), NOTHING, Cause::Unmap);
    let on = [
        (VA.0, present(100), NOTHING, Cause::Remap),
        (FURTHER, NOTHING, present(100), Cause::Remap),
        (FURTHER, present(100), NOTHING, Cause::Exit),
    ];
    for (event, then) in [
        (Event::Look(unmapped), &[gone][..]),
        (remapped(VA.0, FURTHER, 1, 2), &on[..]),
    ] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        ledger.seed(VirtAddr(ELSEWHERE), PagemapWord(1 << 63 | 100), false);
        // What was done there before took nothing of it.
        ledger.apply(&Event::Look(look(how::ZAP, 1, MUNMAP)));
        ledger.apply(&remapped(ELSEWHERE, VA.0, 1, 1));
        ledger.apply(&event);
        let there = [
            (ELSEWHERE, present(100), NOTHING, Cause::Remap),
            (VA.0, NOTHING, present(100), Cause::Remap),
        ];
        let told = story(&ledger.apply(&end(0)));
        assert_eq!(told, [&there[..], then].concat());
    }
}

/// Others have told of the page there: which of them was first is not known.
#[test]
fn where_something_is_known_at_the_new_place_nothing_is_made_up_about_it() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VirtAddr(ELSEWHERE), PagemapWord(1 << 63 | 100), false);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.apply(&remapped(ELSEWHERE, VA.0, 1, 1));
    let told = story(&ledger.apply(&end(0)));
    let expected = [
        (ELSEWHERE, present(100), NOTHING, Cause::Remap),
        (VA.0, present(7), NOTHING, Cause::Exit),
    ];
    assert_eq!(told, expected);
}
