//! The page-table walk: (mm, va) -> the entry that ends it.

use core::ops::ControlFlow::{self, Break, Continue};

use v2p_common::{
    VirtAddr,
    control::{DirectMap, Table},
    pte::{Entry, EntryState, Level},
};

use crate::{kread, maps};

/// Where a walk ended.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) level: Level,
    pub(crate) entry: u64,
}

/// The `pgd` of an mm: the direct-map address of its top table.
#[inline(always)]
pub(crate) fn pgd_of(mm: u64) -> Option<u64> {
    kread::word(mm + maps::layout().mm_pgd)
}

/// An entry, and the kernel address where it was read: of a walk, the one that led to the table which is read next.
#[derive(Clone, Copy)]
pub(crate) struct Above {
    pub(crate) address: u64,
    /// 0: none, the top table is read next.
    pub(crate) entry: u64,
}

/// How far down a walk for a table came. Always whole: with an `Option` in a loop the compiler leaves a register unset, which
/// the verifier refuses.
#[derive(Clone, Copy)]
pub(crate) struct Down {
    /// The table's direct-map address; 0: the walk ended above it.
    pub(crate) table: u64,
    /// The level of `entry`, [`Table::UNREADABLE`] where a table could not be read.
    pub(crate) level: u64,
    /// The last entry.
    pub(crate) entry: u64,
}

/// Walks down to the page table for `va`, or, with `directory`, to the page middle directory, each of whose entries stands
/// for a page table.
#[inline(always)]
pub(crate) fn to_table(direct_map: &DirectMap, pgd: u64, va: VirtAddr, directory: bool) -> Down {
    let (mut level, mut entry) = (Table::UNREADABLE, 0);
    let read = |address, _| kread::word(address);
    let mut walk = Walk::new(direct_map, va, read, |at, read| {
        (level, entry) = (at as u64, read)
    });
    let five_levels = direct_map.levels.get() == 5;
    let came = match directory {
        true => walk.top(pgd, five_levels),
        false => walk.upper(pgd, five_levels),
    };
    match came {
        Continue(table) => Down {
            table,
            level,
            entry,
        },
        Break(Some(_)) => Down {
            table: 0,
            level,
            entry,
        },
        Break(None) => Down {
            table: 0,
            level: Table::UNREADABLE,
            entry: 0,
        },
    }
}

/// Walks from the top table `pgd` down to the entry that maps `va`, by `read`, one of [`kread`]'s, and calls `visit` with
/// each entry on the way. `None` where a table could not be read.
#[inline(always)]
pub(crate) fn walk(
    direct_map: &DirectMap,
    pgd: u64,
    va: VirtAddr,
    read: impl Fn(u64, Above) -> Option<u64>,
    visit: impl FnMut(Level, u64),
) -> Option<End> {
    let mut walk = Walk::new(direct_map, va, read, visit);
    walk.run(pgd, direct_map.levels.get() == 5)
        .break_value()
        .flatten()
}

struct Walk<R, V> {
    base: u64,
    physical_mask: u64,
    va: VirtAddr,
    above: Above,
    read: R,
    visit: V,
}

impl<R: Fn(u64, Above) -> Option<u64>, V: FnMut(Level, u64)> Walk<R, V> {
    #[inline(always)]
    fn new(direct_map: &DirectMap, va: VirtAddr, read: R, visit: V) -> Self {
        Self {
            base: direct_map.base.get(),
            physical_mask: direct_map.physical_mask.get(),
            va,
            above: Above {
                address: 0,
                entry: 0,
            },
            read,
            visit,
        }
    }

    /// Level by level and not in a loop: the verifier must know each level as a constant, to
    /// see that what `visit` does with it stays in bounds.
    #[inline(always)]
    fn run(&mut self, pgd: u64, five_levels: bool) -> ControlFlow<Option<End>, u64> {
        let pte = self.upper(pgd, five_levels)?;
        self.down(pte, Level::Pte)
    }

    #[inline(always)]
    fn upper(&mut self, pgd: u64, five_levels: bool) -> ControlFlow<Option<End>, u64> {
        let pmd = self.top(pgd, five_levels)?;
        self.down(pmd, Level::Pmd)
    }

    #[inline(always)]
    fn top(&mut self, pgd: u64, five_levels: bool) -> ControlFlow<Option<End>, u64> {
        // With four levels the P4D is folded: the top table is indexed as one.
        let p4d = if five_levels {
            self.down(pgd, Level::Pgd)?
        } else {
            pgd
        };
        let pud = self.down(p4d, Level::P4d)?;
        self.down(pud, Level::Pud)
    }

    /// Goes on with the next lower table, or breaks with the walk's end.
    #[inline(always)]
    fn down(&mut self, table: u64, level: Level) -> ControlFlow<Option<End>, u64> {
        let address = table + 8 * level.index(self.va);
        let Some(entry) = (self.read)(address, self.above) else {
            return Break(None);
        };
        self.above = Above { address, entry };
        (self.visit)(level, entry);
        match Entry(entry).state(level, self.physical_mask) {
            EntryState::Table(pfn) => Continue(self.base + pfn.base().0),
            _ => Break(Some(End { level, entry })),
        }
    }
}
