//! What is decoded, and what is refused.

extern crate std;
use super::*;
use std::vec::Vec;

fn header(kind: u32, len: usize) -> Vec<u8> {
    let mut b = Vec::new();
    b.extend(kind.to_ne_bytes());
    b.extend(u32::try_from(len).unwrap().to_ne_bytes());
    b.extend(7u64.to_ne_bytes());
    b.extend(8u64.to_ne_bytes());
    b.extend(9u32.to_ne_bytes());
    b.extend(10u32.to_ne_bytes());
    b.extend(*b"kcompactd0\0\0\0\0\0\0");
    b.extend(11u64.to_ne_bytes());
    b
}

fn migration() -> Vec<u8> {
    let mut b = header(kind::MIGRATION_SET, size_of::<Migration>());
    b.extend(0x7000u64.to_ne_bytes());
    b.extend(0x1067u64.to_ne_bytes());
    b.extend(1u32.to_ne_bytes());
    b.extend(0u32.to_ne_bytes());
    b
}

#[test]
fn a_migration_is_decoded_field_by_field() {
    let Event::MigrationSet(m) = Event::from_bytes(&migration()).unwrap() else {
        panic!("not a migration");
    };
    assert_eq!((m.va, m.entry, m.level), (0x7000, 0x1067, 1));
    assert_eq!((m.header.seq, m.header.t_ns), (7, 8));
    assert_eq!((m.header.tid, m.header.tgid), (9, 10));
    assert_eq!(m.header.mm, 11);
    assert_eq!(&m.header.comm[..10], b"kcompactd0");
}

#[test]
fn what_is_around_a_fault_is_decoded_entry_by_entry() {
    let mut b = header(kind::AROUND, size_of::<Around>());
    b.extend(0x7000u64.to_ne_bytes());
    b.extend((1..=8u64).flat_map(u64::to_ne_bytes));
    let Event::Around(around) = Event::from_bytes(&b).unwrap() else {
        panic!("not what is around");
    };
    assert_eq!(
        (around.va, around.entries),
        (0x7000, [1, 2, 3, 4, 5, 6, 7, 8])
    );
    assert!(Event::from_bytes(&b[..b.len() - 8]).is_err());
}

#[test]
fn the_structs_have_no_padding_that_the_decoder_would_miss() {
    assert_eq!(size_of::<Header>(), 56);
    assert_eq!(size_of::<Migration>(), 80);
    assert_eq!(size_of::<Number>(), 64);
    assert_eq!(size_of::<Exec>(), 72);
    assert_eq!(size_of::<Look>(), 104);
    assert_eq!(size_of::<Around>(), 128);
    assert_eq!(size_of::<Fork>(), 80);
}

#[test]
fn every_truncation_is_refused() {
    let whole = migration();
    for n in 0..whole.len() {
        assert!(Event::from_bytes(&whole[..n]).is_err(), "{n} bytes");
    }
}

#[test]
fn bytes_too_many_and_unknown_kinds_are_refused() {
    let mut long = migration();
    long.push(0);
    assert!(Event::from_bytes(&long).is_err());
    let unknown = header(99, 56);
    assert_eq!(
        Event::from_bytes(&unknown),
        Err(BadEvent {
            kind: Some(99),
            len: 56
        })
    );
}
