//! The guests in which the live tests run, and which of them run where.

use std::time::Duration;

use crate::{
    lab::{self, Nodes, Options},
    test::LONGER,
};

/// A guest, and what is known of it beforehand.
pub(crate) struct Guest {
    pub(crate) kernel: &'static str,
    append: &'static str,
    nodes: Nodes,
    /// MiB of memory.
    memory: u32,
    /// What a write of RAM through /dev/mem meets there: `open`, or the check that denies.
    pub(crate) devmem: &'static str,
    /// Levels of page tables, where that is known.
    pub(crate) levels: Option<&'static str>,
    /// How often the injected move is tried.
    pub(crate) inject: &'static str,
    /// The families of tests that run there; a family that is not in [`FAMILIES`] runs everywhere.
    families: &'static [&'static str],
    /// The tests that make sense there, where not all do: a part of their names.
    pub(crate) only: Option<&'static str>,
}

/// Families whose kernels are chosen below: what v2p says on a kernel is asked once a kind of kernel, not in every guest, of
/// which each test wants a few seconds. They are the modules of v2p/tests/live.
const FAMILIES: [&str; 23] = [
    "demo",
    "doctor",
    BOOT,
    "watch",
    "follow",
    "delivery",
    MECHANISMS,
    "walk",
    "translate",
    "states",
    "midway",
    "input",
    "trouble",
    "signals",
    "write",
    "storm",
    SOAK,
    "map",
    "leavings",
    "burst",
    // What people see of a watch, and what a help says: on this machine alone.
    "top",
    "trace",
    "examples",
];
/// They want two nodes and room, and take a minute or two.
pub(crate) const MECHANISMS: &str = "mechanism";

/// A long watch: `cargo xtask soak`.
pub(crate) const SOAK: &str = "soak";

/// Of the doctor, what a kernel or its command line makes a difference to; its other family is about who asks, with what
/// privileges, and runs once on each version: every question takes some seconds in a guest.
const BOOT: &str = "boot";

/// What depends on how the tables lie and on what /dev/mem answers.
const OF_THE_MACHINE: &[&str] = &["demo", BOOT, "walk"];
/// The same, with all of the doctor.
const WITH_DOCTOR: &[&str] = &["demo", "doctor", BOOT, "walk"];

const fn guest(kernel: &'static str, append: &'static str, devmem: &'static str) -> Guest {
    Guest {
        kernel,
        append,
        nodes: Nodes::One,
        memory: lab::MEMORY,
        devmem,
        levels: None,
        inject: "1",
        families: OF_THE_MACHINE,
        only: None,
    }
}

/// All but the doctor, which has a guest of its own; with what rare kinds of memory need: a page of a gigabyte, `[vsyscall]` in its fullest
/// form, and two nodes to move pages between.
const fn with_rare_memory(kernel: &'static str) -> Guest {
    Guest {
        nodes: Nodes::Two,
        memory: 4096,
        families: &[
            "demo",
            "watch",
            "follow",
            "delivery",
            "burst",
            "leavings",
            MECHANISMS,
            "walk",
            "translate",
            "states",
            "map",
            "midway",
            "input",
            "trouble",
            "write",
            "storm",
        ],
        ..guest(
            kernel,
            "no5lvl vsyscall=emulate hugepagesz=1G hugepages=1 secretmem.enable=1",
            "open",
        )
    }
}

const fn with_families(families: &'static [&'static str], guest: Guest) -> Guest {
    Guest { families, ..guest }
}

/// One boot for a few of the doctor's tests.
const fn of_a_boot(only: &'static str, guest: Guest) -> Guest {
    Guest {
        only: Some(only),
        ..with_families(&[BOOT], guest)
    }
}

const fn confidential(kernel: &'static str) -> Guest {
    Guest {
        only: Some("confidentiality"),
        ..with_families(
            &[BOOT, "trouble"],
            guest(kernel, "lockdown=confidentiality", "confidentiality"),
        )
    }
}

const fn with_levels(levels: &'static str, guest: Guest) -> Guest {
    Guest {
        levels: Some(levels),
        ..guest
    }
}

