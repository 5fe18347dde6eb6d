//! What v2p does on which kernel: a table a family of what the live tests say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::Result;

use crate::{
    guests::{self, Guest},
    test::{self, Run},
};

/// Families whose tests are a row each: what a user asks of v2p on a kernel. The others hold it to bad input, trouble and load.
const SHOWN: [&str; 10] = [
    "demo",
    "translate",
    "states",
    "midway",
    "walk",
    guests::MECHANISMS,
    "write",
    "doctor",
    "boot",
    "trouble",
];

/// Ways of moving a page, and a cause of the doctor's, that no test makes, and why.
const NOT_MADE: [(&str, &str); 5] = [
    (
        "DAX",
        "it wants persistent memory and a file system on it; no guest has any",
    ),
    (
        "HMM",
        "it wants a device with memory of its own; no guest has one",
    ),
    (
        "a driver's remapping of device memory",
        "pagemap shows nothing of it, and no move is told",
    ),
    (
        "PAT's refusal to map RAM on 6.1 and 7.3",
        "it wants a kernel built without STRICT_DEVMEM, which is 6.12 alone here",
    ),
    (
        "a node without a driver on 6.1, 6.12 and 7.3",
        "it wants a kernel built without DEVMEM, which is the machine's own alone",
    ),
];

/// Runs every live test where the title has `on` in it, and prints the tables as Markdown; 1 where a test failed.
pub(crate) fn run(on: &str) -> Result<u8> {
    let (code, runs) = test::for_the_matrix(on)?;
    println!("\n{}\n{}", guests(&runs), tables(&runs));
    let not_made = NOT_MADE.map(|(name, why)| format!("{name} ({why})"));
    println!("No test makes: {}.", not_made.join("; "));
    Ok(code)
}

/// By family and test.
type Cells<'a> = BTreeMap<(&'a str, &'a str), Cell<'a>>;

/// In the order in which they count, where a kernel ran a test twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Cell<'a> {
    Skipped(&'a str),
    Told(&'a str),
    Failed,
}

/// What became of each guest: one that did not boot has no tests to tell of it.
fn guests(runs: &[Run]) -> String {
    let mut table = "| where | result |\n| --- | --- |\n".to_owned();
    for run in runs {
        let result = match run.ended() {
            true => run.count.to_string(),
            false => "FAILED: it did not come to its end".to_owned(),
        };
        // A String takes everything.
        let _ = writeln!(table, "| {} | {result} |", run.title);
    }
    table
}

/// What a kernel said.
struct Column<'a> {
    kernel: &'a str,
    cells: Cells<'a>,
    /// Guests of it that did not come to their end: what their families have not told has failed.
    broken: Vec<&'static Guest>,
}

impl Column<'_> {
    fn has(&self, family: &str) -> bool {
        self.failed(family) || self.cells.keys().any(|(known, _)| *known == family)
    }

    fn failed(&self, family: &str) -> bool {
        self.broken.iter().any(|guest| guest.runs(family))
    }
}

/// What one run says of each test.
fn cells(output: &str) -> Cells<'_> {
    let lines = output.lines().filter_map(|line| {
        let (family, rest) = line.trim().strip_prefix("test [")?.split_once("] ")?;
        let (name, said) = rest.split_once(" ... ")?;
        let cell = if let Some(told) = said.strip_prefix("matrix: ") {
            Cell::Told(told.rsplit_once(": ").map_or(told, |(_, proof)| proof))
        } else if let Some(reason) = said.strip_prefix("ignored (") {
            Cell::Skipped(reason.strip_suffix(')').unwrap_or(reason))
        } else if said == "ok" {
            Cell::Told("yes")
        } else {
            Cell::Failed
        };
        Some(((family, name.trim()), cell))
    });
    lines.collect()
}

/// A table a family, and the reasons of what was skipped, by number.
fn tables(runs: &[Run]) -> String {
    let mut columns: Vec<Column<'_>> = Vec::new();
    for run in runs {
        let known = columns.iter().position(|c| c.kernel == run.column);
        let at = known.unwrap_or(columns.len());
        if known.is_none() {
            columns.push(Column {
                kernel: &run.column,
                cells: Cells::new(),
                broken: Vec::new(),
            });
        }
        let Some(column) = columns.get_mut(at) else {
            continue;
        };
        for (test, cell) in cells(&run.output) {
            let known = column.cells.entry(test).or_insert(cell);
            *known = cell.max(*known);
        }
        if !run.ended() {
            column.broken.extend(run.guest);
        }
    }
    let mut reasons = Reasons::default();
    let tables: Vec<_> = SHOWN
        .iter()
        .filter_map(|family| table(family, &columns, &mut reasons))
        .collect();
    format!("{}\n{}", tables.join("\n"), reasons.told())
}

/// Why tests were skipped, each with its number.
#[derive(Default)]
struct Reasons<'a> {
    known: Vec<&'a str>,
    skipped: u32,
}

