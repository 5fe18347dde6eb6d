//! Who has an address space that several share.

use v2p_common::{
    event::{Header, kind},
    pte::Paging,
};

use super::*;
use crate::page::ZeroFrames;

/// Numbers that no process has.
const TARGET: u32 = u32::MAX / 4;
const CHILD: u32 = TARGET - 1;

const MM: u64 = 0x1000;
const NEXT_MM: u64 = 0x2000;

fn member(pid: u32) -> Member {
    Member {
        pid,
        space: 0,
        held: None,
        is_target: false,
        end: None,
        found: 0,
    }
}

/// The target, and a child that shares its address space.
fn family(child: u32) -> Family {
    let paging = Paging {
        levels: 4,
        physical_mask: (1 << 52) - 1,
    };
    let ledger = Ledger::new(ZeroFrames::UNKNOWN, paging);
    let names = Names::new(TARGET, Vec::new());
    let mut family = Family::new(Space::new((0, MM, TARGET), ledger, names), true);
    family.members.push(member(child));
    family
}

fn exec(pid: u32) -> Exec {
    Exec {
        header: Header {
            mm: NEXT_MM,
            ..Header::default()
        },
        pid,
        ..Exec::default()
    }
}

fn ends(pid: u32) -> Number {
    Number {
        header: Header {
            kind: kind::ENDED,
            ..Header::default()
        },
        number: pid.into(),
    }
}

#[test]
fn an_address_space_whose_owner_has_ended_is_his_who_shares_it() {
    // One that has mappings, which nobody else is asked for then.
    let us = std::process::id();
    let mut family = family(us);
    family.ended(&ends(TARGET));
    let gone = family.take_gone(PATIENCE);
    assert!(matches!(
        gone.as_slice(),
        [Gone {
            pid: TARGET,
            left: None,
            ..
        }]
    ));
    let space = &mut family.spaces[0];
    assert_eq!((space.pid, space.mm), (us, MM));
    assert!(!space.names.update().is_empty());
    // Its exec is in the same place, and its own.
    assert_eq!(family.executed(&exec(us)), Some(0));
    assert_eq!(family.spaces[0].pid, us);
}

#[test]
fn an_address_space_whose_owner_executes_a_program_is_his_who_shared_it() {
    let us = std::process::id();
    let mut family = family(us);
    assert_eq!(family.executed(&exec(TARGET)), Some(1));
    let pids: Vec<_> = family.spaces.iter().map(|space| space.pid).collect();
    assert_eq!(pids, [us, TARGET]);
    assert!(!family.spaces[0].names.update().is_empty());
}

#[test]
fn who_shares_an_address_space_leaves_it_to_its_owner() {
    let mut family = family(CHILD);
    assert_eq!(family.executed(&exec(CHILD)), Some(1));
    let pids: Vec<_> = family.spaces.iter().map(|space| space.pid).collect();
    assert_eq!(pids, [TARGET, CHILD]);
    // The child's own goes with it.
    family.ended_space(1);
    family.ended(&ends(CHILD));
    assert_eq!(family.take_gone(PATIENCE).len(), 1);
    assert_eq!(family.spaces.len(), 1);
    assert_eq!(family.spaces[0].pid, TARGET);
}

#[test]
fn of_two_address_spaces_at_one_place_in_memory_the_older_one_has_ended() {
    let mut family = family(CHILD);
    let ledger = family.spaces[0].ledger.blank();
    let names = Names::new(CHILD, Vec::new());
    family
        .spaces
        .push(Space::new((1, MM, CHILD), ledger, names));
    assert_eq!(family.find(MM), Some(1));
    assert_eq!(family.find(0), None);
}
