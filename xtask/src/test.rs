//! Every test there is: without root, as root on this machine's kernel, and in guests; one closing count.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Executable},
    guests::{FOR_THE_MATRIX, GUESTS, Guest},
    harness::{self, Count},
    lab::{self, Job, Kernel},
    root, shell,
};

/// The suite that runs on every kernel.
const LIVE: &str = "live";
/// How long the soak is.
pub(crate) const SOAK_SECONDS: &str = "V2P_SOAK_SECONDS";
/// How many writes a row of the storm has.
pub(crate) const STORM_WRITES: &str = "V2P_STORM_WRITES";
/// How long the burst is.
pub(crate) const BURST_SECONDS: &str = "V2P_BURST_SECONDS";
/// What tests are told that shall be more than a glance.
pub(crate) const LONGER: [&str; 3] = [STORM_WRITES, SOAK_SECONDS, BURST_SECONDS];

/// Runs them, where the title has `on` in it; gives 1 where one failed.
pub(crate) fn run(filter: Option<&str>, on: &str) -> Result<u8> {
    everything(filter, on, GUESTS.iter()).map(|(code, _)| code)
}

/// The same, in the matrix's guests too; and what the live suite printed in each place.
pub(crate) fn for_the_matrix(on: &str) -> Result<(u8, Vec<Run>)> {
    everything(None, on, GUESTS.iter().chain(&FOR_THE_MATRIX))
}

fn everything(
    filter: Option<&str>,
    on: &str,
    guests: impl Iterator<Item = &'static Guest>,
) -> Result<(u8, Vec<Run>)> {
    let start = Instant::now();
    let executables = build::tests()?;
    let guests: Vec<_> = guests.filter(|g| g.title().contains(on)).collect();
    // First, since tests on this machine boot guests too, and wait for each as long as one takes that is there. One after the
    // other: packages are installed, and kernels built with all cores.
    let prepare = |guest: &&'static Guest| {
        let try_to = || match shell::interrupted() {
            true => Err(anyhow::anyhow!("interrupted")),
            false => lab::prepare(&guest.options(), &executables),
        };
        let kernel = try_to().or_else(|e| {
            // A package's server may have been away for a moment.
            shell::step(&format!("{}: once more, since: {e:#}", guest.title()));
            try_to()
        });
        (*guest, kernel)
    };
    let guests: Vec<_> = guests.iter().map(prepare).collect();
    let mut done = Done::default();
    for test in executables.iter().filter(|e| e.test) {
        let title = title_here(test);
        if title.contains(on) {
            let (count, output) = on_this_machine(&title, test, &executables, filter, &mut done)?;
            if test.name == LIVE {
                done.runs.push(Run {
                    title,
                    column: this_kernel(),
                    guest: None,
                    count,
                    output,
                });
            }
        }
    }
    in_guests(guests, &executables, filter, &mut done);
    if shell::interrupted() {
        anyhow::bail!("interrupted");
    }
    shell::step(&format!(
        "all tests: {:.0} s",
        start.elapsed().as_secs_f64()
    ));
    let Done {
        total,
        failures,
        runs,
    } = done;
    for failure in failures {
        println!("\n{failure}");
    }
    println!("{total}");
    Ok((u8::from(total.failed > 0), runs))
}

/// What ran so far.
#[derive(Default)]
struct Done {
    total: Count,
    /// What failed, and where: repeated at the end.
    failures: Vec<String>,
    runs: Vec<Run>,
}

/// One run of the live suite.
pub(crate) struct Run {
    pub(crate) title: String,
    /// Its column in the matrix.
    pub(crate) column: String,
    /// Where it ran; `None`: on this machine.
    pub(crate) guest: Option<&'static Guest>,
    pub(crate) count: Count,
    pub(crate) output: String,
}

impl Run {
    /// Whether it came to its end; else what it did not tell has failed.
    pub(crate) fn ended(&self) -> bool {
        Count::of(&self.output).is_some()
    }
}

/// Such as `6.18.44 here`.
fn this_kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let short = release.split(['-', '+']).next().unwrap_or_default();
    format!("{} here", short.trim())
}

/// Hands every parser of bytes from outside made-up ones, each for so many seconds (v2p/src/outside/mod.rs).
pub(crate) fn fuzz(seconds: u64) -> Result<()> {
    let executables = build::tests()?;
    // The library's, and those of the program, which has none of its own.
    let unit_tests = executables.iter().filter(|e| e.test && e.name == "v2p");
    for test in unit_tests {
        let mut fuzz = Command::new(&test.path);
        fuzz.args(["outside::", "made_up::", "--test-threads"])
            .arg(cores().to_string())
            .env("V2P_FUZZ_SECONDS", seconds.to_string())
            .current_dir(&test.package);
        shell::run(&mut fuzz)?;
    }
    Ok(())
}