impl<'a> Reasons<'a> {
    fn number(&mut self, reason: &'a str) -> usize {
        self.skipped += 1;
        let known = self.known.iter().position(|r| *r == reason);
        known.unwrap_or_else(|| {
            self.known.push(reason);
            self.known.len() - 1
        }) + 1
    }

    fn told(&self) -> String {
        let listed = self.known.iter().enumerate();
        let listed: Vec<_> = listed
            .map(|(i, reason)| format!("({}) {reason}", i + 1))
            .collect();
        format!("{} skipped: {}\n", self.skipped, listed.join("; "))
    }
}

/// The kernels on which the family ran, and its tests there; none where it ran nowhere.
fn table<'a>(family: &str, columns: &[Column<'a>], reasons: &mut Reasons<'a>) -> Option<String> {
    let columns: Vec<_> = columns.iter().filter(|c| c.has(family)).collect();
    let told = columns.iter().flat_map(|column| column.cells.keys());
    let mut names: BTreeSet<_> = told
        .filter(|(f, _)| *f == family)
        .map(|(_, name)| *name)
        .collect();
    if columns.is_empty() {
        return None;
    }
    if names.is_empty() {
        // All of its guests are broken.
        names.insert("all tests");
    }
    let kernels: Vec<_> = columns.iter().map(|column| column.kernel).collect();
    let rule = " --- |".repeat(kernels.len() + 1);
    let mut table = format!("| {family} | {} |\n|{rule}\n", kernels.join(" | "));
    for name in names {
        let shown = name.strip_prefix(family).unwrap_or(name).replace('_', " ");
        // A String takes everything.
        let _ = write!(table, "| {} |", shown.trim());
        for column in &columns {
            let cell = column.cells.get(&(family, name));
            let _ = match cell {
                None if column.failed(family) => write!(table, " FAILED |"),
                Some(Cell::Told(proof)) => write!(table, " {proof} |"),
                Some(Cell::Failed) => write!(table, " FAILED |"),
                Some(Cell::Skipped(reason)) => write!(table, " ({}) |", reasons.number(reason)),
                None => write!(table, "  |"),
            };
        }
        table.push('\n');
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Count;

    const CLOSING: &str =
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";

    const OUTPUT: &str = "\
test [mechanism] mechanism_munmap    ... matrix: munmap: event
ok
test [mechanism] mechanism_swap_out  ... ignored (no swap (here))
test [mechanism] mechanism_ksm_merge ... FAILED
test [demo]      it_lands            ... ok
test another                         ... ok
";

    #[test]
    fn what_a_run_says_becomes_cells() {
        let cells = cells(OUTPUT);
        let cell = |name| cells.get(&("mechanism", name)).copied();
        assert_eq!(cells.len(), 4);
        assert_eq!(cell("mechanism_munmap"), Some(Cell::Told("event")));
        assert_eq!(
            cell("mechanism_swap_out"),
            Some(Cell::Skipped("no swap (here)"))
        );
        assert_eq!(cell("mechanism_ksm_merge"), Some(Cell::Failed));
    }

    fn run(kernel: &str, output: &str) -> Run {
        Run {
            title: kernel.to_owned(),
            column: kernel.to_owned(),
            guest: None,
            count: Count::default(),
            output: format!("{output}{CLOSING}"),
        }
    }

    #[test]
    fn each_family_has_its_table_and_the_reasons_stand_below() {
        let told = "test [mechanism] mechanism_swap_out ... matrix: swap out: event\n";
        let tables = tables(&[run("6.1", OUTPUT), run("6.12", told), run("7.3", "")]);
        for row in [
            "| demo | 6.1 |\n| --- | --- |\n| it lands | yes |\n",
            "| mechanism | 6.1 | 6.12 |\n",
            "| munmap | event |  |\n",
            "| swap out | (1) | event |\n",
            "| ksm merge | FAILED |  |\n",
            "1 skipped: (1) no swap (here)\n",
        ] {
            assert!(tables.contains(row), "{row}: {tables}");
        }
    }

    #[test]
    fn what_a_kernel_skipped_in_one_guest_and_did_in_another_it_did() {
        let skipped = "test [demo] it_lands ... ignored (denied)\n";
        let done = "test [demo] it_lands ... ok\n";
        for outputs in [[skipped, done], [done, skipped]] {
            let tables = tables(&outputs.map(|output| run("6.1", output)));
            assert!(tables.contains("| it lands | yes |"), "{tables}");
        }
    }

    #[test]
    fn a_guest_that_did_not_boot_has_failed_at_all_that_runs_there() {
        let guest = guests::GUESTS.iter().find(|g| g.runs("write"));
        let broken = Run {
            guest,
            output: String::new(),
            ..run("7.3", "")
        };
        let done = run("6.1", "test [write] it_lands ... ok\n");
        let tables = tables(&[done, broken]);
        assert!(tables.contains("| it lands | yes | FAILED |"), "{tables}");
        assert!(tables.contains("| all tests | FAILED |"), "{tables}");
    }
}
