//! The moves in some events, each with the time at which it began: pure.

use std::collections::BTreeMap;

use v2p_common::event::Event;

use crate::{
    kernel::reason::Reasons,
    ledger::Ledger,
    record::{Cause, Move},
    state::PageState,
};

/// Since when a page was no longer what it had been.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Began {
    /// For a migration the time of its entry, for all else that of the event.
    pub(super) at_ns: u64,
    /// What the page holds is copied after that, and so is what was written until then: migration, swap-out (unmapped first,
    /// then written out: shrink_folio_list, mm/vmscan.c, 6.1 to 7.3). All other events come when the deed is done (fexit):
    /// what was written a moment before may have come too late.
    pub(super) copied_later: bool,
    /// Another page came in its place within the deed, a copy of it that may have been made before: on write, by KSM, of a collapse.
    pub(super) copied_before: bool,
}

/// A move, and its beginning.
pub(super) struct Begun {
    pub(super) began: Began,
    pub(super) one: Move,
}

/// The moves in `events`. Migrations that moved nothing leave no trace.
pub(super) fn moves(ledger: &mut Ledger, events: &[Event]) -> Vec<Begun> {
    let mut entries = BTreeMap::new();
    let mut moves = Vec::new();
    for event in events {
        let at_ns = event.header().t_ns;
        let mut entered = None;
        match event {
            Event::MigrationSet(m) => {
                entries.insert(m.va, at_ns);
            }
            Event::MigrationRemove(m) => entered = entries.remove(&m.va),
            _ => {}
        }
        let begun = ledger.apply(event).into_iter();
        moves.extend(begun.map(|one| {
            let copied_later = entered.is_some() || one.cause == Cause::SwapOut;
            let is_there = |state| matches!(state, PageState::Present { .. });
            Begun {
                began: Began {
                    // What the ledger tells late has its own time.
                    at_ns: entered.unwrap_or(one.t_ns),
                    copied_later,
                    copied_before: !copied_later && is_there(one.from) && is_there(one.to),
                },
                one,
            }
        }));
    }
    moves
}

/// Adds the kernel's reason to each migration whose call had ended by then: its event comes after those of its pages,
/// from the same thread.
pub(super) fn add_reasons(moves: &mut [Begun], events: &[Event], reasons: &Reasons) {
    for Begun { one, .. } in moves {
        let Some(by) = one.by else { continue };
        let ended = events.iter().find_map(|event| match event {
            Event::Migrated(m) if m.header.tid == by.tid && m.header.t_ns >= one.t_ns => Some(m),
            _ => None,
        });
        if one.cause == Cause::Migration {
            one.reason = ended.and_then(|ended| reasons.name(ended.number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::ZeroFrames;
    use v2p_common::{
        VirtAddr, event,
        pagemap::PagemapWord,
        pte::{Level, Paging},
    };

    const PAGE: u64 = 0x7f00_0000_0000;

    fn migration(kind: u32, t_ns: u64, va: u64, entry: u64) -> Event {
        let m = event::Migration {
            header: event::Header {
                kind,
                t_ns,
                ..Default::default()
            },
            va,
            entry,
            ..Default::default()
        };
        match kind {
            event::kind::MIGRATION_SET => Event::MigrationSet(m),
            _ => Event::MigrationRemove(m),
        }
    }

    fn set(t_ns: u64, va: u64, pfn: u64) -> Event {
        let entry = 28 << 59 | (!pfn << 14) >> 5;
        migration(event::kind::MIGRATION_SET, t_ns, va, entry)
    }

    fn remove(t_ns: u64, va: u64, pfn: u64) -> Event {
        migration(event::kind::MIGRATION_REMOVE, t_ns, va, pfn << 12 | 0x67)
    }

    fn ledger() -> Ledger {
        let paging = Paging {
            levels: 4,
            physical_mask: (1 << 52) - 1,
        };
        let mut ledger = Ledger::new(ZeroFrames::UNKNOWN, paging);
        for (va, pfn) in [(PAGE, 7), (PAGE + 4096, 70)] {
            ledger.seed(VirtAddr(va), PagemapWord(1 << 63 | pfn), false);
        }
        ledger
    }

    fn shape(events: &[Event]) -> Vec<(u64, bool, u64)> {
        let moves = moves(&mut ledger(), events);
        let shape = |m: &Begun| (m.began.at_ns, m.began.copied_later, m.one.t_ns);
        moves.iter().map(shape).collect()
    }

    #[test]
    fn a_move_begins_with_its_own_entry_and_not_with_one_that_was_aborted() {
        let events = [
            set(10, PAGE, 7),
            remove(20, PAGE, 7),
            set(100, PAGE, 7),
            remove(110, PAGE, 8),
            remove(120, PAGE, 9),
        ];
        assert_eq!(shape(&events), [(100, true, 110), (120, false, 120)]);
    }

    #[test]
    fn what_comes_in_place_of_a_page_may_be_a_copy_made_before_and_what_takes_it_away_is_none() {
        let fault = |t_ns, entry| {
            Event::Fault(event::Fault {
                header: event::Header {
                    kind: event::kind::FAULT,
                    t_ns,
                    ..Default::default()
                },
                va: PAGE,
                entry,
                level: Level::Pte as u32,
                flags: event::fault::PROTECTION,
            })
        };
        let events = [
            set(10, PAGE, 7),
            remove(20, PAGE, 8),
            fault(30, 9 << 12 | 0x67),
        ];
        let moves = moves(&mut ledger(), &events);
        let copied = moves.iter().map(|m| (m.one.cause, m.began.copied_before));
        assert!(copied.eq([(Cause::Migration, false), (Cause::Cow, true)]));
    }

    #[test]
    fn the_entry_of_another_page_is_not_taken_for_its_own() {
        let events = [
            set(10, PAGE, 7),
            set(15, PAGE + 4096, 70),
            remove(20, PAGE, 8),
            remove(25, PAGE + 4096, 80),
        ];
        assert_eq!(shape(&events), [(10, true, 20), (15, true, 25)]);
    }
}
