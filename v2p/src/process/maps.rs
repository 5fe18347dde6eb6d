//! The mappings of a process.

use std::{fs, io, ops::Range as Span, path::Path};

use anyhow::Result;
use v2p_common::{PAGE_SIZE, PageSize};

use super::space::{at_a_root, is_over, over};
use crate::exit::Failure;

/// End of user addresses with five levels of page tables (Documentation/arch/x86/x86_64/mm.rst); what is above it, also
/// `[vsyscall]`, is the kernel's.
pub const USER_END: u64 = 1 << 56;
/// A range of virtual addresses, end excluded, in whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
}

/// `span` in whole pages of the size `largest`: events on a huge page carry its first address.
pub fn whole_leaves(span: Span<u64>, largest: PageSize) -> Span<u64> {
    let size = largest.bytes();
    let end = span.end.checked_next_multiple_of(size);
    span.start & !(size - 1)..end.unwrap_or(u64::MAX)
}

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
    /// Whether the process may write to it.
    pub writable: bool,
    /// What /proc/PID/maps calls it: a path, `[heap]`, ...; empty for anonymous memory.
    pub name: String,
}

impl Mapping {
    /// Its addresses.
    pub const fn range(&self) -> Range {
        Range {
            start: self.start,
            end: self.end,
        }
    }

    /// How many base pages it has.
    pub const fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_SIZE
    }

    /// Whether it lies in the kernel's half of the address space, which pagemap does not show: `[vsyscall]`.
    pub const fn is_kernels(&self) -> bool {
        self.start >= USER_END
    }

    /// Whether `name` means this mapping: all of its name, or the file name at its end. Names in brackets are the kernel's, whatever a file is called.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let is_file = || !name.starts_with('[') && self.name.rsplit('/').next() == Some(name);
        !self.name.is_empty() && (self.name == name || is_file())
    }

    /// The part of it in `range`.
    pub(super) fn part(&self, range: Range) -> Option<Self> {
        let (start, end) = (self.start.max(range.start), self.end.min(range.end));
        (start < end).then(|| Self {
            start,
            end,
            writable: self.writable,
            name: self.name.clone(),
        })
    }
}

/// The mappings of process `pid`, by address, without the kernel's own (`[vsyscall]`).
///
/// # Errors
/// Exit code 1 where the process has ended, 3 where we may not read it.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    let path = format!("/proc/{pid}/maps");
    // That of a thread that has ended is empty.
    let found = at_a_root(pid, |root| {
        let found = read(&root.join("maps"))?;
        if found.is_empty() {
            Err(over())
        } else {
            Ok(found)
        }
    });
    let mut mappings = match found {
        Err(e) if is_over(&e) => Vec::new(),
        found => found.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Failure::no(format!("process {pid} has ended")),
            io::ErrorKind::PermissionDenied => super::no_rights(&path, &e),
            _ => Failure::failed(format!("{path}: {e}")),
        })?,
    };
    mappings.retain(|mapping| !mapping.is_kernels());
    Ok(mappings)
}

/// The mappings that the file `maps` of a process tells, by address. None where it has no address space. Between two read(2)s of it a mapping may grow
/// over the next one's place, and is then told again, from its beginning (m_start, fs/proc/task_mmu.c, 6.1 to 7.3): each address counts once.
///
/// # Errors
/// Those of the kernel.
pub(super) fn read(path: &Path) -> io::Result<Vec<Mapping>> {
    of_lines(&fs::read(path)?)
}

fn of_lines(bytes: &[u8]) -> io::Result<Vec<Mapping>> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let mappings: io::Result<_> = lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse(line).ok_or_else(|| {
                io::Error::other(format!("not understood: {}", String::from_utf8_lossy(line)))
            })
        })
        .collect();
    mappings.map(apart)
}

