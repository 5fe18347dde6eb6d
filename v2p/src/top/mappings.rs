//! What each mapping has, and what happened in it. Pure.

use std::cmp::Reverse;

use super::{sample::Sampled, series::Series};
use crate::render::mapping_name;

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Row {
    /// First address.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
    /// As /proc/PID/maps has it; empty for anonymous memory.
    pub name: String,
    /// Pages in a frame.
    pub present: u64,
    /// Pages on a swap device.
    pub swapped: u64,
    /// Pages that moved.
    pub moved: Series,
    /// Faults in it.
    pub faults: Series,
}

/// What the rows are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sort {
    /// Pages in a frame.
    #[default]
    Resident,
    /// Pages on a swap device.
    Swapped,
    /// Pages that moved.
    Moved,
    /// Faults.
    Faults,
    /// Where it lies.
    Address,
}

impl Sort {
    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Resident => Self::Swapped,
            Self::Swapped => Self::Moved,
            Self::Moved => Self::Faults,
            Self::Faults => Self::Address,
            Self::Address => Self::Resident,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resident => "resident",
            Self::Swapped => "swapped",
            Self::Moved => "moved",
            Self::Faults => "faults",
            Self::Address => "address",
        }
    }
}

/// What stands for mappings that are no more.
const GONE: &str = "(no mapping now)";

/// The mappings of a process, by address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mappings {
    /// Those that there are.
    pub rows: Vec<Row>,
    /// What happened at addresses that have no mapping any more, or had none yet when they were looked at.
    pub gone: Row,
}

impl Default for Mappings {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            gone: Row {
                name: GONE.to_owned(),
                ..Row::default()
            },
        }
    }
}

impl Mappings {
    /// Takes the mappings as they are now: what happened in one stays with it where it overlaps one of its name.
    pub fn update(&mut self, sampled: Vec<Sampled>) {
        let old = std::mem::take(&mut self.rows);
        let mut old: Vec<_> = old.into_iter().map(Some).collect();
        // Both are in order: what ends before this one begins is of none that follows.
        let mut first = 0;
        for Sampled {
            start,
            end,
            name,
            present,
            swapped,
        } in sampled
        {
            let is_before = |row: &Option<Row>| row.as_ref().is_none_or(|row| row.end <= start);
            first += old
                .iter()
                .skip(first)
                .take_while(|row| is_before(row))
                .count();
            let overlapping = old.iter_mut().skip(first);
            let overlapping =
                overlapping.take_while(|row| row.as_ref().is_none_or(|row| row.start < end));
            let same = |row: &&mut Option<Row>| {
                row.as_ref()
                    .is_some_and(|row| row.name == name && start < row.end)
            };
            let known = overlapping.into_iter().find(same).and_then(Option::take);
            self.rows.push(Row {
                start,
                end,
                name,
                present,
                swapped,
                ..known.unwrap_or_default()
            });
        }
        for row in old.into_iter().flatten() {
            self.gone.moved.total += row.moved.total;
            self.gone.faults.total += row.faults.total;
        }
        self.rows.sort_by_key(|row| row.start);
    }

    /// The mapping at an address.
    pub fn at(&mut self, va: u64) -> &mut Row {
        let after = self.rows.partition_point(|row| row.end <= va);
        match self.rows.get_mut(after).filter(|row| row.start <= va) {
            Some(row) => row,
            None => &mut self.gone,
        }
    }

    /// A second is over.
    pub fn roll(&mut self) {
        for row in self.rows.iter_mut().chain([&mut self.gone]) {
            row.moved.roll();
            row.faults.roll();
        }
    }

    /// Those whose names have `filter` in them, sorted.
    pub fn shown(&self, sort: Sort, filter: &str) -> Vec<&Row> {
        let gone = Some(&self.gone).filter(|gone| gone.moved.total + gone.faults.total > 0);
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .chain(gone)
            .filter(|row| mapping_name(&row.name).contains(filter))
            .collect();
        let key = |row: &&Row| match sort {
            Sort::Resident => row.present,
            Sort::Swapped => row.swapped,
            Sort::Moved => row.moved.total,
            Sort::Faults => row.faults.total,
            Sort::Address => 0,
        };
        if sort == Sort::Address {
            return rows;
        }
        rows.sort_by_key(|row| (Reverse(key(row)), Reverse(row.present), row.start));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(start: u64, end: u64, name: &str, present: u64) -> Sampled {
        Sampled {
            start,
            end,
            name: name.to_owned(),
            present,
            swapped: 0,
        }
    }

    #[test]
    fn what_happened_stays_with_a_mapping_that_grows() {
        let mut mappings = Mappings::default();
        mappings.update(vec![sampled(0x1000, 0x3000, "[heap]", 1)]);
        mappings.at(0x2000).moved.add(7);
        mappings.at(0x9000).moved.add(1);
        mappings.update(vec![
            sampled(0x0000, 0x1000, "a", 2),
            sampled(0x1000, 0x9000, "[heap]", 3),
        ]);
        let heap = mappings.at(0x8000);
        assert_eq!((heap.present, heap.moved.total), (3, 7));
        mappings.update(Vec::new());
        assert_eq!(mappings.gone.moved.total, 8);
        assert_eq!(mappings.shown(Sort::Moved, "").len(), 1, "it is told");
    }

    #[test]
    fn rows_are_sorted_and_filtered() {
        let mut mappings = Mappings::default();
        mappings.update(vec![
            sampled(0x1000, 0x2000, "b", 1),
            sampled(0x2000, 0x3000, "", 9),
            sampled(0x3000, 0x4000, "ab", 9),
        ]);
        let names = |sort, filter| -> Vec<_> {
            let rows = mappings.shown(sort, filter);
            rows.into_iter()
                .map(|row| mapping_name(&row.name))
                .collect()
        };
        assert_eq!(names(Sort::Resident, ""), ["(anonymous)", "ab", "b"]);
        assert_eq!(names(Sort::Address, ""), ["b", "(anonymous)", "ab"]);
        assert_eq!(names(Sort::Resident, "b"), ["ab", "b"]);
        assert_eq!(names(Sort::Resident, "anon"), ["(anonymous)"]);
    }
}
