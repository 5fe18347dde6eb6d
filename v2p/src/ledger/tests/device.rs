//! Memory without a struct page: pagemap takes a VM_PFNMAP mapping for a hole, and shows the frames of a VM_MIXEDMAP one as any other.

use super::*;

/// `_PAGE_SPECIAL`.
const SPECIAL: u64 = 1 << 9;
const DEVICE: PageState = PageState::Device { pfn: Pfn(700) };

/// A fault found the page at `VA` there.
fn touched() -> Ledger {
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    let told = ledger.apply(&fault(VA, pte(700) | SPECIAL, 0));
    assert_eq!((told.len(), told[0].to), (1, DEVICE));
    ledger
}

#[test]
fn what_pagemap_takes_for_a_hole_is_there_as_long_as_its_mapping() {
    let mut ledger = touched();
    assert!(reread(&mut ledger, &[]).is_empty());
    let first = VA.page_number();
    ledger.compare(first..first + 1, &[]);
    let told = ledger.confirm(2, |_| false);
    assert_eq!((told.len(), told[0].cause), (1, Cause::Unmap));
    assert_eq!((told[0].from, told[0].to), (DEVICE, PageState::Absent));
}

#[test]
fn what_is_sure_to_have_taken_a_devices_page_is_believed() {
    const MADVISE: u64 = 28;
    for (detail, goes) in [(0, 1), (zap::PERHAPS, 0)] {
        let mut ledger = touched();
        ledger.apply(&Event::Look(look(how::ZAP, 1, MADVISE | detail)));
        assert_eq!(reread(&mut ledger, &[]).len(), goes);
    }
}

#[test]
fn a_child_has_its_parents_device() {
    let mut child = touched().forked(&[]);
    assert!(reread(&mut child, &[]).is_empty());
    assert_eq!(child.pages.get(VA.page_number()), DEVICE);
}

#[test]
fn a_frame_that_pagemap_shows_is_the_devices() {
    let mut ledger = touched();
    assert!(reread(&mut ledger, &[word(0, 700)]).is_empty());
    assert_eq!(ledger.pages.get(VA.page_number()), DEVICE);
    assert_eq!(reread(&mut ledger, &[word(0, 701)]).len(), 1);
    // The other way round: the reading came first.
    let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, PAGING);
    ledger.seed(VA, PagemapWord(1 << 63 | 700), false);
    assert!(ledger.apply(&fault(VA, pte(700) | SPECIAL, 0)).is_empty());
    assert_eq!(ledger.pages.get(VA.page_number()), DEVICE);
}