/// One line: `START-END PERMS OFFSET DEV INODE`, then blanks and the name, which may have any bytes but a newline, which
/// the kernel writes as `\012` (show_map_vma, fs/proc/task_mmu.c).
pub(crate) fn parse(line: &[u8]) -> Option<Mapping> {
    let line = String::from_utf8_lossy(line);
    let (addresses, rest) = line.split_once(' ')?;
    let (start, end) = addresses.split_once('-')?;
    let name = rest.splitn(5, ' ').nth(4).unwrap_or_default();
    let [start, end] = [start, end].map(|place| u64::from_str_radix(place, 16).ok());
    let (start, end) = (start?, end?);
    (start <= end).then(|| Mapping {
        start,
        end,
        writable: rest.as_bytes().get(1) == Some(&b'w'),
        name: name.trim_start_matches(' ').to_owned(),
    })
}

/// By address, each address once: what was asked for twice is in the first that has it.
pub fn apart(mut selected: Vec<Mapping>) -> Vec<Mapping> {
    selected.sort_by_key(|mapping| mapping.start);
    let mut end = 0;
    selected.retain_mut(|mapping| {
        mapping.start = mapping.start.max(end);
        end = end.max(mapping.end);
        mapping.start < mapping.end
    });
    selected
}

impl Mapping {
    /// Whether it is addresses that no mapping has, which [`select`](super::select::select) gives as one.
    pub fn is_gap(&self) -> bool {
        self.name == NOT_MAPPED
    }
}

/// What stands for a name where nothing is mapped; no name of the kernel's is like it.
pub(super) const NOT_MAPPED: &str = "(not mapped)";

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_mapping_that_is_told_twice_because_it_grew_counts_once() {
        let text = b"10000-20000 rw-p 00000000 00:00 0 \n10000-30000 rw-p 00000000 00:00 0 \n30000-31000 r--p 00000000 00:00 0 [x]\n";
        let found = of_lines(text).unwrap();
        let ends: Vec<_> = found.iter().map(|m| (m.start, m.end)).collect();
        assert_eq!(
            ends,
            [(0x10000, 0x20000), (0x20000, 0x30000), (0x30000, 0x31000)]
        );
        assert!(of_lines(b"10000\n").is_err());
    }

    pub(in crate::process) fn mapping(start: u64, end: u64, name: &str) -> Mapping {
        Mapping {
            start,
            end,
            writable: true,
            name: name.to_owned(),
        }
    }

    #[test]
    fn what_was_asked_twice_is_there_once() {
        let asked = vec![
            mapping(0x5000, 0x9000, "b"),
            mapping(0x1000, 0x3000, "a"),
            mapping(0x6000, 0x7000, "b"),
            mapping(0x2000, 0x4000, "a"),
        ];
        assert_eq!(
            apart(asked),
            [
                mapping(0x1000, 0x3000, "a"),
                mapping(0x3000, 0x4000, "a"),
                mapping(0x5000, 0x9000, "b")
            ]
        );
    }

    #[test]
    fn any_name_is_read_as_it_stands() {
        let name = |line: &[u8]| parse(line).map(|m| (m.start, m.end, m.name));
        let line = b"7f00-7f01 r--p 00000000 00:00 0                          ";
        let with = |name: &[u8]| [line, name].concat();
        for text in [
            "/a b\\012c (deleted)",
            "/SYSV",
            "/SYSV00000000 (deleted)",
            "[anon:x y]",
            "/x  ",
        ] {
            assert_eq!(
                name(&with(text.as_bytes())),
                Some((0x7f00, 0x7f01, text.to_owned()))
            );
        }
        assert_eq!(name(&with(b"/\xff")).unwrap().2, "/\u{fffd}");
        assert_eq!(
            name(b"7f00-7f01 r--p 00000000 00:00 0 "),
            Some((0x7f00, 0x7f01, String::new()))
        );
        assert_eq!(name(b"7f00-7f01"), None);
        assert_eq!(name(b"7g00-7f01 r--p 0 0 0"), None);
    }
}
