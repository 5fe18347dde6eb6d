//! What a watch costs: the time that is added to a minor fault of the target, beside perf's; what a process pays that is not
//! watched, while v2p or perf looks at another; how soon the hooks are live; and a burst: one compaction of a punched GiB.
//!
//! As root: `cargo bench -p v2p --bench watch`, or `cargo xtask bench`. perf and bpftrace are rows where they are installed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench fails by panicking"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::fd::AsRawFd as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    ptr,
    time::{Duration, Instant},
};

use rustix::{
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use v2p::{
    common::{VirtAddr, pagemap::PagemapWord},
    kernel,
    process::Pagemap,
};

const PAGE: usize = 4096;
/// Faults of one round.
const FAULTS: usize = 1_000_000;
/// Mapped and given back so many at a time: the whole would be 4 GiB.
const AT_ONCE: usize = 100_000;
const ROUNDS: usize = 7;
const WORKLOAD: &str = "V2P_BENCH_WORKLOAD";
/// The workload that has memory with holes in it.
const PUNCHED: &str = "punched";
/// As `perf record`, of every fault with its address.
const PERF: [&str; 9] = [
    "record",
    "-q",
    "-e",
    "page-faults",
    "-c",
    "1",
    "-d",
    "-o",
    "/dev/null",
];
/// Has v2p tell of faults, and of the kind of access.
const FAULTS_TOLD: [&str; 1] = ["--faults"];
const GIB: usize = 1 << 30;

fn main() {
    match std::env::var_os(WORKLOAD) {
        Some(kind) if kind == PUNCHED => return punched(),
        Some(_) => return workload(),
        None => {}
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: it needs root");
        return;
    }
    let json = std::env::args().any(|a| a == "--json");
    let table = |line: String| {
        if !json {
            println!("{line}")
        }
    };
    table(format!(
        "\nLinux {}, {FAULTS} minor faults a round, medians of {ROUNDS}; what is added, as a ratio to what perf adds\n",
        kernel::release()
    ));
    let has = |program| {
        Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|o| o.status.success())
    };
    let (perf, bpftrace) = (has("perf"), has("bpftrace"));
    let mut rows: Vec<Row> = Vec::new();
    let mut lives = Vec::new();
    for _ in 0..ROUNDS {
        let mut add = |name, round| match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.rounds.push(round),
            None => rows.push(Row::new(name, round)),
        };
        add("no tracer", alone(Workload::start().round()));
        if perf {
            let name = "perf record -e page-faults -c 1 -d";
            add(name, alone(under("perf", &PERF)));
        }
        if bpftrace {
            let count = ["-e", "software:page-faults:1 { @ = count(); }"];
            let name = "bpftrace, counting all faults";
            add(name, alone(under("bpftrace", &count)));
        }
        let (ns, live_ms) = watched(&FAULTS_TOLD);
        add("v2p watch --faults --json", alone(ns));
        lives.push(live_ms);
        add("v2p watch --json", alone(watched(&[]).0));
        if perf {
            let name = "not watched, while perf records another";
            let perf = |pid| (start_tracer("perf", &PERF, pid), None);
            add(name, beside(perf));
        }
        for (name, told) in [
            ("not watched, while v2p watches another", &[][..]),
            ("not watched, while its faults are told", &FAULTS_TOLD),
        ] {
            let v2p = |pid| {
                let (v2p, out, _) = watch(pid, told);
                (v2p, Some(out))
            };
            add(name, beside(v2p));
        }
    }
    let base = median(&rows[0].all());
    let perf_adds = rows
        .iter()
        .find(|row| row.name.starts_with("perf"))
        .map(|row| row.added(base));
    table(format!(
        "{:<44} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "row", "median", "min", "max", "added", "ratio"
    ));
    for row in &rows {
        let (name, all, added) = (row.name, row.all(), row.added(base));
        let (median, ratio) = (median(&all), perf_adds.map(|perf| added / perf));
        let (low, high) = extremes(&all);
        if json {
            let row = json!({"type": "row", "row": name, "kernel": kernel::release(), "unit": "ns", "median": median,
                "min": low, "max": high, "added": added, "ratio": ratio});
            println!("{row}");
        }
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        table(format!(
            "{name:<44} {median:>6.0} ns {low:>6.0} ns {high:>6.0} ns {added:>6.0} ns {ratio:>7}"
        ));
    }
    let (low, high) = extremes(&lives);
    if json {
        let row = json!({"type": "row", "row": "hooks live", "kernel": kernel::release(), "unit": "ms",
            "median": median(&lives), "min": low, "max": high});
        println!("{row}");
    }
    table(format!(
        "hooks live after {:.0} ms (median), {low:.0} at least, {high:.0} at most",
        median(&lives)
    ));
    let burst = burst();
    if json {
        let row = json!({"type": "burst", "row": "compaction of a punched GiB", "kernel": kernel::release(),
            "elsewhere": burst.elsewhere, "moves": burst.moves, "lost": burst.lost, "ms": burst.ms});
        println!("{row}");
    }
    table(format!(
        "compaction of a punched GiB: {} pages lie elsewhere after it, {} moves told, {} events lost; {:.0} ms, {:.0} moves a second",
        burst.elsewhere,
        burst.moves,
        burst.lost,
        burst.ms,
        burst.moves as f64 / burst.ms * 1000.0
    ));
}