/// How much can run at a time.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn live(executables: &[Executable]) -> Result<&Executable> {
    let mut tests = executables.iter().filter(|e| e.test);
    tests.find(|e| e.name == LIVE).context("no live suite")
}

fn title_here(test: &Executable) -> String {
    let package = test.package.strip_prefix(root()).unwrap_or(&test.package);
    format!("{} {} on this machine", package.display(), test.name)
}

impl Done {
    /// Says what a harness printed, and counts it: one failure where it has no count. `ended` is what is to be said of its end.
    fn tell(&mut self, title: &str, took: Duration, output: &str, ended: &str) -> Count {
        let count = Count::of(output).unwrap_or(Count {
            failed: 1,
            ..Count::default()
        });
        // What failed or was skipped is worth reading; what passed is a number.
        let quiet = |line: &&str| line.ends_with("... ok") || *line == "ok" || line.is_empty();
        for line in output.lines().filter(|line| !quiet(line)) {
            println!("    {line}");
        }
        println!("{title}: {count} ({:.1} s){ended}", took.as_secs_f64());
        let _ = io::stdout().flush();
        self.total.add(count);
        if count.failed > 0 {
            let failed = harness::failures(output).join("\n");
            self.failures
                .push(format!("FAILED, {title}{ended}\n{failed}"));
        }
        count
    }

    fn tell_guest(
        &mut self,
        guest: &Guest,
        took: Duration,
        ended: Result<(String, i32)>,
    ) -> (Count, String) {
        let (output, ended) = match ended {
            Ok((output, 0)) => (output, String::new()),
            Ok((output, status)) => (output, format!(": exit {status}")),
            Err(e) => (String::new(), format!(": {e:#}")),
        };
        let count = self.tell(&guest.title(), took, &output, &ended);
        (count, output)
    }
}

fn arguments(filter: Option<&str>) -> Vec<String> {
    filter.into_iter().map(str::to_owned).collect()
}

fn on_this_machine(
    title: &str,
    test: &Executable,
    executables: &[Executable],
    filter: Option<&str>,
    done: &mut Done,
) -> Result<(Count, String)> {
    let start = Instant::now();
    let mut arguments = arguments(filter);
    if test.name != LIVE {
        // Also of what passed.
        arguments.push("--show-output".to_owned());
    }
    let output = Command::new(&test.path)
        .args(arguments)
        .env("V2P_BIN", &build::binary(executables, "v2p")?.path)
        .current_dir(&test.package)
        .stdin(Stdio::null())
        .output()
        .with_context(|| test.path.display().to_string())?;
    let mut text = match String::from_utf8_lossy(&output.stdout) {
        text if test.name == LIVE => text.into_owned(),
        text => harness::without_successes(&text),
    };
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let ended = if output.status.success() {
        String::new()
    } else {
        format!(": {}", output.status)
    };
    Ok((done.tell(title, start.elapsed(), &text, &ended), text))
}

/// Boots them, as many at a time as this machine has cores: each keeps one busy.
fn in_guests(
    guests: Vec<(&'static Guest, Result<Kernel>)>,
    executables: &[Executable],
    filter: Option<&str>,
    done: &mut Done,
) {
    let queue = Mutex::new(guests.into_iter());
    let done = Mutex::new(done);
    let next = || lock(&queue).next().filter(|_| !shell::interrupted());
    let work = || {
        while let Some((guest, kernel)) = next() {
            let start = Instant::now();
            let ended = kernel.and_then(|kernel| try_in_guest(guest, &kernel, executables, filter));
            // Held while it is printed, so that no two guests' lines are mixed.
            let mut done = lock(&done);
            let (count, output) = done.tell_guest(guest, start.elapsed(), ended);
            done.runs.push(Run {
                title: guest.title(),
                column: guest.column(),
                guest: Some(guest),
                count,
                output,
            });
        }
    };
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(work);
        }
    });
}

/// Nothing that holds one can panic half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_in_guest(
    guest: &Guest,
    kernel: &Kernel,
    executables: &[Executable],
    filter: Option<&str>,
) -> Result<(String, i32)> {
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
    let longer = LONGER
        .iter()
        .filter_map(|name| Some(variable(name, &std::env::var(name).ok()?)));
    environment.extend(longer);
    let file = |place: &str, path: PathBuf| (place.to_owned(), path);
    let job = Job {
        files: vec![
            file("/bin/v2p", build::binary(executables, "v2p")?.path.clone()),
            file("/bin/live", live.path.clone()),
        ],
        command: [
            vec!["/bin/live".to_owned()],
            arguments(filter.or(guest.only)),
            guest.skipped(filter),
        ]
        .concat(),
        environment,
    };
    let mut kept = lab::Kept::default();
    let status = lab::run(&guest.options(), kernel, executables, &job, &mut kept)?;
    let mut output = String::from_utf8_lossy(&kept.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&kept.stderr));
    Ok((output, status))
}
