//! The ledger by hand-made events.

use v2p_common::{
    VirtAddr,
    event::{self, fault, how, zap},
    pagemap::PagemapWord,
    pte::Paging,
};

mod contest;
mod deeds;
mod device;
mod mapped;
mod readings;
mod remap;
mod swap;

use super::*;
use crate::record::{Hex, Proof};

const PAGING: Paging = Paging {
    levels: 4,
    physical_mask: (1 << 52) - 1,
};
const VA: VirtAddr = VirtAddr(0x7f00_0000_0000);
const ZERO: ZeroFrames = ZeroFrames {
    page: Some(Pfn(5)),
    huge: None,
};

fn header(kind: u32) -> event::Header {
    event::Header {
        kind,
        comm: *b"kcompactd0\0\0\0\0\0\0",
        tid: 42,
        ..Default::default()
    }
}

fn pte(pfn: u64) -> u64 {
    pfn << 12 | 0x67
}

fn migration_entry(pfn: u64) -> u64 {
    28 << 59 | (!pfn << 14) >> 5
}

fn set(va: VirtAddr, pfn: u64) -> Event {
    Event::MigrationSet(event::Migration {
        header: header(event::kind::MIGRATION_SET),
        va: va.0,
        entry: migration_entry(pfn),
        ..Default::default()
    })
}

fn remove(va: VirtAddr, pfn: u64) -> Event {
    Event::MigrationRemove(event::Migration {
        header: header(event::kind::MIGRATION_REMOVE),
        va: va.0,
        entry: pte(pfn),
        ..Default::default()
    })
}

fn fault(va: VirtAddr, entry: u64, level: u32) -> Event {
    Event::Fault(event::Fault {
        header: header(event::kind::FAULT),
        va: va.0,
        entry,
        level,
        ..Default::default()
    })
}

fn present(pfn: u64) -> PageState {
    PageState::Present { pfn: Pfn(pfn) }
}

#[test]
fn a_migration_is_one_move_with_old_and_new_frame_and_the_mover() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
    assert!(ledger.apply(&set(VA, 100)).is_empty());
    let moves = ledger.apply(&remove(VA, 200));
    assert_eq!(moves.len(), 1);
    assert_eq!((moves[0].from, moves[0].to), (present(100), present(200)));
    assert_eq!(moves[0].cause, Cause::Migration);
    assert_eq!(moves[0].by.unwrap().comm.to_string(), "kcompactd0");
    assert_eq!(ledger.pages.get(VA.page_number()), present(200));
}

#[test]
fn the_end_of_much_is_told_while_it_goes_and_runs_stay_whole() {
    const PAGES: u64 = 20_000;
    let full = || {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
        for i in 0..PAGES {
            // Pairs lie together.
            let pfn = 100 + 10 * (i / 2) + i % 2;
            let va = VirtAddr(VA.0 + i * PAGE_SIZE);
            ledger.seed(va, PagemapWord(1 << 63 | pfn), false);
        }
        ledger
    };
    let gone = Event::MmGone(event::Number {
        header: header(event::kind::MM_GONE),
        number: event::gone::EXIT,
    });
    let zapped = Event::Look(look(how::ZAP, PAGES, zap::WHOLE | 11));
    for (event, cause) in [(gone, Cause::Exit), (zapped, Cause::Unmap)] {
        let mut ledger = full();
        let mut next = VA.0;
        ledger.tell(&event, &mut |one| {
            assert_eq!((one.va.0, one.pages, one.cause), (next, 2, cause));
            next += 2 * PAGE_SIZE;
        });
        assert_eq!((next, ledger.len()), (VA.0 + PAGES * PAGE_SIZE, 0));
    }
}

#[test]
fn an_aborted_migration_is_no_move() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
    ledger.apply(&set(VA, 100));
    assert!(ledger.apply(&remove(VA, 100)).is_empty());
}

#[test]
fn the_old_frame_is_the_events_even_where_the_ledger_was_behind() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    let gap = ledger.apply(&set(VA, 100));
    assert_eq!((gap[0].from, gap[0].to), (present(7), present(100)));
    let moves = ledger.apply(&remove(VA, 200));
    assert_eq!(moves[0].from, present(100));
}

