//! What went to swap with many others, and what is not known after a loss.

use v2p_common::{
    control::BLOCK_PAGES,
    event::{gone, memory},
};

use super::*;

const SWAPPED: PageState = PageState::Swapped { swap: None };
const MUNMAP: u64 = 11;

/// A ledger that sees removals, in which the page at `VA` and its neighbour lie in frames 100 and 101, and have gone to swap as one
/// folio.
fn swapped_out() -> Ledger {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    for i in 0..2 {
        let va = VirtAddr(VA.0 + i * PAGE_SIZE);
        ledger.seed(va, PagemapWord(1 << 63 | (100 + i)), false);
    }
    let out = Event::Look(look(how::UNMAP_ONE, 2, memory::ANONYMOUS));
    assert!(ledger.apply(&out).is_empty(), "which slots is not known");
    ledger
}

fn story(moves: &[Move]) -> Vec<(PageState, PageState, Cause)> {
    let pages = moves.iter().filter(|m| m.va.0 == VA.0);
    pages.map(|m| (m.from, m.to, m.cause)).collect()
}

#[test]
fn what_went_to_swap_and_came_back_at_once_is_both() {
    let mut ledger = swapped_out();
    let told = ledger.apply(&fault(VA, pte(300), 0));
    let expected = [
        (present(100), SWAPPED, Cause::SwapOut),
        (SWAPPED, present(300), Cause::SwapIn),
    ];
    assert_eq!(story(&told), expected);
    // The other one is where the reading finds it.
    let swap = PagemapWord(1 << 62 | 5 << 5);
    let told = reread(&mut ledger, &[word(0, 300), (VA.page_number() + 1, swap)]);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].from, told[0].cause),
        (present(101), Cause::SwapOut)
    );
    assert!(told[0].seq.is_some(), "by an event");
}

#[test]
fn what_went_to_swap_before_the_end_or_its_unmapping_did_that_first() {
    let end = Event::MmGone(event::Number {
        header: header(event::kind::MM_GONE),
        number: gone::EXIT,
    });
    let unmap = Event::Look(look(how::ZAP, 2, zap::WHOLE | MUNMAP));
    for (event, cause) in [(end, Cause::Exit), (unmap, Cause::Unmap)] {
        let mut ledger = swapped_out();
        let told = ledger.apply(&event);
        let expected = [
            (present(100), SWAPPED, Cause::SwapOut),
            (SWAPPED, PageState::Absent, cause),
        ];
        assert_eq!(story(&told), expected);
        assert_eq!(told.iter().map(|m| m.pages).sum::<u64>(), 4);
    }
}

#[test]
fn what_was_given_to_be_freed_is_discarded() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
    ledger.apply(&Event::Look(look(how::UNMAP_ONE, 2, memory::FREED)));
    let told = ledger.apply(&fault(VA, pte(300), 0));
    let expected = [
        (present(100), PageState::Absent, Cause::Discard),
        (PageState::Absent, present(300), Cause::FirstTouch),
    ];
    assert_eq!(story(&told), expected);
}

#[test]
fn a_collapse_that_names_its_huge_page_is_told_before_what_follows() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
    let collapse = event::Look {
        entry: pte(512 * 9) | 1 << 7,
        level: 1,
        ..look(how::COLLAPSE, BLOCK_PAGES as u64, 0)
    };
    let told = ledger.apply(&Event::Look(collapse));
    assert_eq!(story(&told)[0].1, present(512 * 9));
    assert!(told.iter().all(|m| m.cause == Cause::Collapse));
    assert_eq!(told.iter().map(|m| m.pages).sum::<u64>(), 512);
    let told = ledger.apply(&Event::Look(look(how::ZAP, 512, zap::WHOLE | MUNMAP)));
    assert_eq!(story(&told)[0].0, present(512 * 9));
}

#[test]
fn a_collapse_somewhere_explains_what_lies_in_a_whole_huge_page() {
    let whole: Vec<_> = (0..512).map(|i| word(i, 512 * 9 + i)).collect();
    for (words, cause) in [
        (&whole[..], Cause::Collapse),
        (&whole[..511], Cause::FirstTouch),
    ] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        ledger.apply(&Event::Look(look(how::COLLAPSE, 4096, 0)));
        let told = reread(&mut ledger, words);
        assert!(told.iter().all(|m| m.cause == cause), "{cause:?}: {told:?}");
    }
}

#[test]
fn what_may_have_been_merged_is_not_told_as_a_copy_of_what_it_was() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
    ledger.apply(&Event::Look(look(how::KSM_MERGE, 64, 0)));
    let mut write = fault(VA, pte(300), 0);
    if let Event::Fault(fault) = &mut write {
        fault.flags |= fault::PROTECTION;
    }
    assert_eq!(ledger.apply(&write)[0].cause, Cause::Unknown);
}

#[test]
fn after_a_loss_what_a_page_was_is_not_known() {
    let with = |flags| {
        let mut event = fault(VA, pte(300), 0);
        if let Event::Fault(fault) = &mut event {
            fault.flags |= flags;
        }
        event
    };
    for (flags, cause) in [(0, Cause::Unknown), (fault::EMPTY, Cause::FirstTouch)] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        ledger.missed();
        assert_eq!(ledger.apply(&with(flags))[0].cause, cause);
    }
    // The fault itself says that there was one, of which nobody told.
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let told = ledger.apply(&with(fault::PROTECTION));
    assert_eq!(told[0].cause, Cause::Unknown);
}

#[test]
fn what_lies_across_two_pages_speaks_for_neither_alone() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    let across = event::Look {
        va: VA.0 + PAGE_SIZE - 4,
        len: 8,
        entry: pte(300),
        level: 0,
        ..look(how::FILL, 1, 0)
    };
    assert!(ledger.apply(&Event::Look(across)).is_empty());
    let told = reread(&mut ledger, &[word(0, 300), word(1, 301)]);
    let pages: u64 = told.iter().map(|m| m.pages).sum();
    assert_eq!((pages, told[0].cause), (2, Cause::FirstTouch));
    assert!(told.iter().all(|m| m.seq.is_some()));
}

#[test]
fn the_slot_of_what_was_said_to_be_in_swap_is_no_move() {
    let mut ledger = swapped_out();
    let mut remap = look(how::REMAP, 1, 0);
    remap.other = VA.0 + 64 * PAGE_SIZE;
    let told = ledger.apply(&Event::Look(remap));
    assert_eq!((told.len(), told[2].to), (3, SWAPPED));
    let there = remap.other / PAGE_SIZE;
    let slot = PagemapWord(1 << 62 | 5 << 5);
    assert!(reread(&mut ledger, &[word(1, 101), (there, slot)]).is_empty());
    assert_ne!(ledger.pages.get(there), SWAPPED, "which slot is known now");
}
