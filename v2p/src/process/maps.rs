//! The mappings of a process, and which of them a RANGE means.

use anyhow::Result;
use procfs::process::MMapPath;

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

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
    /// What /proc/PID/maps calls it: a path, `[heap]`, ...; empty for anonymous memory.
    pub name: String,
}

impl Mapping {
    /// Whether frames may lie here that pagemap does not show: memory of devices, and pages that the kernel
    /// maps itself (VM_PFNMAP, which the walker of pagemap takes for a hole: mm/pagewalk.c).
    pub fn may_hide_frames(&self) -> bool {
        ["/dev/", "[vvar", "[vdso", "anon_inode:"]
            .iter()
            .any(|start| self.name.starts_with(start))
    }

    /// Whether `name` means this mapping: all of its name, or the file name at its end.
    fn is_called(&self, name: &str) -> bool {
        !self.name.is_empty() && (self.name == name || self.name.rsplit('/').next() == Some(name))
    }

    /// The part of it in `range`.
    fn part(&self, range: Range) -> Option<Self> {
        let (start, end) = (self.start.max(range.start), self.end.min(range.end));
        (start < end).then(|| Self {
            start,
            end,
            name: self.name.clone(),
        })
    }
}

/// What a person asks about: addresses, or mappings by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Addresses.
    Range(Range),
    /// Mappings of this name.
    Name(String),
}

/// The mappings of process `pid`, by address, without the kernel's own (`[vsyscall]`).
///
/// # Errors
/// Exit code 1 where the process has ended, 3 where we may not read it.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    use procfs::ProcError;
    let read = i32::try_from(pid).map_err(|_| ProcError::NotFound(None));
    let maps = read
        .and_then(procfs::process::Process::new)
        .and_then(|process| process.maps())
        .map_err(|e| match e {
            ProcError::NotFound(_) => Failure::no(format!("process {pid} has ended")),
            ProcError::PermissionDenied(_) => {
                Failure::unsupported(format!("/proc/{pid}/maps: permission denied"))
                    .hint("it needs ptrace rights on the process: run as root")
            }
            e => Failure::failed(format!("/proc/{pid}/maps: {e}")),
        })?;
    let mapping = |map: procfs::process::MemoryMap| Mapping {
        start: map.address.0,
        end: map.address.1,
        name: name(&map.pathname),
    };
    Ok(maps
        .into_iter()
        .map(mapping)
        .filter(|m| m.start < USER_END)
        .collect())
}

fn name(path: &MMapPath) -> String {
    match path {
        MMapPath::Path(path) => path.to_string_lossy().into_owned(),
        MMapPath::Heap => "[heap]".to_owned(),
        MMapPath::Stack => "[stack]".to_owned(),
        MMapPath::TStack(tid) => format!("[stack:{tid}]"),
        MMapPath::Vdso => "[vdso]".to_owned(),
        MMapPath::Vvar => "[vvar]".to_owned(),
        MMapPath::Vsyscall => "[vsyscall]".to_owned(),
        MMapPath::Rollup => "[rollup]".to_owned(),
        MMapPath::Anonymous => String::new(),
        MMapPath::Vsys(key) => format!("/SYSV{key:08x}"),
        MMapPath::Other(other) => format!("[{other}]"),
    }
}

/// What of `mappings` is asked about, in order; addresses that no mapping has come as a mapping
/// of no name, so that their absence is told too.
///
/// # Errors
/// Exit code 1 where no mapping has a name that was asked for.
pub fn select(mappings: &[Mapping], asked: &[Asked]) -> Result<Vec<Mapping>> {
    if asked.is_empty() {
        return Ok(mappings.to_vec());
    }
    let mut selected = Vec::new();
    for one in asked {
        match one {
            Asked::Range(range) => selected.extend(covered(mappings, *range)),
            Asked::Name(name) => {
                let before = selected.len();
                selected.extend(mappings.iter().filter(|m| m.is_called(name)).cloned());
                if selected.len() == before {
                    return Err(Failure::no(format!("no mapping is called {name:?}")).into());
                }
            }
        }
    }
    Ok(selected)
}

/// `range` in pieces: mappings and the gaps between them.
fn covered(mappings: &[Mapping], range: Range) -> Vec<Mapping> {
    let gap = |start, end| Mapping {
        start,
        end,
        name: "(not mapped)".to_owned(),
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
    use super::*;

    fn mapping(start: u64, end: u64, name: &str) -> Mapping {
        Mapping {
            start,
            end,
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_range_is_cut_into_mappings_and_gaps() {
        let maps = [mapping(0x2000, 0x4000, "a"), mapping(0x5000, 0x6000, "b")];
        let range = Asked::Range(Range {
            start: 0x1000,
            end: 0x7000,
        });
        let pieces = select(&maps, &[range]).unwrap();
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
        ];
        let called = |name: &str| select(&maps, &[Asked::Name(name.to_owned())]);
        assert_eq!(called("my lib.so (deleted)").unwrap().len(), 1);
        assert_eq!(called("/usr/lib/my lib.so (deleted)").unwrap().len(), 1);
        assert_eq!(called("[heap]").unwrap().len(), 1);
        assert!(called("").is_err());
        assert!(called("lib").is_err());
    }
}
