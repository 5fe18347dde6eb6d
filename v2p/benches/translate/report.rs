//! Rows, as a table or as JSON lines.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;
use v2p::kernel;

/// How often everything is measured.
pub(crate) const ROUNDS: usize = 11;

/// What a row must not be above.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    /// No bar.
    None,
    /// The ratio to the reference, which is the group's first row.
    Ratio(f64),
    /// Time.
    Time(Duration),
}

/// One thing that is measured.
pub(crate) struct Case<'a> {
    /// Its name.
    pub(crate) name: String,
    /// What it must not be above.
    pub(crate) bar: Bar,
    /// Does it once.
    pub(crate) work: Box<dyn FnMut() + 'a>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(name: impl Into<String>, bar: Bar, work: impl FnMut() + 'a) -> Self {
        Self {
            name: name.into(),
            bar,
            work: Box::new(work),
        }
    }
}

/// Where rows go.
pub(crate) struct Report {
    json: bool,
}

impl Report {
    /// Says what it runs on.
    pub(crate) fn begin(json: bool) -> Self {
        let (kernel, cpu) = (kernel::release(), value_of("/proc/cpuinfo", "model name"));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = value_of("/proc/meminfo", "MemTotal");
        if json {
            println!(
                "{}",
                json!({"type": "machine", "kernel": kernel, "cpu": cpu, "cpus": cpus, "memory": memory, "rounds": ROUNDS})
            );
        } else {
            println!("Linux {kernel} on {cpus} x {cpu}, {memory}; {ROUNDS} rounds");
        }
        Self { json }
    }

    /// Measures cases that belong together, one round of all after the other, so that what disturbs the machine disturbs
    /// all alike. The ratios are to the fastest of the first `references`.
    pub(crate) fn group(&mut self, title: &str, references: usize, mut cases: Vec<Case<'_>>) {
        let mut times = vec![Vec::new(); cases.len()];
        // The first round warms up and does not count.
        for round in 0..=ROUNDS {
            for (case, times) in cases.iter_mut().zip(&mut times) {
                let begin = Instant::now();
                (case.work)();
                if round > 0 {
                    times.push(u64::try_from(begin.elapsed().as_nanos()).unwrap());
                }
            }
        }
        self.heading(title, "us");
        let reference = times
            .iter()
            .take(references)
            .map(|times| median(times))
            .min();
        for (case, times) in cases.iter().zip(&times) {
            self.row(title, &case.name, "ns", times, reference, case.bar);
        }
    }

    /// The heading of a group of rows.
    pub(crate) fn heading(&self, title: &str, unit: &str) {
        if !self.json {
            println!(
                "\n{title:<50} {:>9} {:>9} {:>9} {:>6} {:>6}",
                format!("median {unit}"),
                "min",
                "max",
                "ratio",
                "bar"
            );
        }
    }

    /// One row. Values are in `unit`; the table shows thousands of `ns`.
    pub(crate) fn row(
        &self,
        group: &str,
        name: &str,
        unit: &str,
        values: &[u64],
        reference: Option<u64>,
        bar: Bar,
    ) {
        let (median, min, max) = (
            median(values),
            *values.iter().min().unwrap(),
            *values.iter().max().unwrap(),
        );
        let ratio = reference.map(|reference| median as f64 / reference as f64);
        let met = match (bar, ratio) {
            (Bar::Ratio(bar), Some(ratio)) => Some(ratio <= bar),
            (Bar::Time(bar), _) => Some(u128::from(median) <= bar.as_nanos()),
            _ => None,
        };
        if self.json {
            let bar = match bar {
                Bar::None => json!(null),
                Bar::Ratio(ratio) => json!({"ratio": ratio}),
                Bar::Time(time) => json!({"seconds": time.as_secs_f64()}),
            };
            println!(
                "{}",
                json!({"type": "row", "group": group, "row": name, "unit": unit, "median": median, "min": min, "max": max,
                    "ratio": ratio, "bar": bar, "met": met})
            );
            return;
        }
        let scale = if unit == "ns" { 1000 } else { 1 };
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let bar = match bar {
            Bar::None => String::new(),
            Bar::Ratio(ratio) => format!("{ratio:.2}"),
            Bar::Time(time) => time.as_micros().to_string(),
        };
        let met = if met == Some(false) { "  above" } else { "" };
        println!(
            "  {name:<48} {:>9} {:>9} {:>9} {ratio:>6} {bar:>6}{met}",
            median / scale,
            min / scale,
            max / scale
        );
    }
}

/// The value in the middle.
pub(crate) fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

fn value_of(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|rest| rest.split_once(':'));
    value
        .map_or("unknown", |(_, value)| value.trim())
        .to_owned()
}