#[test]
fn a_fault_that_finds_a_huge_page_where_base_pages_were_did_not_make_it() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    for i in 0..512 {
        ledger.seed(
            VirtAddr(VA.0 + i * PAGE_SIZE),
            PagemapWord(1 << 63 | (7 + 3 * i)),
            false,
        );
    }
    // A leaf of 2 MiB.
    let moves = ledger.apply(&fault(VA, 0x0100_0000 | 0xe7, 1));
    assert!(moves.iter().all(|one| one.cause == Cause::Collapse));
    assert_eq!(moves.iter().map(|one| one.pages).sum::<u64>(), 512);
    assert!(moves.iter().all(|one| one.by.is_none()));
}

#[test]
fn a_fault_on_nothing_is_a_first_touch_and_a_second_one_is_silent() {
    let mut ledger = Ledger::new(ZERO, PAGING);
    let moves = ledger.apply(&fault(VA, pte(5), 0));
    assert_eq!(
        (moves[0].cause, moves[0].to),
        (Cause::FirstTouch, PageState::Zero)
    );
    let moves = ledger.apply(&fault(VA, pte(9), 0));
    assert_eq!(
        (moves[0].cause, moves[0].from),
        (Cause::ZeroFill, PageState::Zero)
    );
    assert!(ledger.apply(&fault(VA, pte(9), 0)).is_empty());
}

#[test]
fn a_frame_that_changed_without_a_word_is_not_called_copy_on_write() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    assert_eq!(ledger.apply(&fault(VA, pte(9), 0))[0].cause, Cause::Unknown);
}

#[test]
fn a_huge_fault_is_one_move_of_512_pages() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let inside = VirtAddr(VA.0 + 0x3123);
    let moves = ledger.apply(&fault(inside, 0x4000_0000 | 0xe7, 1));
    assert_eq!(moves.len(), 1);
    assert_eq!((moves[0].va, moves[0].pages), (Hex(VA.0), 512));
    assert_eq!(ledger.pages.get(inside.page_number()), present(0x40003));
}

/// What a reading of the page at `VA` and its neighbours gives, as moves.
fn reread(ledger: &mut Ledger, words: &[(u64, PagemapWord)]) -> Vec<Move> {
    let first = VA.page_number();
    ledger.compare(first..first + 512, words);
    ledger.confirm(1, |_| true)
}

fn word(i: u64, pfn: u64) -> (u64, PagemapWord) {
    (VA.page_number() + i, PagemapWord(1 << 63 | pfn))
}

fn look(how: u32, pages: u64, detail: u64) -> event::Look {
    event::Look {
        header: header(event::kind::LOOK),
        va: VA.0,
        len: pages * PAGE_SIZE,
        level: u32::MAX,
        how,
        detail,
        ..Default::default()
    }
}

#[test]
fn a_zap_takes_what_is_there_and_the_call_names_the_cause() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    for i in [0, 1, 3] {
        let va = VirtAddr(VA.0 + i * PAGE_SIZE);
        ledger.seed(va, PagemapWord(1 << 63 | (100 + i)), false);
    }
    let munmap = look(how::ZAP, 2, zap::WHOLE | 11);
    let moves = ledger.apply(&Event::Look(munmap));
    assert_eq!((moves.len(), moves[0].pages), (1, 2));
    assert_eq!(
        (moves[0].cause, moves[0].proof),
        (Cause::Unmap, Proof::Event)
    );
    assert_eq!(ledger.len(), 1);
}

#[test]
fn what_a_kernel_thread_takes_has_no_cause_unless_it_is_the_oom_reaper() {
    const MADVISE: u64 = 28;
    for (comm, call, cause) in [
        (b"kworker/0:1\0\0\0\0\0", zap::NO_CALL, Cause::Unknown),
        (b"oom_reaper\0\0\0\0\0\0", zap::NO_CALL, Cause::Exit),
        // Who calls itself that.
        (b"oom_reaper\0\0\0\0\0\0", MADVISE, Cause::Discard),
    ] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
        let mut zap = look(how::ZAP, 1, zap::WHOLE | call);
        zap.header.comm = *comm;
        let moves = ledger.apply(&Event::Look(zap));
        assert_eq!((moves.len(), moves[0].cause), (1, cause));
    }
}

#[test]
fn an_address_space_that_somebody_else_had_last_ends_by_nobody() {
    for (number, cause, is_known) in [
        (0, Cause::Exit, true),
        (1, Cause::Exec, true),
        (2, Cause::Exit, false),
    ] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
        let gone = event::Number {
            header: header(event::kind::MM_GONE),
            number,
        };
        let moves = ledger.apply(&Event::MmGone(gone));
        assert_eq!((moves[0].cause, moves[0].by.is_some()), (cause, is_known));
    }
}

