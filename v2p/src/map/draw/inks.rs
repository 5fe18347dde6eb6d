//! What has which colour.

use crate::{
    map::{
        changes::{Change, Counts},
        picture::Colour,
        survey::Group,
    },
    render::mapping_name,
};

/// For the mappings with the most pages, in this order; then for all others together.
const COLOURS: [Colour; 9] = [
    Colour(31, 119, 180),
    Colour(214, 39, 40),
    Colour(44, 160, 44),
    Colour(255, 127, 14),
    Colour(148, 103, 189),
    Colour(140, 86, 75),
    Colour(227, 119, 194),
    Colour(23, 160, 190),
    Colour(158, 158, 20),
];
const OTHERS: Colour = Colour(73, 80, 87);

/// The colours of a picture.
pub(super) struct Inks {
    inks: Vec<Ink>,
    /// The ink of each kind of page.
    of_kind: Vec<u16>,
}

/// One colour.
pub(super) struct Ink {
    pub(super) name: String,
    pub(super) colour: Colour,
    /// Pages in a frame.
    pub(super) pages: u64,
    /// Pages on a swap device.
    pub(super) swapped: u64,
    stands_out: bool,
}

impl Inks {
    /// One a mapping: those with the most pages have one of their own.
    pub(super) fn of_groups(groups: &[Group]) -> Self {
        let mut order: Vec<_> = (0..groups.len()).collect();
        let pages = |i: &usize| groups.get(*i).map_or(0, |g| g.present);
        order.sort_by_key(|i| (std::cmp::Reverse(pages(i)), *i));
        let mut inks: Vec<Ink> = Vec::new();
        let mut of_kind = vec![0; groups.len()];
        for (rank, i) in order.iter().enumerate() {
            let Some(group) = groups.get(*i) else {
                continue;
            };
            // Where there is one too many, the last colour is no mapping's own.
            let last = inks.len() == COLOURS.len() + 1;
            match (last, inks.last_mut()) {
                (true, Some(others)) => {
                    others.pages += group.present;
                    others.swapped += group.swapped;
                }
                _ => inks.push(Ink {
                    name: match rank == COLOURS.len() && groups.len() > rank + 1 {
                        true => format!("{} other names", groups.len() - rank),
                        false => mapping_name(&group.name).to_owned(),
                    },
                    colour: COLOURS.get(rank).copied().unwrap_or(OTHERS),
                    pages: group.present,
                    swapped: group.swapped,
                    stands_out: false,
                }),
            }
            if let Some(kind) = of_kind.get_mut(*i) {
                *kind = u16::try_from(inks.len() - 1).unwrap_or(u16::MAX);
            }
        }
        Self { inks, of_kind }
    }

    /// One a kind of change.
    pub(super) fn of_changes(counts: &Counts) -> Self {
        let ink = |name: &str, colour, pages, stands_out| Ink {
            name: name.to_owned(),
            colour,
            pages,
            swapped: 0,
            stands_out,
        };
        let Counts {
            stayed,
            moved,
            came,
            left,
            swapped,
            ..
        } = *counts;
        // In the order of the kinds' numbers.
        let inks = vec![
            ink(
                "stayed in their frames",
                Colour(134, 160, 190),
                stayed,
                false,
            ),
            ink("moved away from here", Colour(253, 170, 60), moved, true),
            ink("moved to here", Colour(200, 30, 45), moved, true),
            ink("came: had no frame", Colour(40, 150, 70), came, true),
            ink(
                "left: have no frame now",
                Colour(120, 60, 160),
                left + swapped,
                true,
            ),
        ];
        let of_kind = [
            Change::Stayed,
            Change::MovedAway,
            Change::MovedHere,
            Change::Came,
            Change::Left,
        ];
        Self {
            inks,
            of_kind: of_kind.map(|kind| kind as u16).to_vec(),
        }
    }

    /// The number of the ink for a kind of page.
    pub(super) fn ink_of(&self, kind: u16) -> u16 {
        self.of_kind.get(usize::from(kind)).copied().unwrap_or(0)
    }

    fn get(&self, ink: u16) -> Option<&Ink> {
        self.inks.get(usize::from(ink))
    }

    pub(super) fn all(&self) -> &[Ink] {
        &self.inks
    }

    pub(super) fn colour(&self, ink: u16) -> Colour {
        self.get(ink).map_or(OTHERS, |ink| ink.colour)
    }

    pub(super) fn name(&self, ink: u16) -> &str {
        self.get(ink).map_or("", |ink| &ink.name)
    }

    /// Whether one page of it is shown before many of others.
    pub(super) fn stands_out(&self, ink: u16) -> bool {
        self.get(ink).is_some_and(|ink| ink.stands_out)
    }
}

/// How strong the colour is of a cell that has so many of so many frames, in tenths.
pub(super) const fn strength(pages: u64, frames: u64) -> u16 {
    match pages {
        // One frame may be mapped more than once.
        _ if pages >= frames => 10,
        _ if pages * 2 >= frames => 8,
        _ if pages * 8 >= frames => 7,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_mappings_have_colours_and_no_page_is_left_out() {
        let group = |i: u64| Group {
            name: format!("m{i}"),
            present: i,
            swapped: 1,
        };
        for n in [0, 1, 9, 10, 11, 40] {
            let groups: Vec<_> = (0..n).map(group).collect();
            let inks = Inks::of_groups(&groups);
            let sum: u64 = inks.all().iter().map(|ink| ink.pages).sum();
            assert_eq!(sum, (0..n).sum::<u64>());
            assert!(inks.all().len() <= COLOURS.len() + 1);
            if n > 0 {
                let last = u16::try_from(n - 1).unwrap();
                assert_eq!(inks.name(inks.ink_of(last)), format!("m{}", n - 1));
            }
            if n == 40 {
                assert_eq!(inks.name(inks.ink_of(0)), "31 other names");
                assert_eq!(inks.all()[9].swapped, 31);
            }
        }
    }
}
