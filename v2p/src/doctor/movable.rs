//! What may move a page here: the kernel's switches, read and judged.

use std::{fs, path::Path};

use serde::Serialize;

use super::check::{Check, Id};

/// Something that may move pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mover {
    /// What.
    pub name: &'static str,
    /// Whether it does here; null where it cannot be told.
    pub may: Option<bool>,
    /// What it does, or would.
    pub what: &'static str,
    /// The file and what it says.
    pub evidence: String,
    /// How to stop it.
    pub mend: &'static str,
}

/// A switch of the kernel: file, and how it is read.
pub(crate) struct Switch {
    name: &'static str,
    path: &'static str,
    /// `None`: it is not understood.
    may: fn(&str) -> Option<bool>,
    what: &'static str,
    mend: &'static str,
}

/// All of them.
pub(crate) const SWITCHES: [Switch; 15] = [
    Switch {
        name: "compaction",
        path: "/proc/sys/vm/compact_unevictable_allowed",
        // 0 spares mlocked pages alone (isolate_mode, mm/compaction.c, 6.12).
        may: |_| Some(true),
        what: "moves pages where large ones are short; unless this is 0, mlocked ones too",
        mend: "sysctl vm.compact_unevictable_allowed=0 (for mlocked pages)",
    },
    Switch {
        name: "proactive compaction",
        path: "/proc/sys/vm/compaction_proactiveness",
        may: is_not_zero,
        what: "compacts in the background, not only when memory is short",
        mend: "sysctl vm.compaction_proactiveness=0",
    },
    Switch {
        name: "NUMA balancing",
        path: "/proc/sys/kernel/numa_balancing",
        may: is_not_zero,
        what: "moves pages to the node that uses them, mlocked ones too",
        mend: "sysctl kernel.numa_balancing=0",
    },
    Switch {
        name: "KSM",
        path: "/sys/kernel/mm/ksm/run",
        may: |text| Some(text == "1"),
        what: "merges equal pages that their process marked MADV_MERGEABLE",
        mend: "echo 2 > /sys/kernel/mm/ksm/run",
    },
    Switch {
        name: "khugepaged",
        path: "/sys/kernel/mm/transparent_hugepage/enabled",
        may: |text| Some(!text.contains("[never]")),
        what: "collapses small pages into huge ones (madvise: only where asked for)",
        mend: "echo never > /sys/kernel/mm/transparent_hugepage/enabled",
    },
    // Counts whatever the switch of all sizes says (hugepage_pmd_enabled, mm/khugepaged.c, 6.12); 6.1 has none.
    Switch {
        name: "khugepaged, 2 MiB",
        path: "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled",
        may: |text| Some(text.contains("[always]") || text.contains("[madvise]")),
        what: "collapses small pages into huge ones, where this is not inherit or never",
        mend: "echo never > /sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled",
    },
    Switch {
        name: "khugepaged, shmem",
        path: "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        // `deny` is for emergencies, and `force` for tests (mm/shmem.c, 6.1 to 7.3).
        may: |text| Some(!text.contains("[never]") && !text.contains("[deny]")),
        what: "collapses small pages of shared memory into huge ones (advise: only where asked for)",
        mend: "echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
    },
    // Counts whatever the switch of all sizes says, but for `deny` (shmem_hpage_pmd_enabled, mm/shmem.c, 6.14 and later; 6.12 has the file).
    Switch {
        name: "khugepaged, shmem, 2 MiB",
        path: "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled",
        may: |text| Some(!text.contains("[never]") && !text.contains("[inherit]")),
        what: "collapses small pages of shared memory into huge ones, where this is not inherit or never",
        mend: "echo never > /sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled",
    },
    Switch {
        name: "file reclaim",
        path: "/proc/sys/vm/min_free_kbytes",
        // There is no switch; this is where it begins.
        may: |_| Some(true),
        what: "drops pages of files where memory is short, and they come back elsewhere",
        mend: "mlock them",
    },
    Switch {
        name: "demotion",
        path: "/sys/kernel/mm/numa/demotion_enabled",
        may: |text| Some(text == "true"),
        what: "moves pages to slower memory where there is such, instead of reclaiming them",
        mend: "echo false > /sys/kernel/mm/numa/demotion_enabled",
    },
    Switch {
        name: "swap",
        path: "/proc/swaps",
        may: |text| Some(text.lines().count() > 1),
        what: "takes pages out that are not mlocked, and brings them back elsewhere",
        mend: "swapoff -a",
    },
    Switch {
        name: "CMA",
        path: "/proc/meminfo",
        may: |text| field(text, "CmaTotal:").map(|kib| kib > 0).or(Some(false)),
        what: "pages in its areas make way for whoever asks for contiguous memory",
        mend: "boot with cma=0",
    },
    Switch {
        name: "hot-remove",
        path: "/sys/devices/system/memory/block_size_bytes",
        may: |_| Some(true),
        what: "moves everything out of a memory block that root sets offline",
        mend: "set no memory block offline",
    },
    Switch {
        name: "DAMON",
        path: "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds",
        may: is_not_zero,
        what: "moves or pages out by access pattern, where root set it up so",
        mend: "echo 0 > /sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds",
    },
    Switch {
        name: "DAMON_RECLAIM",
        path: "/sys/module/damon_reclaim/parameters/enabled",
        may: |text| Some(text == "Y"),
        what: "pages out what is not used",
        mend: "echo N > /sys/module/damon_reclaim/parameters/enabled",
    },
];

