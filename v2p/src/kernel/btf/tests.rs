//! Types by hand, and this kernel's own.

use super::*;

#[test]
fn members_are_found_also_in_anonymous_structs() {
    let blob = sample();
    let btf = Btf::parse(&blob).unwrap();
    assert_eq!(btf.member_offset("s", "a").unwrap(), 0);
    assert_eq!(btf.member_offset("s", "b").unwrap(), 4);
    assert_eq!(btf.member_offset("s", "c").unwrap(), 8);
}

#[test]
fn what_is_not_there_is_an_error_that_names_it() {
    let blob = sample();
    let btf = Btf::parse(&blob).unwrap();
    let error = btf.member_offset("s", "d").unwrap_err();
    assert_eq!(error.to_string(), "BTF has no `d` in `struct s`");
}

#[test]
fn a_blob_cut_anywhere_is_refused_without_a_panic() {
    let whole = sample();
    for n in 0..whole.len() {
        assert!(Btf::parse(&whole[..n]).is_err(), "{n} bytes");
    }
}

#[test]
fn a_struct_that_holds_itself_does_not_hang_the_search() {
    let mut cyclic = sample();
    // The anonymous member of `s` (type 3) now has type 3.
    let at = 24 + 16 + 36 + 12 + 12 + 4;
    cyclic[at..at + 4].copy_from_slice(&3u32.to_ne_bytes());
    let btf = Btf::parse(&cyclic).unwrap();
    assert!(btf.member_offset("s", "nothing").is_err());
}

#[test]
fn an_anonymous_member_may_be_const() {
    // `struct s { const struct { int a; int b; }; };`
    let mut types: Vec<u32> = vec![0, 1 << 24, 4, 32];
    types.extend([0, KIND_STRUCT << 24 | 2, 8, 3, 1, 0, 5, 1, 32]);
    types.extend([0, KIND_CONST << 24, 2]);
    types.extend([1, KIND_STRUCT << 24 | 1, 8, 0, 3, 0]);
    // One that is const of itself.
    types.extend([0, KIND_CONST << 24, 5]);
    types.extend([7, KIND_STRUCT << 24 | 1, 8, 0, 5, 0]);
    let blob = sample_of(b"\0s\0a\0b\0t\0", &types);
    let btf = Btf::parse(&blob).unwrap();
    assert_eq!(btf.member_offset("s", "b").unwrap(), 4);
    assert!(btf.member_offset("t", "b").is_err());
}

#[test]
fn structs_that_hold_each_other_many_times_do_not_hang_the_search() {
    let members = 60;
    let mut types: Vec<u32> = vec![1, KIND_STRUCT << 24 | members, 8];
    types.extend((0..members).flat_map(|_| [0, 1, 0]));
    let blob = sample_of(b"\0s\0", &types);
    let btf = Btf::parse(&blob).unwrap();
    assert!(btf.member_offset("s", "nothing").is_err());
}

#[test]
fn this_kernels_own_btf_has_the_members_we_need() {
    let Ok(blob) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        eprintln!("skipped: no /sys/kernel/btf/vmlinux here");
        return;
    };
    let btf = Btf::parse(&blob).unwrap();
    assert!(btf.member_offset("mm_struct", "pgd").unwrap() > 0);
    assert!(btf.member_offset("task_struct", "mm").unwrap() > 0);
    assert!(btf.arguments_of_tracepoint("mm_migrate_pages").unwrap() >= 7);
    assert_eq!(btf.arguments_of_function("handle_mm_fault"), Some(4));
    let function = btf.numbered(btf.function("handle_mm_fault").unwrap());
    assert!(function.is_some_and(|f| btf.name_is(f.name, "handle_mm_fault")));
    assert!(
        btf.enumerators("migrate_reason")
            .contains(&("MR_COMPACTION", 0))
    );
    assert_eq!(btf.arguments_of_function("no_such_function"), None);
    assert_eq!(btf.function("no_such_function"), None);
}
