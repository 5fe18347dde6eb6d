//! Every test there is: without root, as root on this machine's kernel, and in guests; one closing count.

use std::{
    fmt,
    io::{self, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Executable},
    lab::{self, Job, Options},
    root, shell,
};

/// The suite that runs on every kernel.
const LIVE: &str = "live";

/// A guest, and what is known of it beforehand.
struct Guest {
    kernel: &'static str,
    append: &'static str,
    numa: bool,
    /// MiB of memory.
    memory: u32,
    /// What a write of RAM through /dev/mem meets there: `open`, or the check that denies.
    devmem: &'static str,
    /// Levels of page tables, where that is known.
    levels: Option<&'static str>,
    /// How often the injected move is tried.
    inject: &'static str,
    /// Families of tests that are left out there, since they run on that kernel in another guest: by the start of their
    /// names.
    skips: &'static [&'static str],
}

/// Each of its runs attaches and detaches a dozen programs: once a kind of kernel is enough.
const DOCTOR: &str = "doctor";
/// They want two nodes and room, and take a minute or two.
pub(crate) const MECHANISMS: &str = "mechanism";

const fn guest(kernel: &'static str, append: &'static str, devmem: &'static str) -> Guest {
    Guest {
        kernel,
        append,
        numa: false,
        memory: lab::MEMORY,
        devmem,
        levels: None,
        inject: "1",
        skips: &[MECHANISMS],
    }
}

/// What rare kinds of memory need: a page of a gigabyte, `[vsyscall]` in its fullest form, and two nodes to move pages between.
const fn with_rare_memory(kernel: &'static str) -> Guest {
    Guest {
        numa: true,
        memory: 4096,
        skips: &[DOCTOR],
        ..guest(
            kernel,
            "no5lvl vsyscall=emulate hugepagesz=1G hugepages=1",
            "open",
        )
    }
}

/// Two nodes, and all that moves pages between them.
const fn with_mechanisms(guest: Guest) -> Guest {
    Guest {
        numa: true,
        skips: &[],
        ..guest
    }
}

const fn with_levels(levels: &'static str, guest: Guest) -> Guest {
    Guest {
        levels: Some(levels),
        ..guest
    }
}

/// Opened kernels are booted without the part that turns five levels on, so they have four in any case; built and stock
/// ones have five unless they are told otherwise.
const GUESTS: [Guest; 15] = [
    with_levels("4", guest("opened-6.1", "secretmem.enable=1", "open")),
    with_levels("4", with_rare_memory("opened-6.1")),
    with_levels("4", guest("opened-6.12", "", "open")),
    with_levels("4", with_rare_memory("opened-6.12")),
    with_levels("4", guest("opened-7.3", "", "open")),
    with_levels("4", with_rare_memory("opened-7.3")),
    with_levels("5", with_mechanisms(guest("built-6.12", "", "open"))),
    with_levels("4", guest("built-6.12", "no5lvl nopat", "open")),
    with_levels("5", guest("stock-6.1", "", "strict-devmem")),
    with_levels("5", guest("stock-6.12", "", "strict-devmem")),
    with_levels(
        "4",
        guest("stock-6.12", "no5lvl iomem=relaxed", "strict-devmem"),
    ),
    with_levels("5", guest("stock-7.3", "", "strict-devmem")),
    guest("opened-6.12", "lockdown=integrity", "lockdown"),
    guest("stock-6.12", "lockdown=confidentiality", "confidentiality"),
    Guest {
        numa: true,
        inject: "100",
        skips: &[DOCTOR, MECHANISMS],
        ..guest("opened-6.12", "", "open")
    },
];

/// Passed, failed, skipped.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// What a harness's output says; `None` where its closing line is missing: it crashed.
    fn of(output: &str) -> Option<Self> {
        let line = output
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix("test result: "))?;
        let number = |what: &str| {
            let before = line.split(what).next()?;
            before.split_whitespace().next_back()?.parse().ok()
        };
        Some(Self {
            passed: number(" passed")?,
            failed: number(" failed")?,
            skipped: number(" ignored")?,
        })
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs them, where the title has `on` in it; gives 1 where one failed.
pub(crate) fn run(filter: Option<&str>, on: &str) -> Result<u8> {
    let start = Instant::now();
    let executables = build::tests()?;
    let mut total = Count::default();
    for test in executables.iter().filter(|e| e.test) {
        let title = title_here(test);
        if title.contains(on) {
            total.add(on_this_machine(&title, test, &executables, filter)?);
        }
    }
    for guest in &GUESTS {
        if shell::interrupted() {
            anyhow::bail!("interrupted");
        }
        let title = guest.title();
        if title.contains(on) {
            total.add(in_guest(&title, guest, &executables, filter));
        }
    }
    shell::step(&format!(
        "all tests: {:.0} s",
        start.elapsed().as_secs_f64()
    ));
    println!("{total}");
    Ok(u8::from(total.failed > 0))
}

/// What the tests of mechanisms print, on this machine and in every guest that runs them, by kernel.
pub(crate) fn outputs_of_mechanisms() -> Result<Vec<(String, String)>> {
    let executables = build::tests()?;
    let live = live(&executables)?;
    let here = Command::new(&live.path)
        .arg(MECHANISMS)
        .env("V2P_BIN", &build::binary(&executables, "v2p")?.path)
        .stdin(Stdio::null())
        .output()
        .with_context(|| live.path.display().to_string())?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let short = release.split(['-', '+']).next().unwrap_or_default();
    let mut outputs = vec![(
        format!("{} here", short.trim()),
        String::from_utf8_lossy(&here.stdout).into_owned(),
    )];
    for guest in GUESTS
        .iter()
        .filter(|g| !g.skips.contains(&MECHANISMS) && g.only().is_none())
    {
        shell::step(&format!("mechanisms on {}", guest.kernel));
        let (output, _) = try_in_guest(guest, &executables, Some(MECHANISMS))?;
        let levels = guest.levels.unwrap_or("?");
        outputs.push((format!("{}, {levels} levels", guest.kernel), output));
    }
    Ok(outputs)
}

