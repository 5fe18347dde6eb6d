//! What the two events of a migration do to the ledger.

use v2p_common::{
    Pfn, event,
    pte::{Entry, Level},
};

use super::{
    Ledger,
    events::under_leaf,
    moves::{Change, Moves},
    readings::Found,
};
use crate::{record::Cause, state::PageState};

impl Ledger {
    pub(super) fn migration_set(&mut self, m: &event::Migration, moves: &mut Moves) {
        let Some(level) = Level::from_u32(m.level) else {
            return;
        };
        let pages = under_leaf(m.va, level);
        let Pfn(old) = Entry(m.entry).migration_pfn(self.paging);
        for page in pages.clone() {
            let from = self.pages.get(page);
            let seeded = self.is_seeded(page, m.header.t_ns);
            // Where the seeding is younger and found the page at rest, the migration was over by then.
            if seeded && matches!(from, PageState::Present { .. }) {
                continue;
            }
            let pfn = Pfn(old + page - pages.start);
            let before = PageState::Present { pfn };
            let known = matches!(from, PageState::Migrating { .. }) || from == before;
            if !seeded && !known && self.is_asked(page) {
                let mut come = Moves::default();
                let how = Found {
                    t_ns: m.header.t_ns,
                    mapped: true,
                    is_huge: true,
                };
                self.unseen(page, from, before, how, [moves, &mut come]);
                moves.0.extend(come.0);
            }
            // The last one counts: an entry may have gone without an event.
            self.in_transit.insert(page, pfn);
        }
    }

    pub(super) fn migration_remove(&mut self, m: &event::Migration, moves: &mut Moves) {
        let Some(level) = Level::from_u32(m.level) else {
            return;
        };
        let leaf = self.states_of_entry(m.va, level, Entry(m.entry));
        let Some((pages, state)) = leaf else { return };
        let change = Change::of(&m.header);
        for page in pages.clone() {
            let old = self.in_transit.remove(&page);
            if self.is_seeded(page, m.header.t_ns) || !self.is_asked(page) {
                continue;
            }
            // The event knows the old frame better than we do.
            let from = old.map_or_else(|| self.pages.get(page), |pfn| PageState::Present { pfn });
            let to = state.advanced(page - pages.start);
            self.change(page, from, to, Cause::Migration, &change, moves);
        }
    }
}