/// One compaction of all memory, as told of a process with holes in its own.
struct Burst {
    /// Pages whose frame is another one afterwards, by pagemap.
    elsewhere: usize,
    /// Moves by compaction that were told: more, where a page moved twice.
    moves: u64,
    lost: u64,
    /// From the order to its end.
    ms: f64,
}

fn burst() -> Burst {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(WORKLOAD, PUNCHED)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let start: u64 = line.trim().parse().unwrap();
    let (mut v2p, out, _) = watch(child.id(), &[]);
    let reader = std::thread::spawn(move || {
        let (mut moves, mut last) = (0, String::new());
        for line in out.lines().map_while(Result::ok) {
            if line.contains(r#""cause":"migration""#) {
                let one: Value = serde_json::from_str(&line).unwrap();
                moves += one["pages"].as_u64().unwrap();
            }
            last = line;
        }
        let end: Value = serde_json::from_str(&last).unwrap();
        (moves, end["lost"].as_u64().unwrap())
    });
    let before = frames(child.id(), start);
    let begin = Instant::now();
    std::fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
    let ms = begin.elapsed().as_secs_f64() * 1000.0;
    let after = frames(child.id(), start);
    interrupt(&mut v2p);
    let (moves, lost) = reader.join().unwrap();
    // It ends with its input.
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(before.len(), after.len());
    let elsewhere = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert!(
        moves + lost >= elsewhere as u64,
        "{moves} {lost} {elsewhere}"
    );
    Burst {
        elsewhere,
        moves,
        lost,
        ms,
    }
}

/// The frames of the GiB at `start`, hole or not.
fn frames(pid: u32, start: u64) -> Vec<Option<u64>> {
    let mut frames = Vec::new();
    let each = |_, word: PagemapWord| frames.push(word.pfn().map(|pfn| pfn.0));
    let end = VirtAddr(start + GIB as u64);
    assert!(
        Pagemap::of(pid)
            .unwrap()
            .words(VirtAddr(start), end, each)
            .unwrap()
    );
    frames
}

/// The child's side: a GiB of base pages, every second one given back, until its input ends.
fn punched() {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, written page by page, of which single pages are given back.
    unsafe {
        let start = mmap_anonymous(ptr::null_mut(), GIB, access, MapFlags::PRIVATE).unwrap();
        madvise(start, GIB, Advice::LinuxNoHugepage).unwrap();
        let pages = (0..GIB / PAGE).map(|i| start.cast::<u8>().add(i * PAGE));
        pages.clone().for_each(|page| page.write_volatile(1));
        for page in pages.skip(1).step_by(2) {
            madvise(page.cast(), PAGE, Advice::LinuxDontNeed).unwrap();
        }
        println!("{}", start as u64);
    }
    let _ = std::io::stdin().read(&mut [0]);
}

/// What is printed as one line.
struct Row {
    name: &'static str,
    rounds: Vec<Round>,
}

/// Nanoseconds a fault.
struct Round {
    ns: f64,
    /// Of the same process just before, with no tracer.
    before: Option<f64>,
}

