//! Which of a process's mappings a RANGE means.

use anyhow::Result;
use v2p_common::VirtAddr;

use super::maps::{Mapping, NOT_MAPPED, Range};
use crate::exit::Failure;

/// Where the kernel's half of the address space starts, with as many levels (there too).
const KERNEL_START: u64 = 0xff00_0000_0000_0000;

/// What a person asks about: addresses, or mappings by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Addresses.
    Range(Range),
    /// Mappings of this name.
    Name(String),
    /// What may be either: mappings of this name, where there are any; else these addresses, or why it names none.
    Either(String, Result<Range, String>),
}

impl Asked {
    /// What a mapping may be called.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) | Self::Either(name, _) => Some(name),
            Self::Range(_) => None,
        }
    }

    /// The addresses where no mapping is called so, or why it names none; `None`: it is a name and nothing else.
    pub fn addresses(&self) -> Option<Result<Range>> {
        match self {
            Self::Range(range) | Self::Either(_, Ok(range)) => Some(Ok(*range)),
            Self::Either(_, Err(why)) => Some(Err(Failure::failed(why.clone()).into())),
            Self::Name(_) => None,
        }
    }
}

/// What of `mappings` is asked about, in order; addresses that no mapping has come as a mapping
/// of no name, so that their absence is told too. `end`: where the process's addresses end.
///
/// # Errors
/// Exit code 1 where no mapping has a name that was asked for, 2 where an address can be no process's, or what is asked for is none.
pub fn select(mappings: &[Mapping], asked: &[Asked], end: VirtAddr) -> Result<Vec<Mapping>> {
    if asked.is_empty() {
        return Ok(mappings.to_vec());
    }
    let mut selected = Vec::new();
    for one in asked {
        if let Some(name) = one.name() {
            let before = selected.len();
            selected.extend(mappings.iter().filter(|m| m.is_called(name)).cloned());
            if selected.len() > before {
                continue;
            }
        }
        let Some(range) = one.addresses() else {
            return Err(no_such_name(one.name().unwrap_or_default()).into());
        };
        let range = range?;
        let pieces = covered(mappings, range);
        let beyond = |piece: &Mapping| piece.end > end.0 && piece.is_gap();
        if pieces.iter().any(beyond) {
            return Err(beyond_the_end(range, end).into());
        }
        selected.extend(pieces);
    }
    Ok(selected)
}

fn no_such_name(name: &str) -> Failure {
    Failure::no(format!("no mapping is called {name:?}")).hint(
        "the names are those in /proc/PID/maps, or the last part of a path; an address starts with 0x",
    )
}

fn beyond_the_end(Range { start, end }: Range, VirtAddr(last): VirtAddr) -> Failure {
    Failure::failed(if start >= KERNEL_START {
        format!("{start:#x} is an address of the kernel's, not of a process")
    } else if start >= last {
        format!("{start:#x} is beyond the process's addresses, which end at {last:#x}")
    } else {
        format!("{start:#x}..{end:#x} goes beyond the process's addresses, which end at {last:#x}")
    })
}

