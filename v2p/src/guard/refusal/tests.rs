use super::*;

const USER: u64 = FrameFlags::MMAP.0 | FrameFlags::ANON.0 | FrameFlags::SWAPBACKED.0;

fn frame(flags: u64) -> Frame {
    Frame {
        pfn: Pfn(1000),
        flags: FrameFlags(flags),
        head: FrameFlags(0),
        mapcount: 1,
        exclusive: true,
        entry: Entry(0x67),
        direct_map: Some(Entry(0x63)),
        merging: false,
    }
}

fn id(frame: Frame) -> Option<&'static str> {
    of_frame(&frame).map(|refusal| refusal.id)
}

#[test]
fn a_processes_own_anonymous_page_may_be_written() {
    assert_eq!(id(frame(USER)), None);
}

#[test]
fn every_other_kind_of_frame_is_refused_by_its_name() {
    let file = FrameFlags::MMAP.0 | FrameFlags::LRU.0;
    for (flags, why) in [
        (USER | FrameFlags::BUDDY.0, "not-a-users"),
        (USER | FrameFlags::SLAB.0, "not-a-users"),
        (USER | FrameFlags::PGTABLE.0, "not-a-users"),
        (USER | FrameFlags::HWPOISON.0, "not-a-users"),
        (0, "not-a-users"),
        (FrameFlags::ANON.0, "not-a-users"),
        (USER | FrameFlags::ZERO_PAGE.0, "zero-page"),
        (
            FrameFlags::ZERO_PAGE.0 | FrameFlags::THP.0,
            "huge-zero-page",
        ),
        (file | FrameFlags::SWAPBACKED.0, "file"),
        (file, "file"),
        (USER & !FrameFlags::SWAPBACKED.0, "lazily-freed"),
    ] {
        assert_eq!(id(frame(flags)), Some(why), "{flags:#x}");
    }
}

#[test]
fn what_the_direct_map_lacks_or_has_read_only_is_refused_whatever_it_is() {
    for direct_map in [None, Some(Entry(0x61))] {
        let page = Frame {
            direct_map,
            ..frame(USER)
        };
        assert_eq!(id(page), Some("not-direct-mapped"));
    }
}

#[test]
fn frames_below_1_mib_are_refused() {
    let low = Frame {
        pfn: Pfn(255),
        ..frame(USER)
    };
    assert_eq!(id(low), Some("low-memory"));
}

#[test]
fn a_page_with_another_mapper_is_shared_and_one_with_none_too() {
    for mapcount in [0, 2, 9] {
        let page = Frame {
            mapcount,
            ..frame(USER)
        };
        assert_eq!(id(page), Some("shared"));
    }
}

#[test]
fn a_count_of_one_is_not_enough_where_pagemap_does_not_call_the_page_the_processes_own() {
    let page = Frame {
        exclusive: false,
        ..frame(USER)
    };
    assert_eq!(id(page), Some("shared"));
}

#[test]
fn the_flag_of_ksm_counts_where_it_tells_something_and_the_entry_is_read_only() {
    let page = |merging, entry| Frame {
        merging,
        entry: Entry(entry),
        ..frame(USER | FrameFlags::KSM.0)
    };
    assert_eq!(id(page(true, 0x65)), Some("ksm"));
    assert_eq!(id(page(false, 0x65)), None);
    assert_eq!(id(page(true, 0x67)), None);
}

#[test]
fn a_clean_page_with_a_copy_in_swap_is_refused_and_a_dirty_one_is_not() {
    let page = |flags, entry| Frame {
        entry: Entry(entry),
        ..frame(USER | FrameFlags::SWAPCACHE.0 | flags)
    };
    assert_eq!(id(page(0, 0x27)), Some("clean-in-swap"));
    assert_eq!(id(page(0, 0x67)), None);
    assert_eq!(id(page(KPF_DIRTY.0, 0x27)), None);
}

#[test]
fn a_clean_page_may_have_been_given_up_unless_its_flags_tell_what_it_is() {
    let page = |flags, entry| Frame {
        entry: Entry(entry),
        ..frame(USER | flags)
    };
    assert!(may_be_given_up(&page(0, 0x27)));
    assert!(!may_be_given_up(&page(0, 0x67)));
    for told in [KPF_DIRTY, FrameFlags::SWAPCACHE, FrameFlags::HUGE] {
        assert!(!may_be_given_up(&page(told.0, 0x27)), "{told:?}");
    }
}

#[test]
fn a_page_inside_a_huge_one_has_its_heads_flags() {
    let tail = USER & !FrameFlags::SWAPBACKED.0 | FrameFlags::THP.0 | KPF_COMPOUND_TAIL.0;
    let page = |head| Frame {
        head: FrameFlags(head),
        ..frame(tail)
    };
    assert_eq!(
        id(page(KPF_COMPOUND_HEAD.0 | FrameFlags::SWAPBACKED.0)),
        None
    );
    assert_eq!(id(page(KPF_COMPOUND_HEAD.0)), Some("lazily-freed"));
    assert_eq!(id(page(FrameFlags::SWAPBACKED.0)), Some("lazily-freed"));
}

#[test]
fn pages_without_a_frame_are_refused_by_their_state() {
    assert_eq!(of_state(PageState::Present { pfn: Pfn(7) }), None);
    assert_eq!(of_state(PageState::Zero).unwrap().id, "zero-page");
    assert_eq!(of_state(PageState::Absent).unwrap().id, "absent");
}

#[test]
fn a_read_only_mapping_is_refused_unless_forced() {
    let mapping = |writable| Mapping {
        start: 0,
        end: 4096,
        writable,
        name: "/bin/x".to_owned(),
    };
    assert_eq!(of_mapping(None, true).unwrap().id, "not-mapped");
    assert_eq!(of_mapping(Some(&mapping(true)), false), None);
    assert_eq!(of_mapping(Some(&mapping(false)), true), None);
    let refusal = of_mapping(Some(&mapping(false)), false).unwrap();
    assert!(refusal.id == "read-only" && refusal.what.contains("/bin/x"));
}