fn is_not_zero(text: &str) -> Option<bool> {
    text.parse::<u64>().ok().map(|n| n != 0)
}

/// The number of a line `NAME N kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Switch {
    fn read(&self) -> Mover {
        // A switch that is not there is one that the kernel lacks, but only where the kernel shows its switches: /proc may be mounted for processes
        // alone (subset=pid).
        let places = [
            ("/proc/sys/", "/proc/sys/vm"),
            ("/proc/", "/proc/meminfo"),
            ("/sys/", "/sys/kernel"),
        ];
        let place = places
            .iter()
            .find(|(place, _)| self.path.starts_with(place));
        if let Some((place, shown)) = place
            && !Path::new(shown).exists()
        {
            return self.mover(None, format!("{}: {place} is not shown here", self.path));
        }
        let text = fs::read_to_string(self.path).map(|text| text.trim().to_owned());
        self.judge(text.as_deref().map_err(|e| e.kind()))
    }

    /// What it means that the file says that, or why it says nothing.
    pub(crate) fn judge(&self, text: Result<&str, std::io::ErrorKind>) -> Mover {
        let (may, evidence) = match text {
            Ok(text) => ((self.may)(text), shown(self.path, text)),
            Err(std::io::ErrorKind::NotFound) => (Some(false), format!("no {}", self.path)),
            Err(kind) => (None, format!("{}: {kind}", self.path)),
        };
        self.mover(may, evidence)
    }

    const fn mover(&self, may: Option<bool>, evidence: String) -> Mover {
        Mover {
            name: self.name,
            may,
            what: self.what,
            evidence,
            mend: self.mend,
        }
    }
}

/// One line of evidence of what a file said.
fn shown(path: &str, text: &str) -> String {
    let line = match path {
        "/proc/meminfo" => text.lines().find(|line| line.starts_with("CmaTotal")),
        "/proc/swaps" => text.lines().nth(1),
        _ => text.lines().next(),
    };
    let words: Vec<_> = line.unwrap_or("nothing").split_whitespace().collect();
    format!("{} ({path})", words.join(" "))
}

/// All of them, as they stand now.
pub fn movers() -> Vec<Mover> {
    SWITCHES.iter().map(Switch::read).collect()
}

/// The check: which of them may.
pub fn check(movers: &[Mover]) -> Check {
    let names = |may| -> Vec<_> {
        let of = movers.iter().filter(|mover| mover.may == may);
        of.map(|mover| mover.name).collect()
    };
    let (moving, unknown) = (names(Some(true)), names(None));
    let pin = "what stops them all for our own page is a long-term pin (an io_uring registered buffer); mlock does not";
    let evidence = match unknown.is_empty() {
        true => "see each".to_owned(),
        false => format!("cannot tell: {}", unknown.join(", ")),
    };
    match (moving.is_empty(), unknown.is_empty()) {
        (true, true) => Check::ok(Id::Movable, "nothing moves pages by itself here", evidence),
        (true, false) => {
            Check::unknown(Id::Movable, "nothing that can be told", evidence).mend(pin)
        }
        (false, _) => {
            let what = format!("may move a page here: {}", moving.join(", "));
            Check::limits(Id::Movable, what, evidence).mend(pin)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Status;
    use std::io::ErrorKind;

    fn judge(name: &str, text: Result<&str, ErrorKind>) -> Mover {
        let switch = SWITCHES.iter().find(|switch| switch.name == name).unwrap();
        switch.judge(text)
    }

    #[test]
    fn switches_are_read_as_the_kernel_writes_them() {
        for (name, text, may) in [
            ("compaction", "1", Some(true)),
            // It still moves what is not mlocked.
            ("compaction", "0", Some(true)),
            ("proactive compaction", "0", Some(false)),
            ("proactive compaction", "?", None),
            ("KSM", "2", Some(false)),
            ("khugepaged", "always [madvise] never", Some(true)),
            ("khugepaged", "always madvise [never]", Some(false)),
            (
                "khugepaged, 2 MiB",
                "always [inherit] madvise never",
                Some(false),
            ),
            (
                "khugepaged, 2 MiB",
                "always inherit [madvise] never",
                Some(true),
            ),
            ("DAMON_RECLAIM", "N", Some(false)),
            ("swap", "Filename Type Size Used Priority", Some(false)),
            (
                "swap",
                "Filename Type\n/dev/sda2 partition 1 0 -2",
                Some(true),
            ),
            (
                "CMA",
                "MemTotal: 1 kB\nCmaTotal:       65536 kB",
                Some(true),
            ),
            ("CMA", "MemTotal: 1 kB", Some(false)),
        ] {
            assert_eq!(judge(name, Ok(text)).may, may, "{name}: {text}");
        }
    }

    #[test]
    fn a_kernel_without_the_switch_cannot_and_one_that_hides_it_may() {
        assert_eq!(judge("KSM", Err(ErrorKind::NotFound)).may, Some(false));
        let hidden = judge("KSM", Err(ErrorKind::PermissionDenied));
        assert_eq!(hidden.may, None);
        let check = check(&[hidden]);
        assert_eq!(check.status, Status::Unknown);
        assert!(check.evidence.contains("cannot tell: KSM"));
    }
}