/// `range` in pieces: mappings and the gaps between them.
fn covered(mappings: &[Mapping], range: Range) -> Vec<Mapping> {
    let gap = |start, end| Mapping {
        start,
        end,
        writable: false,
        name: NOT_MAPPED.to_owned(),
    };
    let mut pieces = Vec::new();
    let mut at = range.start;
    for part in mappings.iter().filter_map(|m| m.part(range)) {
        if at < part.start {
            pieces.push(gap(at, part.start));
        }
        at = part.end;
        pieces.push(part);
    }
    if at < range.end {
        pieces.push(gap(at, range.end));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::{
        super::maps::{USER_END, tests::mapping},
        *,
    };
    use crate::exit;

    #[test]
    fn a_range_is_cut_into_mappings_and_gaps() {
        let maps = [mapping(0x2000, 0x4000, "a"), mapping(0x5000, 0x6000, "b")];
        let range = Asked::Range(Range {
            start: 0x1000,
            end: 0x7000,
        });
        let pieces = select(&maps, &[range], VirtAddr(USER_END)).unwrap();
        let shape: Vec<_> = pieces
            .iter()
            .map(|m| (m.start, m.end, m.name.as_str()))
            .collect();
        let gap = "(not mapped)";
        assert_eq!(
            shape,
            [
                (0x1000, 0x2000, gap),
                (0x2000, 0x4000, "a"),
                (0x4000, 0x5000, gap),
                (0x5000, 0x6000, "b"),
                (0x6000, 0x7000, gap)
            ]
        );
    }

    #[test]
    fn a_mapping_is_called_by_its_name_its_path_or_its_file_name() {
        let maps = [
            mapping(0, 1, "/usr/lib/my lib.so (deleted)"),
            mapping(1, 2, "[heap]"),
            mapping(2, 3, ""),
            mapping(3, 4, "/tmp/[heap]"),
        ];
        let called =
            |name: &str| select(&maps, &[Asked::Name(name.to_owned())], VirtAddr(USER_END));
        assert_eq!(called("my lib.so (deleted)").unwrap().len(), 1);
        assert_eq!(called("/usr/lib/my lib.so (deleted)").unwrap().len(), 1);
        assert_eq!(called("[heap]").unwrap()[..], maps[1..2]);
        assert_eq!(called("/tmp/[heap]").unwrap()[..], maps[3..]);
        assert!(called("").is_err());
        assert!(called("lib").is_err());
    }

    #[test]
    fn what_may_be_either_is_a_name_where_a_mapping_has_it() {
        let maps = [
            mapping(0x1000, 0x2000, "/bin/xxd"),
            mapping(0x3000, 0x4000, "/tmp/cafebabe"),
        ];
        let range = Range {
            start: 0xcafe_b000,
            end: 0xcafe_c000,
        };
        let of = |maps, name: &str, range| {
            let asked = [Asked::Either(name.to_owned(), range)];
            let found = select(maps, &asked, VirtAddr(USER_END));
            found.map(|found| found.first().map(|mapping| mapping.start))
        };
        assert_eq!(of(&maps, "cafebabe", Ok(range)).unwrap(), Some(0x3000));
        assert_eq!(of(&[], "cafebabe", Ok(range)).unwrap(), Some(0xcafe_b000));
        let why = || Err("no address".to_owned());
        assert_eq!(of(&maps, "xxd", why()).unwrap(), Some(0x1000));
        let refused = of(&[], "xxd", why()).unwrap_err();
        assert_eq!(exit::code(&refused), exit::FAILED);
    }

    #[test]
    fn addresses_of_no_process_are_refused_and_vsyscall_is_not() {
        const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
        let maps = [
            mapping(0x1000, 0x2000, "a"),
            mapping(VSYSCALL, VSYSCALL + 0x1000, "[vsyscall]"),
        ];
        let end = VirtAddr(0x7fff_ffff_f000);
        let range = |start, end| Asked::Range(Range { start, end });
        let refused = |asked| select(&maps, &[asked], end).unwrap_err().to_string();
        for (from, to, says) in [
            (
                end.0,
                end.0 + 0x1000,
                "beyond the process's addresses, which end at 0x7ffffffff000",
            ),
            (
                end.0 - 0x1000,
                end.0 + 0x1000,
                "goes beyond the process's addresses",
            ),
            (
                1 << 63,
                (1 << 63) + 0x1000,
                "beyond the process's addresses",
            ),
            (
                0xffff_8880_0000_0000,
                0xffff_8880_0000_1000,
                "an address of the kernel's",
            ),
            (VSYSCALL, VSYSCALL + 0x2000, "an address of the kernel's"),
        ] {
            let error = refused(range(from, to));
            assert!(error.contains(says), "{from:#x}: {error}");
        }
        let found = select(&maps, &[range(VSYSCALL, VSYSCALL + 0x1000)], end).unwrap();
        assert_eq!(found, maps[1..]);
        assert!(select(&maps, &[range(end.0 - 0x1000, end.0)], end).is_ok());
    }
}