const fn alone(ns: f64) -> Round {
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

fn extremes(all: &[f64]) -> (f64, f64) {
    all.iter()
        .fold((f64::MAX, 0f64), |(l, h), x| (l.min(*x), h.max(*x)))
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// A child that takes faults when it is told to.
struct Workload {
    child: Child,
    go: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Workload {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(WORKLOAD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let go = child.stdin.take().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, go, said }
    }

    /// Nanoseconds a fault.
    fn round(&mut self) -> f64 {
        self.go.write_all(b"\n").unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side.
fn workload() {
    for _ in std::io::stdin().lines() {
        let mut ns = 0;
        for _ in 0..FAULTS / AT_ONCE {
            let len = AT_ONCE * PAGE;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping, written page by page, and given back.
            unsafe {
                let start =
                    mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE).unwrap();
                madvise(start, len, Advice::LinuxNoHugepage).unwrap();
                let begin = Instant::now();
                (0..AT_ONCE).for_each(|i| start.cast::<u8>().add(i * PAGE).write_volatile(1));
                ns += begin.elapsed().as_nanos();
                munmap(start, len).unwrap();
            }
        }
        println!("{:.1}", ns as f64 / FAULTS as f64);
    }
}

fn interrupt(tracer: &mut Child) {
    let pid = Pid::from_raw(i32::try_from(tracer.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    tracer.wait().unwrap();
}

/// A round while `tracer` runs; it is told the workload by `-p`.
fn under(tracer: &str, arguments: &[&str]) -> f64 {
    let mut workload = Workload::start();
    let mut tracer = start_tracer(tracer, arguments, workload.child.id());
    let ns = workload.round();
    interrupt(&mut tracer);
    ns
}

fn start_tracer(tracer: &str, arguments: &[&str], pid: u32) -> Child {
    let tracer = Command::new(tracer)
        .args(arguments)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // They do not say when they are ready.
    std::thread::sleep(Duration::from_secs(2));
    tracer
}

/// v2p at the workload, and how many milliseconds it took until the hooks were live.
fn watch(pid: u32, told: &[&str]) -> (Child, BufReader<ChildStdout>, f64) {
    let begin = Instant::now();
    let mut v2p = Command::new(env!("CARGO_BIN_EXE_v2p"))
        .args(["watch", "--json", "--pid", &pid.to_string()])
        .args(told)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(v2p.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let live = begin.elapsed().as_secs_f64() * 1000.0;
    (v2p, out, live)
}

/// A round of a watched workload: every fault must come, and none be lost.
fn watched(told: &[&str]) -> (f64, f64) {
    let mut workload = Workload::start();
    let (mut v2p, out, live) = watch(workload.child.id(), told);
    let reader = std::thread::spawn(move || last_line(out));
    let ns = workload.round();
    interrupt(&mut v2p);
    let end: Value = serde_json::from_str(&reader.join().unwrap()).unwrap();
    assert_eq!(end["lost"], 0, "{end}");
    assert!(end["faults"].as_u64().unwrap() >= FAULTS as u64, "{end}");
    (ns, live)
}

/// Reads as seldom as it can: there are two processors, and perf, which writes to /dev/null, has no reader at all.
fn last_line(mut out: BufReader<ChildStdout>) -> String {
    const ROOM: usize = 1 << 20;
    const TAIL: usize = 4096;
    // SAFETY: a number for a pipe of ours. Where it stays smaller it is read oftener.
    unsafe { libc::fcntl(out.get_ref().as_raw_fd(), libc::F_SETPIPE_SZ, ROOM) };
    let mut tail = Vec::new();
    let mut buffer = vec![0; ROOM];
    while let Ok(n @ 1..) = out.read(&mut buffer) {
        // Short reads leave some of what was there before.
        let kept = TAIL.saturating_sub(n).min(tail.len());
        tail.drain(..tail.len() - kept);
        tail.extend_from_slice(&buffer[n.saturating_sub(TAIL)..n]);
        std::thread::sleep(Duration::from_millis(1));
    }
    String::from_utf8_lossy(&tail)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

/// Two rounds of a workload that nobody watches: by itself, and while the tracer that is started looks at an idle process, which is what
/// any tracer of page faults makes others pay.
fn beside(start: impl FnOnce(u32) -> (Child, Option<BufReader<ChildStdout>>)) -> Round {
    let (idle, mut workload) = (Workload::start(), Workload::start());
    let before = Some(workload.round());
    let (mut tracer, _out) = start(idle.child.id());
    let ns = workload.round();
    interrupt(&mut tracer);
    Round { ns, before }
}
