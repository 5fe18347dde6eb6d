//! Rows, as a table or as JSON lines.

use serde_json::json;
use v2p::kernel;

use crate::{ROUNDS, burst::Burst, workload::FAULTS};

/// What a watch adds to a fault should not be above, of what perf adds.
const ADDED_BAR: f64 = 1.0;
/// How many milliseconds after its start a watch should have its hooks live.
const LIVE_BAR_MS: f64 = 100.0;

/// Where rows go.
pub(crate) struct Report {
    json: bool,
}

impl Report {
    /// Says what it runs on.
    pub(crate) fn begin(json: bool) -> Self {
        let report = Self { json };
        report.table(&format!(
            "\nLinux {}, {FAULTS} minor faults a round, medians of {ROUNDS}; what is added, as a ratio to what perf adds\n",
            kernel::release()
        ));
        report
    }

    fn table(&self, line: &str) {
        if !self.json {
            println!("{line}");
        }
    }

    /// All rows; the first is that of no tracer.
    pub(crate) fn rows(&self, Rows(rows): &Rows) {
        let base = median(&rows[0].all());
        let perf = rows.iter().find(|row| row.name.starts_with("perf"));
        let perf_adds = perf.map(|row| row.added(base));
        self.table(&format!(
            "{:<44} {:>9} {:>9} {:>9} {:>9} {:>7} {:>6}",
            "row", "median", "min", "max", "added", "ratio", "bar"
        ));
        for row in rows {
            self.row(row, base, perf_adds);
        }
    }

    fn row(&self, row: &Row, base: f64, perf_adds: Option<f64>) {
        let (name, all, added) = (row.name, row.all(), row.added(base));
        let bar = name.starts_with("v2p watch").then_some(ADDED_BAR);
        let (median, ratio) = (median(&all), perf_adds.map(|perf| added / perf));
        let (low, high) = extremes(&all);
        if self.json {
            let row = json!({"type": "row", "row": name, "kernel": kernel::release(), "unit": "ns", "median": median,
                "min": low, "max": high, "added": added, "ratio": ratio, "bar": bar});
            println!("{row}");
        }
        let held = held(ratio, bar);
        let [ratio, bar] =
            [ratio, bar].map(|n| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.2}")));
        self.table(&format!(
            "{name:<44} {median:>6.0} ns {low:>6.0} ns {high:>6.0} ns {added:>6.0} ns {ratio:>7} {bar:>6}{held}"
        ));
    }

    /// How many milliseconds it took until the hooks were live.
    pub(crate) fn lives(&self, lives: &[f64]) {
        let (median, (low, high)) = (median(lives), extremes(lives));
        if self.json {
            let row = json!({"type": "row", "row": "hooks live", "kernel": kernel::release(), "unit": "ms",
                "median": median, "min": low, "max": high, "bar": LIVE_BAR_MS});
            println!("{row}");
        }
        let held = held(Some(median), Some(LIVE_BAR_MS));
        self.table(&format!(
            "hooks live after {median:.0} ms (median), {low:.0} at least, {high:.0} at most; bar {LIVE_BAR_MS:.0}{held}"
        ));
    }

    /// How many faults of a round came with their frame, and none was lost.
    pub(crate) fn frames(&self, told: usize) {
        if self.json {
            let row = json!({"type": "row", "row": "faults told with their frame", "kernel": kernel::release(), "unit": "faults",
                "faults": FAULTS, "told": told, "lost": 0});
            println!("{row}");
        }
        self.table(&format!(
            "{told} faults told with their frame in a round, 0 events lost"
        ));
    }

    pub(crate) fn burst(&self, burst: &Burst) {
        let Burst {
            elsewhere,
            moves,
            lost,
            ms,
        } = burst;
        if self.json {
            let row = json!({"type": "burst", "row": "compaction of a punched GiB", "kernel": kernel::release(),
                "elsewhere": elsewhere, "moves": moves, "lost": lost, "ms": ms});
            println!("{row}");
        }
        self.table(&format!(
            "compaction of a punched GiB: {elsewhere} pages lie elsewhere after it, {moves} moves told, {lost} events lost; {ms:.0} ms, {:.0} moves a second",
            *moves as f64 / ms * 1000.0
        ));
    }
}

/// The rows, in the order in which they were first met.
#[derive(Default)]
pub(crate) struct Rows(Vec<Row>);

impl Rows {
    pub(crate) fn add(&mut self, name: &'static str, round: Round) {
        match self.0.iter_mut().find(|row| row.name == name) {
            Some(row) => row.rounds.push(round),
            None => self.0.push(Row::new(name, round)),
        }
    }
}

/// What is printed as one line.
struct Row {
    name: &'static str,
    rounds: Vec<Round>,
}

/// Nanoseconds a fault.
pub(crate) struct Round {
    pub(crate) ns: f64,
    /// Of the same process just before, with no tracer.
    pub(crate) before: Option<f64>,
}

pub(crate) const fn alone(ns: f64) -> Round {
    Round { ns, before: None }
}

impl Row {
    fn new(name: &'static str, round: Round) -> Self {
        let rounds = vec![round];
        Self { name, rounds }
    }

    fn all(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.ns).collect()
    }

    /// What is added: to the same process's own time where that is known, else to `base`.
    fn added(&self, base: f64) -> f64 {
        let added = self.rounds.iter();
        let added = added.map(|round| round.ns - round.before.unwrap_or(base));
        median(&added.collect::<Vec<_>>())
    }
}

/// What is said where a bar is not met.
fn held(value: Option<f64>, bar: Option<f64>) -> &'static str {
    match (value, bar) {
        (Some(value), Some(bar)) if value > bar => "  above",
        _ => "",
    }
}

fn extremes(all: &[f64]) -> (f64, f64) {
    all.iter()
        .fold((f64::MAX, 0f64), |(l, h), x| (l.min(*x), h.max(*x)))
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
