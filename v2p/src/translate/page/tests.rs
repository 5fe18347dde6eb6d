//! What the decoder says, on words and entries made up.

use super::*;

const DECODER: Decoder = Decoder {
    paging: Some(Paging {
        levels: 4,
        physical_mask: (1 << 52) - 1,
    }),
    zero: ZeroFrames {
        page: Some(Pfn(5)),
        huge: None,
    },
};
const VA: VirtAddr = VirtAddr(0x7f00_0000_3000);

fn swap_entry(kind: u64, offset: u64) -> Entry {
    Entry(kind << 59 | (!offset << 14) >> 5)
}

fn both(word: u64, level: Level, entry: Entry) -> Page {
    DECODER.page(VA, Some(PagemapWord(word)), Some((level, entry)))
}

#[test]
fn two_routes_that_name_one_frame_agree() {
    let page = both(1 << 63 | 1 << 56 | 9, Level::Pte, Entry(9 << 12 | 0x67));
    assert_eq!(
        (page.state, page.verdict),
        (PageState::Present { pfn: Pfn(9) }, Verdict::Agree)
    );
    assert_eq!(page.page_size, Some(4096));
    assert_eq!(page.marks.names().collect::<Vec<_>>(), ["exclusive"]);
}

#[test]
fn a_page_inside_a_huge_one_has_the_huge_leaf() {
    let page = both(1 << 63 | 0x4_0003, Level::Pmd, Entry(0x4000_0000 | 0xe7));
    assert_eq!(
        (page.pfn(), page.page_size, page.verdict),
        (Some(Pfn(0x4_0003)), Some(2 << 20), Verdict::Agree)
    );
}

#[test]
fn swap_the_zero_page_guards_and_poison_are_told_apart() {
    let swapped = |device, offset| PageState::Swapped {
        swap: Some(SwapPlace { device, offset }),
    };
    let word = |kind: u64, offset: u64| 1 << 62 | offset << 5 | kind;
    let cases = [
        (1 << 63 | 5, Entry(5 << 12 | 0x25), PageState::Zero),
        (word(0, 7), swap_entry(0, 7), swapped(0, 7)),
        (word(3, 7), swap_entry(3, 7), swapped(3, 7)),
        (word(31, 4), swap_entry(31, 4), PageState::Guard),
        (word(31, 2), swap_entry(31, 2), PageState::Poisoned),
        (word(31, 1), swap_entry(31, 1), PageState::Absent),
        // On 6.1 a marker has the last type but one, and the last is a failed swap-in, with its old frame.
        (word(30, 1), swap_entry(30, 1), PageState::Absent),
        (word(31, 777), swap_entry(31, 777), PageState::Poisoned),
        (
            word(28, 777),
            swap_entry(28, 777),
            PageState::Migrating { pfn: Pfn(777) },
        ),
        (0, Entry(0), PageState::Absent),
    ];
    for (word, entry, state) in cases {
        let page = both(word, Level::Pte, entry);
        assert_eq!(
            (page.state, page.verdict),
            (state, Verdict::Agree),
            "{word:#x}"
        );
    }
}

/// With five levels memory may reach to 4 PiB.
#[test]
fn the_old_frame_of_a_migration_is_told_whole() {
    const HIGH: u64 = 1 << 39 | 777;
    let paging = Paging {
        levels: 5,
        ..DECODER.paging.unwrap()
    };
    let both = Decoder {
        paging: Some(paging),
        ..DECODER
    };
    let pagemap = Decoder {
        paging: None,
        ..DECODER
    };
    let state = PageState::Migrating { pfn: Pfn(HIGH) };
    let word = PagemapWord(1 << 62 | HIGH << 5 | 28);
    // Young and dirty.
    let entry = swap_entry(28, 3 << 40 | HIGH);
    let page = both.page(VA, Some(word), Some((Level::Pte, entry)));
    assert_eq!((page.state, page.verdict), (state, Verdict::Agree));
    assert_eq!(pagemap.page(VA, Some(word), None).state, state);
}

#[test]
fn what_is_withheld_is_never_a_frame_or_a_slot() {
    let hidden = DECODER.page(VA, Some(PagemapWord(1 << 63)), None);
    assert_eq!((hidden.state, hidden.pfn()), (PageState::Hidden, None));
    let swapped = DECODER.page(VA, Some(PagemapWord(1 << 62)), None);
    assert_eq!(swapped.state, PageState::Swapped { swap: None });
}

