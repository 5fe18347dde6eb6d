//! Which way of moving a page is seen on which kernel, and how: a table of what the tests of mechanisms print.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::test;

/// Prints the table as Markdown; 1 where a test failed.
pub(crate) fn run() -> Result<u8> {
    let outputs = test::outputs_of_mechanisms()?;
    let columns: Vec<_> = outputs
        .iter()
        .map(|(kernel, output)| (kernel.as_str(), cells(output)))
        .collect();
    let (table, reasons) = table(&columns);
    println!("{table}\n{reasons}");
    let failed = |cells: &Cells| cells.values().any(|cell| *cell == Cell::Failed);
    Ok(u8::from(
        columns
            .iter()
            .any(|(_, cells)| cells.is_empty() || failed(cells)),
    ))
}

/// By the test's name without its family.
type Cells<'a> = BTreeMap<&'a str, Cell<'a>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell<'a> {
    Told(&'a str),
    Skipped(&'a str),
    Failed,
}

/// What one run says of each mechanism.
fn cells(output: &str) -> Cells<'_> {
    let lines = output.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("test mechanism_")?;
        let (name, said) = rest.split_once(" ... ")?;
        let cell = if let Some(told) = said.strip_prefix("matrix: ") {
            Cell::Told(told.rsplit_once(": ").map_or(told, |(_, proof)| proof))
        } else if let Some(reason) = said.strip_prefix("ignored (") {
            Cell::Skipped(reason.trim_end_matches(')'))
        } else {
            Cell::Failed
        };
        Some((name.trim(), cell))
    });
    lines.collect()
}

/// The table, and the reasons of what was skipped, by number.
fn table(columns: &[(&str, Cells<'_>)]) -> (String, String) {
    let mut reasons: Vec<&str> = Vec::new();
    let names: Vec<_> = columns
        .iter()
        .flat_map(|(_, cells)| cells.keys().copied())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let kernels: Vec<_> = columns.iter().map(|(kernel, _)| *kernel).collect();
    let mut table = format!(
        "| mechanism | {} |\n|{}\n",
        kernels.join(" | "),
        " --- |".repeat(kernels.len() + 1)
    );
    let mut skipped = 0;
    for name in names {
        let row = columns.iter().map(|(_, cells)| match cells.get(name) {
            Some(Cell::Told(proof)) => (*proof).to_owned(),
            Some(Cell::Failed) => "FAILED".to_owned(),
            Some(Cell::Skipped(reason)) => {
                skipped += 1;
                let known = reasons.iter().position(|r| r == reason);
                let number = known.unwrap_or_else(|| {
                    reasons.push(reason);
                    reasons.len() - 1
                });
                format!("({})", number + 1)
            }
            None => String::new(),
        });
        let row: Vec<_> = row.collect();
        table.push_str(&format!(
            "| {} | {} |\n",
            name.replace('_', " "),
            row.join(" | ")
        ));
    }
    let listed = reasons
        .iter()
        .enumerate()
        .map(|(i, reason)| format!("({}) {reason}", i + 1));
    let listed: Vec<_> = listed.collect();
    (table, format!("{skipped} skipped: {}", listed.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
test mechanism_munmap    ... matrix: munmap: event
ok
test mechanism_swap_out  ... ignored (no swap (here))
test mechanism_ksm_merge ... FAILED
test another             ... ok
";

    #[test]
    fn what_a_run_says_becomes_cells() {
        let cells = cells(OUTPUT);
        assert_eq!(cells.len(), 3);
        assert_eq!(cells.get("munmap"), Some(&Cell::Told("event")));
        assert_eq!(cells.get("swap_out"), Some(&Cell::Skipped("no swap (here")));
        assert_eq!(cells.get("ksm_merge"), Some(&Cell::Failed));
    }

    #[test]
    fn the_table_has_a_row_a_mechanism_and_the_reasons_below() {
        let (table, reasons) = table(&[("6.1", cells(OUTPUT)), ("6.12", Cells::new())]);
        assert!(table.contains("| mechanism | 6.1 | 6.12 |"));
        assert!(table.contains("| munmap | event |  |"));
        assert!(table.contains("| swap out | (1) |  |"));
        assert!(table.contains("| ksm merge | FAILED |  |"));
        assert_eq!(reasons, "1 skipped: (1) no swap (here");
    }
}
