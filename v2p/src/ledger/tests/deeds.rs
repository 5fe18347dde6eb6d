//! What the next event or reading finds, after a deed that said little.

use v2p_common::{
    control::BLOCK_PAGES,
    event::{collapse, memory},
};

use super::*;

/// 2 MiB of pages there, each in the frame that is so far from `first` as it is from `VA`.
fn block(ledger: &mut Ledger, first: u64) {
    for i in 0..BLOCK_PAGES as u64 {
        ledger.seed(
            VirtAddr(VA.0 + i * PAGE_SIZE),
            PagemapWord(1 << 63 | (first + i)),
            false,
        );
    }
}

/// The look at one page, which has this entry now.
fn found(how: u32, detail: u64, entry: u64, level: u32) -> Event {
    Event::Look(event::Look {
        entry,
        level,
        ..look(how, 1, detail)
    })
}

fn fault_of(flags: u32, entry: u64, level: u32) -> Event {
    match fault(VA, entry, level) {
        Event::Fault(fault) => Event::Fault(event::Fault { flags, ..fault }),
        other => other,
    }
}

#[test]
fn what_is_taken_down_with_its_address_space_waits_for_the_reason() {
    let read = 17;
    let exec = 59;
    for (call, goes) in [(read, 0), (exec, 1)] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
        ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
        let detail = zap::WHOLE | zap::DYING | call;
        let moves = ledger.apply(&Event::Look(look(how::ZAP, 1, detail)));
        assert_eq!(moves.len(), goes);
        let exec = event::Exec {
            header: header(event::kind::EXEC),
            ..event::Exec::default()
        };
        let told = [moves, ledger.apply(&Event::Exec(exec))].concat();
        let causes: Vec<_> = told.iter().map(|m| m.cause).collect();
        assert_eq!(causes, [Cause::Exec]);
    }
}

#[test]
fn the_first_page_of_a_merge_keeps_its_frame_and_is_merged_too() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
    assert!(
        ledger
            .apply(&found(how::KSM_MERGE, 0, pte(100), 0))
            .is_empty()
    );
    let moves = ledger.apply(&fault_of(fault::PROTECTION, pte(200), 0));
    assert_eq!(moves[0].cause, Cause::KsmBreak);
}

#[test]
fn a_file_page_that_a_split_takes_out_is_not_reclaimed() {
    for (is_bad, cause) in [(false, Cause::Unknown), (true, Cause::Poison)] {
        let bad: fn(Pfn) -> bool = if is_bad { |_| true } else { |_| false };
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).knowing_bad_frames(bad);
        ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
        let moves = ledger.apply(&found(how::UNMAP_ONE, memory::FORCED, 0, 0));
        assert_eq!((moves[0].to, moves[0].cause), (PageState::Absent, cause));
    }
}

#[test]
fn who_reads_a_page_that_was_collapsed_did_not_copy_it() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(true);
    block(&mut ledger, 1000);
    let pages = BLOCK_PAGES as u64;
    assert!(
        ledger
            .apply(&Event::Look(look(how::COLLAPSE, pages, 0)))
            .is_empty()
    );
    let huge = pte(512 * 9) | 1 << 7;
    let moves = ledger.apply(&found(how::FILL, 0, huge, 1));
    assert_eq!((moves.len(), moves[0].cause), (1, Cause::Collapse));
}

#[test]
fn what_somebody_needed_and_found_replaced_has_no_cause_where_removals_are_not_seen() {
    for (sees, cause) in [(true, Cause::Cow), (false, Cause::Unknown)] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).seeing_removals(sees);
        ledger.seed(VA, PagemapWord(1 << 63 | 100), false);
        let moves = ledger.apply(&found(how::FILL, 0, pte(200), 0));
        assert_eq!(moves[0].cause, cause);
    }
}

#[test]
fn a_collapse_that_may_not_have_been_explains_only_what_looks_like_one() {
    for (detail, cause) in [(0, Cause::Collapse), (collapse::PERHAPS, Cause::SwapIn)] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        ledger.seed(VA, PagemapWord(1 << 62), false);
        let pages = BLOCK_PAGES as u64;
        ledger.apply(&Event::Look(look(how::COLLAPSE, pages, detail)));
        let moves = reread(&mut ledger, &[word(0, 101)]);
        assert_eq!(moves[0].cause, cause, "{detail}");
    }
}