#[test]
fn a_page_that_goes_while_it_moves_leaves_nothing_behind() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
    ledger.apply(&set(VA, 100));
    assert_eq!(ledger.in_transit.len(), 1);
    ledger.apply(&Event::Look(look(how::ZAP, 1, zap::WHOLE | 11)));
    assert!(ledger.in_transit.is_empty());
}

#[test]
fn a_replaced_page_is_copy_on_write_where_it_was_there_when_the_fault_came() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    let Event::Fault(mut f) = fault(VA, pte(9), 0) else {
        unreachable!()
    };
    f.flags = fault::PROTECTION;
    assert_eq!(ledger.apply(&Event::Fault(f))[0].cause, Cause::Cow);
    let mut seeing = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    seeing.seed(VA, PagemapWord(1 << 63 | 7), false);
    assert_eq!(seeing.apply(&fault(VA, pte(9), 0))[0].cause, Cause::Cow);
    seeing.seed(VA, PagemapWord(1 << 63 | 7), true);
    assert_eq!(
        seeing.apply(&fault(VA, pte(9), 0))[0].cause,
        Cause::KsmBreak
    );
}

#[test]
fn a_remap_is_what_went_and_what_came_with_the_same_frames() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    let mut remap = look(how::REMAP, 2, 0);
    remap.other = VA.0 + 64 * PAGE_SIZE;
    let moves = ledger.apply(&Event::Look(remap));
    assert_eq!(moves.len(), 2);
    assert!(moves.iter().all(|m| m.cause == Cause::Remap));
    assert_eq!((moves[0].va, moves[0].to), (Hex(VA.0), PageState::Absent));
    assert_eq!((moves[1].va, moves[1].to), (Hex(remap.other), present(7)));
}

#[test]
fn the_end_takes_everything_by_its_cause() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    let gone = event::Number {
        header: header(event::kind::MM_GONE),
        number: 0,
    };
    assert_eq!(ledger.apply(&Event::MmGone(gone))[0].cause, Cause::Exit);
    assert!(ledger.is_empty());
}

#[test]
fn a_page_that_was_never_seen_to_come_is_a_gap_that_is_told() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let moves = ledger.apply(&set(VA, 7));
    assert_eq!((moves.len(), moves[0].to), (1, present(7)));
    assert_eq!(moves[0].proof, Proof::Reconciled);
    assert_eq!(ledger.apply(&remove(VA, 8))[0].from, present(7));
}

#[test]
fn an_entry_that_went_without_an_event_does_not_name_the_old_frame() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.apply(&set(VA, 7));
    ledger.apply(&fault(VA, pte(50), 0));
    ledger.apply(&set(VA, 50));
    let moves = ledger.apply(&remove(VA, 60));
    assert_eq!((moves[0].from, moves[0].to), (present(50), present(60)));
}

#[test]
fn what_is_not_asked_about_does_not_enter() {
    let range = Range {
        start: VA.0 + PAGE_SIZE,
        end: VA.0 + 3 * PAGE_SIZE,
    };
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).limited_to(&[range]);
    assert!(ledger.apply(&fault(VA, pte(7), 0)).is_empty());
    let moves = ledger.apply(&fault(VA, 0x4000_0000 | 0xe7, 1));
    assert_eq!(
        (moves.len(), moves[0].va, moves[0].pages),
        (1, Hex(range.start), 2)
    );
    assert_eq!(reread(&mut ledger, &[]).len(), 1);
}

#[test]
fn neighbours_with_the_same_story_are_one_move() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let words: Vec<_> = (0..4).map(|i| word(i, 50 + i)).collect();
    let moves = reread(&mut ledger, &words);
    assert_eq!((moves.len(), moves[0].pages), (1, 4));
}

#[test]
fn what_was_discarded_just_before_the_end_is_a_discard() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    ledger.seed(VirtAddr(VA.0 + PAGE_SIZE), PagemapWord(1 << 63 | 8), false);
    ledger.apply(&Event::Look(look(how::ZAP, 1, 28)));
    let gone = event::Number {
        header: header(event::kind::MM_GONE),
        number: 0,
    };
    let moves = ledger.apply(&Event::MmGone(gone));
    let causes: Vec<_> = moves.iter().map(|m| m.cause).collect();
    assert_eq!(causes, [Cause::Discard, Cause::Exit]);
}