/// All kernels have five levels unless they are told otherwise. Those that take longest come first, so that the last to end is a short one.
pub(crate) const GUESTS: [Guest; 24] = [
    with_levels("4", with_rare_memory("opened-6.1")),
    with_levels("4", with_rare_memory("opened-6.12")),
    with_levels("4", with_rare_memory("opened-7.3")),
    with_levels(
        "5",
        Guest {
            nodes: Nodes::Two,
            // The one kernel here that refuses to map RAM for PAT's sake.
            families: &[
                "demo",
                BOOT,
                "watch",
                MECHANISMS,
                "walk",
                "translate",
                "states",
                "midway",
                "trouble",
                "write",
                "storm",
            ],
            ..guest("built-6.12", "", "open")
        },
    ),
    // Locked down: no /dev/mem. Hooks on functions load there, other than on the machine's own kernel.
    with_levels(
        "5",
        with_families(
            &["demo", BOOT, "watch", "follow", "delivery", "trouble"],
            guest("opened-6.12", "lockdown=integrity", "lockdown"),
        ),
    ),
    with_levels(
        "5",
        Guest {
            nodes: Nodes::Two,
            inject: "100",
            families: &["demo", "signals", SOAK],
            ..guest("opened-6.12", "", "open")
        },
    ),
    // As a user's machine is.
    with_levels(
        "5",
        with_families(ON_STOCK, guest("stock-7.3", "", "strict-devmem")),
    ),
    with_levels(
        "5",
        with_families(ON_STOCK_AND_WRITE, guest("stock-6.12", "", "strict-devmem")),
    ),
    with_levels(
        "5",
        with_families(ON_STOCK, guest("stock-6.1", "", "strict-devmem")),
    ),
    with_levels(
        "5",
        with_families(
            WITH_DOCTOR,
            guest("opened-6.1", "secretmem.enable=1", "open"),
        ),
    ),
    with_levels(
        "5",
        with_families(WITH_DOCTOR, guest("opened-6.12", "", "open")),
    ),
    with_levels(
        "5",
        with_families(WITH_DOCTOR, guest("opened-7.3", "", "open")),
    ),
    with_levels("4", guest("built-6.12", "no5lvl nopat", "open")),
    with_levels(
        "4",
        guest("stock-6.12", "no5lvl iomem=relaxed", "strict-devmem"),
    ),
    with_levels("5", confidential("stock-6.12")),
    // The same words for the oldest and the newest kernel: one boot each.
    with_levels("5", confidential("stock-6.1")),
    with_levels("5", confidential("stock-7.3")),
    with_levels("5", with_tiers("opened-6.12")),
    with_levels("5", with_tiers("opened-7.3")),
    with_levels("5", WITH_CMA),
    with_levels(
        "5",
        of_a_boot(
            "agrees",
            guest("opened-6.1", "lockdown=integrity", "lockdown"),
        ),
    ),
    with_levels(
        "5",
        of_a_boot(
            "agrees",
            guest("opened-7.3", "lockdown=integrity", "lockdown"),
        ),
    ),
    with_levels(
        "5",
        of_a_boot(
            "device",
            guest("stock-6.1", "iomem=relaxed nopat", "strict-devmem"),
        ),
    ),
    with_levels(
        "5",
        of_a_boot(
            "device",
            guest("stock-7.3", "iomem=relaxed nopat", "strict-devmem"),
        ),
    ),
];

/// Memory of two tiers, for the tests that want them.
const fn with_tiers(kernel: &'static str) -> Guest {
    Guest {
        nodes: Nodes::Tiers,
        only: Some("_tier_"),
        ..with_families(&[MECHANISMS], guest(kernel, "", "open"))
    }
}

/// Half of a zone is kept for one huge page, so that the kernel lends of it from the first page on.
const WITH_CMA: Guest = Guest {
    memory: 4096,
    only: Some("contiguous"),
    ..with_families(&[MECHANISMS], guest("opened-7.3", "hugetlb_cma=1G", "open"))
};