#[test]
fn a_huge_page_of_which_one_page_is_asked_about_is_copied_not_collapsed() {
    let asked = [Range {
        start: VA.0 + 7 * PAGE_SIZE,
        end: VA.0 + 8 * PAGE_SIZE,
    }];
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING)
        .limited_to(&asked)
        .seeing_removals(true);
    block(&mut ledger, 512 * 4);
    let huge = pte(512 * 9) | 1 << 7;
    let moves = ledger.apply(&fault_of(fault::PROTECTION, huge, 1));
    assert_eq!((moves.len(), moves[0].cause), (1, Cause::Cow));
    assert_eq!(moves[0].to, present(512 * 9 + 7));
}

/// Where removals are seen by no hook: what a system call took away, and a fault brought back before anybody read.
#[test]
fn a_page_that_comes_back_in_the_same_frame_was_away() {
    let discarded = || Event::Look(look(how::ZAP, 1, 28));
    let told =
        |moves: Vec<Move>| -> Vec<_> { moves.iter().map(|m| (m.from, m.to, m.cause)).collect() };
    let away_and_back = [
        (present(7), PageState::Absent, Cause::Discard),
        (PageState::Absent, present(7), Cause::FirstTouch),
    ];
    let on_nothing = fault_of(fault::EMPTY, pte(7), 0);
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    // What is not known to have been away is not told.
    assert!(ledger.apply(&discarded()).is_empty());
    assert_eq!(told(ledger.apply(&fault_of(0, pte(7), 0))), []);
    assert_eq!(told(ledger.apply(&on_nothing)), away_and_back);
    // One removal explains one.
    assert_eq!(told(ledger.apply(&on_nothing)), []);
    let another = told(ledger.apply(&fault_of(fault::EMPTY, pte(9), 0)));
    assert_eq!(another, [(present(7), present(9), Cause::Unknown)]);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    // Once more, as one doubt with the first.
    assert!(ledger.apply(&discarded()).is_empty());
    assert_eq!(told(ledger.apply(&on_nothing)), away_and_back);
    assert_eq!(told(reread(&mut ledger, &[word(0, 7)])), []);
}

#[test]
fn with_more_threads_a_page_that_comes_back_in_the_same_frame_is_not_told() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING).weighing_contests(true);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    let mut discarded = look(how::ZAP, 1, 28);
    discarded.header.tid += 1;
    assert!(ledger.apply(&Event::Look(discarded)).is_empty());
    assert!(ledger.apply(&fault_of(fault::EMPTY, pte(7), 0)).is_empty());
}

#[test]
fn a_page_that_is_gone_again_by_the_end_of_its_fault_is_known_to_be() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 7), false);
    assert!(ledger.apply(&Event::Look(look(how::ZAP, 1, 28))).is_empty());
    let gone = ledger.apply(&fault(VA, 0, 0));
    assert_eq!((gone.len(), gone[0].to), (1, PageState::Absent));
    let came = ledger.apply(&fault(VA, pte(7), 0));
    assert_eq!((came.len(), came[0].from), (1, PageState::Absent));
}

fn numbered(event: Event, seq: u64) -> Event {
    let with = |header| event::Header { seq, ..header };
    match event {
        Event::Fault(fault) => Event::Fault(event::Fault {
            header: with(fault.header),
            ..fault
        }),
        Event::Look(look) => Event::Look(event::Look {
            header: with(look.header),
            ..look
        }),
        Event::MmGone(gone) => Event::MmGone(event::Number {
            header: with(gone.header),
            ..gone
        }),
        other => other,
    }
}

fn gone() -> Event {
    Event::MmGone(event::Number {
        header: header(event::kind::MM_GONE),
        number: 0,
    })
}