#[test]
fn where_pagemap_withholds_only_the_walk_can_tell() {
    let present = both(1 << 63, Level::Pte, Entry(9 << 12 | 0x67));
    assert_eq!(
        (present.pfn(), present.verdict),
        (Some(Pfn(9)), Verdict::Single)
    );
    let swapped = both(1 << 62, Level::Pte, swap_entry(1, 7));
    let swap = Some(SwapPlace {
        device: 1,
        offset: 7,
    });
    assert_eq!(
        (swapped.state, swapped.verdict),
        (PageState::Swapped { swap }, Verdict::Single)
    );
    // That it is not there at all is another thing.
    assert_eq!(
        both(1 << 63, Level::Pte, Entry(0)).verdict,
        Verdict::Disagree
    );
}

#[test]
fn what_pagemap_does_not_tell_of_hugetlb_the_walk_does() {
    let walked = (Level::Pmd, swap_entry(28, 512));
    let page = DECODER.page(VA, Some(PagemapWord(0)), Some(walked));
    let settled = DECODER.settle(page, PagemapWord(0), walked);
    let state = PageState::Migrating { pfn: Pfn(515) };
    assert_eq!((settled.state, settled.verdict), (state, Verdict::Single));
}

#[test]
fn the_frames_flags_tell_poison_and_devices_from_migration() {
    let mut page = both(1 << 62 | 777 << 5 | 28, Level::Pte, swap_entry(28, 777));
    assert_eq!(page.frame_to_ask(), Some(Pfn(777)));
    page.add_frame(FrameFlags::HWPOISON);
    assert_eq!(page.state, PageState::Poisoned);
}

/// Its offset are bits, not frames that go on from page to page; pagemap has no word for it.
#[test]
fn a_marker_of_a_huge_page_is_one_for_all_its_pages() {
    for (bits, state) in [(1, PageState::Absent), (2, PageState::Poisoned)] {
        for level in [Level::Pmd, Level::Pud] {
            for page in [0, 1, 2, 3, 7] {
                let va = VirtAddr(page << 12);
                let (word, walked) = (PagemapWord(0), (level, swap_entry(31, bits)));
                let page = DECODER.page(va, Some(word), Some(walked));
                assert_eq!(DECODER.settle(page, word, walked).state, state, "{va:x?}");
                assert_ne!(page.state, PageState::Guard);
            }
        }
    }
}

#[test]
fn of_a_huge_entry_the_first_frame_tells() {
    let mut page = DECODER.page(VA, None, Some((Level::Pmd, swap_entry(27, 1024))));
    assert_eq!(page.state, PageState::Migrating { pfn: Pfn(1027) });
    assert_eq!(page.page_size, Some(2 << 20));
    assert_eq!(page.frame_to_ask(), Some(Pfn(1024)));
    page.add_frame(FrameFlags::HWPOISON);
    assert_eq!(page.state, PageState::Poisoned);
}

#[test]
fn what_only_the_walk_shows_is_a_devices_or_a_private_copy_in_its_mapping() {
    let settled = |level, entry| {
        let walked = (level, Entry(entry));
        let page = DECODER.page(VA, Some(PagemapWord(0)), Some(walked));
        assert_eq!(page.verdict, Verdict::Disagree);
        let settled = DECODER.settle(page, PagemapWord(0), walked);
        assert_eq!(settled.verdict, Verdict::Single);
        settled.state
    };
    let device = |pfn| PageState::Device { pfn: Pfn(pfn) };
    assert_eq!(settled(Level::Pte, 0xfe00_0000 | 0x267), device(0xf_e000));
    let inside = VA.page_number() & 511;
    assert_eq!(
        settled(Level::Pmd, 0xfe00_0000 | 0xe7),
        device(0xf_e000 + inside)
    );
    // Of a device every entry of a base page is special: of a copy none is.
    let copy = PageState::Present { pfn: Pfn(0xf_e000) };
    assert_eq!(settled(Level::Pte, 0xfe00_0000 | 0x67), copy);
    let swap = Some(SwapPlace {
        device: 1,
        offset: 7,
    });
    let swapped_out = PageState::Swapped { swap };
    assert_eq!(settled(Level::Pte, swap_entry(1, 7).0), swapped_out);
}

#[test]
fn a_special_entry_is_a_device_or_the_zero_page() {
    let special = Entry(0xf_e000 << 12 | 0x200 | 0x67);
    let walked = DECODER.page(VA, None, Some((Level::Pte, special)));
    let state = PageState::Device { pfn: Pfn(0xf_e000) };
    assert_eq!((walked.state, walked.verdict), (state, Verdict::Single));
    let page = both(1 << 63 | 0xf_e000, Level::Pte, special);
    assert_eq!((page.state, page.verdict), (state, Verdict::Agree));
    let page = both(1 << 63 | 5, Level::Pte, Entry(5 << 12 | 0x200 | 0x25));
    assert_eq!(
        (page.state, page.verdict),
        (PageState::Zero, Verdict::Agree)
    );
}