fn live(executables: &[Executable]) -> Result<&Executable> {
    let mut tests = executables.iter().filter(|e| e.test);
    tests.find(|e| e.name == LIVE).context("no live suite")
}

fn title_here(test: &Executable) -> String {
    let package = test.package.strip_prefix(root()).unwrap_or(&test.package);
    format!("{} {} on this machine", package.display(), test.name)
}

impl Guest {
    /// The tests that make sense there, where not all do.
    fn only(&self) -> Option<&'static str> {
        (self.devmem == "confidentiality").then_some("confidentiality")
    }

    /// What is left out there, unless it is asked for by name.
    fn skipped(&self, filter: Option<&str>) -> Vec<String> {
        if filter.is_some() {
            return Vec::new();
        }
        let skip = |family: &&str| ["--skip".to_owned(), (*family).to_owned()];
        self.skips.iter().flat_map(skip).collect()
    }

    fn title(&self) -> String {
        let append = if self.append.is_empty() {
            String::new()
        } else {
            format!(" {}", self.append)
        };
        let nodes = if self.numa { " with two nodes" } else { "" };
        format!("v2p live on {}{append}{nodes}", self.kernel)
    }
}

/// Says what a harness printed; its count, or one failure where it has none.
fn tell(name: &str, took: Duration, output: &str, ended: &str) -> Count {
    let count = Count::of(output).unwrap_or(Count {
        failed: 1,
        ..Count::default()
    });
    // What failed or was skipped is worth reading; what passed is a number.
    let quiet = |line: &&str| line.ends_with("... ok") || line.is_empty();
    for line in output.lines().filter(|line| !quiet(line)) {
        println!("    {line}");
    }
    println!("{name}: {count} ({:.1} s){ended}", took.as_secs_f64());
    let _ = io::stdout().flush();
    count
}

fn arguments(filter: Option<&str>) -> Vec<String> {
    filter.into_iter().map(str::to_owned).collect()
}

fn on_this_machine(
    title: &str,
    test: &Executable,
    executables: &[Executable],
    filter: Option<&str>,
) -> Result<Count> {
    let start = Instant::now();
    let output = Command::new(&test.path)
        .args(arguments(filter))
        .env("V2P_BIN", &build::binary(executables, "v2p")?.path)
        .current_dir(&test.package)
        .stdin(Stdio::null())
        .output()
        .with_context(|| test.path.display().to_string())?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let ended = if output.status.success() {
        String::new()
    } else {
        format!(": {}", output.status)
    };
    Ok(tell(title, start.elapsed(), &text, &ended))
}

fn in_guest(title: &str, guest: &Guest, executables: &[Executable], filter: Option<&str>) -> Count {
    let start = Instant::now();
    match try_in_guest(guest, executables, filter) {
        Ok((output, status)) => {
            let ended = if status == 0 {
                String::new()
            } else {
                format!(": exit {status}")
            };
            tell(title, start.elapsed(), &output, &ended)
        }
        Err(e) => tell(title, start.elapsed(), "", &format!(": {e:#}")),
    }
}

fn try_in_guest(
    guest: &Guest,
    executables: &[Executable],
    filter: Option<&str>,
) -> Result<(String, i32)> {
    let options = Options {
        kernel: guest.kernel.to_owned(),
        append: guest.append.to_owned(),
        numa: guest.numa,
        memory: guest.memory,
        timeout: Duration::from_secs(900),
        ..Options::default()
    };
    let kernel = lab::prepare(&options, executables)?;
    let live = live(executables)?;
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut environment = vec![
        variable("V2P_BIN", "/bin/v2p"),
        variable("V2P_LAB_DEVMEM", guest.devmem),
        variable("V2P_INJECT_RUNS", guest.inject),
    ];
    environment.extend(
        guest
            .levels
            .map(|levels| variable("V2P_LAB_LEVELS", levels)),
    );
    let file = |place: &str, path: PathBuf| (place.to_owned(), path);
    let job = Job {
        files: vec![
            file("/bin/v2p", build::binary(executables, "v2p")?.path.clone()),
            file("/bin/live", live.path.clone()),
        ],
        command: [
            vec!["/bin/live".to_owned()],
            arguments(filter.or(guest.only())),
            guest.skipped(filter),
        ]
        .concat(),
        environment,
    };
    let mut kept = lab::Kept::default();
    let status = lab::run(&options, &kernel, executables, &job, &mut kept)?;
    let mut output = String::from_utf8_lossy(&kept.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&kept.stderr));
    Ok((output, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_a_harness_is_counted() {
        let output = "test a ... ok\ntest result: ok. 12 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out\n";
        let count = Count {
            passed: 12,
            failed: 1,
            skipped: 3,
        };
        assert_eq!(Count::of(output), Some(count));
        assert_eq!(count.to_string(), "12 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn a_harness_that_crashed_has_no_count() {
        assert_eq!(Count::of("running 3 tests\nSegmentation fault\n"), None);
    }
}