#[test]
fn what_was_done_before_a_page_came_did_not_take_it_away() {
    const MUNMAP: u64 = 11;
    for (unmapped, came, cause) in [(1, 2, Cause::Exit), (2, 1, Cause::Unmap)] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        let mut events = [
            numbered(Event::Look(look(how::ZAP, 1, MUNMAP)), unmapped),
            numbered(fault(VA, pte(100), 0), came),
        ];
        events.sort_by_key(|event| event.header().seq);
        let told: Vec<_> = events
            .iter()
            .flat_map(|event| ledger.apply(event))
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        let moves = ledger.apply(&numbered(gone(), 3));
        let causes: Vec<_> = moves.iter().map(|m| m.cause).collect();
        assert_eq!(causes, [cause]);
    }
}

#[test]
fn an_exec_brings_its_stack_alone() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let exec = event::Exec {
        header: header(event::kind::EXEC),
        ..event::Exec::default()
    };
    ledger.apply(&Event::Exec(exec));
    ledger.image(&exec, VA.page_number()..VA.page_number() + 1);
    let moves = reread(&mut ledger, &[word(0, 100), word(1, 200)]);
    let told: Vec<_> = moves.iter().map(|m| (m.cause, m.proof)).collect();
    let expected = [
        (Cause::Exec, Proof::Event),
        (Cause::FirstTouch, Proof::Reconciled),
    ];
    assert_eq!(told, expected);
}

const MADVISE: u64 = 28;

fn discarded(seq: u64, detail: u64) -> Event {
    numbered(Event::Look(look(how::ZAP, 2, MADVISE | detail)), seq)
}

/// Both pages at `VA` are there, by events of these numbers.
fn two_pages(ledger: &mut Ledger) {
    for i in 0..2 {
        let va = VirtAddr(VA.0 + i * PAGE_SIZE);
        ledger.apply(&numbered(fault(va, pte(100 + i), 0), 1 + i));
    }
}

fn told(moves: &[Move]) -> Vec<(u64, Cause)> {
    moves.iter().map(|m| (m.pages, m.cause)).collect()
}

#[test]
fn what_is_filled_in_after_a_discard_is_no_copy() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    two_pages(&mut ledger);
    ledger.apply(&discarded(3, 0));
    ledger.apply(&numbered(Event::Look(look(how::FILL, 2, 0)), 4));
    let moves = reread(&mut ledger, &[word(0, 200), word(1, 201)]);
    assert_eq!(told(&moves), [(2, Cause::Discard), (2, Cause::FirstTouch)]);
}

#[test]
fn a_call_that_failed_is_believed_where_the_page_is_gone() {
    for (is_read, cause) in [(false, Cause::Exit), (true, Cause::Discard)] {
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
        two_pages(&mut ledger);
        ledger.apply(&discarded(3, zap::PERHAPS));
        let moves = match is_read {
            true => reread(&mut ledger, &[]),
            false => ledger.apply(&numbered(gone(), 9)),
        };
        assert_eq!(told(&moves), [(2, cause)]);
    }
}

#[test]
fn a_page_goes_once_by_what_was_done_first() {
    const MUNMAP: u64 = 11;
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    two_pages(&mut ledger);
    ledger.apply(&discarded(3, 0));
    ledger.apply(&numbered(Event::Look(look(how::ZAP, 2, MUNMAP)), 4));
    let moves = ledger.apply(&numbered(gone(), 5));
    assert_eq!(told(&moves), [(2, Cause::Discard)]);
}

#[test]
fn a_child_does_not_have_what_its_parent_discarded() {
    let mut parent = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    two_pages(&mut parent);
    parent.apply(&discarded(3, 0));
    let first = VA.page_number();
    let mut child = parent.forked(std::slice::from_ref(&(first..first + 2)));
    assert!(child.is_empty());
    let moves = child.apply(&numbered(fault(VA, pte(300), 0), 4));
    assert_eq!(told(&moves), [(1, Cause::FirstTouch)]);
}

#[test]
fn a_huge_page_may_come_back_in_the_frames_that_it_had() {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    block(&mut ledger, 512);
    let len = BLOCK_PAGES as u64;
    ledger.apply(&Event::Look(look(how::ZAP, len, MADVISE)));
    let huge = 512 << 12 | 0xe7;
    let moves = ledger.apply(&fault_of(fault::EMPTY, huge, 1));
    assert_eq!(
        told(&moves),
        [(len, Cause::Discard), (len, Cause::FirstTouch)]
    );
}