/// What the matrix has beside [`GUESTS`], so that every kernel stands in it with each kind of tables, and with each lockdown: `cargo xtask
/// matrix` alone boots them.
pub(crate) const FOR_THE_MATRIX: [Guest; 12] = [
    five_levels("opened-6.1"),
    five_levels("opened-6.12"),
    five_levels("opened-7.3"),
    with_levels(
        "4",
        Guest {
            nodes: Nodes::Two,
            families: OF_A_COLUMN,
            ..guest("built-6.12", "no5lvl", "open")
        },
    ),
    // How each mechanism is told under lockdown.
    with_levels("5", locked_down("opened-6.12", OF_A_COLUMN)),
    with_levels("5", locked_down("opened-6.1", WHAT_IS_LEFT)),
    with_levels("5", locked_down("opened-7.3", WHAT_IS_LEFT)),
    with_levels("5", locked_down("built-6.12", WHAT_IS_LEFT)),
    with_levels("5", confidential("opened-6.1")),
    with_levels("5", confidential("opened-6.12")),
    with_levels("5", confidential("opened-7.3")),
    with_levels("5", confidential("built-6.12")),
];

const fn five_levels(kernel: &'static str) -> Guest {
    with_levels(
        "5",
        Guest {
            nodes: Nodes::Two,
            families: OF_A_COLUMN,
            ..guest(kernel, "secretmem.enable=1", "open")
        },
    )
}

const fn locked_down(kernel: &'static str, families: &'static [&'static str]) -> Guest {
    Guest {
        nodes: Nodes::Two,
        families,
        ..guest(kernel, "lockdown=integrity", "lockdown")
    }
}

/// What the matrix tells of a kernel.
const OF_A_COLUMN: &[&str] = &[
    "demo",
    BOOT,
    MECHANISMS,
    "walk",
    "translate",
    "states",
    "write",
];
/// The same but for what takes longest.
const WHAT_IS_LEFT: &[&str] = &["demo", BOOT, "walk", "translate", "states"];

/// With five levels and the modules of a distribution.
const ON_STOCK: &[&str] = &["demo", BOOT, "watch", "walk", "translate", "states"];
/// The same, and what is refused or denied before anything is written: on one of them.
const ON_STOCK_AND_WRITE: &[&str] = &[
    "demo",
    BOOT,
    "watch",
    "walk",
    "translate",
    "states",
    "write",
];

impl Guest {
    pub(crate) fn options(&self) -> Options {
        Options {
            kernel: self.kernel.to_owned(),
            append: self.append.to_owned(),
            nodes: self.nodes,
            memory: self.memory,
            timeout: match LONGER.iter().any(|name| std::env::var_os(name).is_some()) {
                true => Duration::from_secs(6 * 3600),
                false => Duration::from_secs(2400),
            },
            ..Options::default()
        }
    }

    /// Kernel, levels and lockdown: guests of the same are one for the matrix.
    pub(crate) fn column(&self) -> String {
        let levels = self.levels.map(|levels| format!(", {levels} levels"));
        let words = self.append.split(' ');
        let lockdown = words.filter(|word| word.starts_with("lockdown="));
        let lockdown: String = lockdown.map(|word| format!(", {word}")).collect();
        format!("{}{}{lockdown}", self.kernel, levels.unwrap_or_default())
    }

    /// Whether a family runs there, if all of its tests do.
    pub(crate) fn runs(&self, family: &str) -> bool {
        self.only.is_none() && (self.families.contains(&family) || !FAMILIES.contains(&family))
    }

    /// What is left out there, unless it is asked for by name.
    pub(crate) fn skipped(&self, filter: Option<&str>) -> Vec<String> {
        if filter.is_some() {
            return Vec::new();
        }
        let left_out = FAMILIES.iter().filter(|f| !self.families.contains(f));
        left_out
            .flat_map(|family| ["--skip".to_owned(), format!("[{family}]")])
            .collect()
    }

    pub(crate) fn title(&self) -> String {
        let append = if self.append.is_empty() {
            String::new()
        } else {
            format!(" {}", self.append)
        };
        let nodes = match self.nodes {
            Nodes::One => "",
            Nodes::Two => " with two nodes",
            Nodes::Tiers => " with two tiers of memory",
        };
        format!("v2p live on {}{append}{nodes}", self.kernel)
    }
}
