//! Rounds of a workload while something looks at it, or at another.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::fd::AsRawFd as _,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    report::Round,
    workload::{FAULTS, Workload},
};

/// As `perf record`, of every fault with its address.
pub(crate) const PERF: [&str; 9] = [
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
pub(crate) const FAULTS_TOLD: [&str; 1] = ["--faults"];

pub(crate) fn interrupt(tracer: &mut Child) {
    let pid = Pid::from_raw(i32::try_from(tracer.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    tracer.wait().unwrap();
}

/// A round while `tracer` runs; it is told the workload by `-p`.
pub(crate) fn under(tracer: &str, arguments: &[&str]) -> f64 {
    let mut workload = Workload::start();
    let mut tracer = start_tracer(tracer, arguments, workload.child.id());
    let ns = workload.round();
    interrupt(&mut tracer);
    ns
}

pub(crate) fn start_tracer(tracer: &str, arguments: &[&str], pid: u32) -> Child {
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
pub(crate) fn watch(pid: u32, told: &[&str]) -> (Child, BufReader<ChildStdout>, f64) {
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
pub(crate) fn watched(told: &[&str]) -> (f64, f64) {
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

/// A round that nobody measures: every fault must come with its frame, and none be lost. Gives how many came.
pub(crate) fn with_frames() -> usize {
    let mut workload = Workload::start();
    let (mut v2p, out, _) = watch(workload.child.id(), &FAULTS_TOLD);
    let reader = std::thread::spawn(move || {
        let lines = out.lines().map_while(Result::ok);
        lines.fold((0, String::new()), |(told, _), line| {
            let is_told = line.contains(r#""type":"fault""#) && !line.contains(r#""pfn":null"#);
            (told + usize::from(is_told), line)
        })
    });
    workload.round();
    interrupt(&mut v2p);
    let (told, end) = reader.join().unwrap();
    let end: Value = serde_json::from_str(&end).unwrap();
    assert_eq!(end["lost"], 0, "{end}");
    assert!(told >= FAULTS, "{told} with a frame: {end}");
    told
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
pub(crate) fn beside(start: impl FnOnce(u32) -> (Child, Option<BufReader<ChildStdout>>)) -> Round {
    let (idle, mut workload) = (Workload::start(), Workload::start());
    let before = Some(workload.round());
    let (mut tracer, _out) = start(idle.child.id());
    let ns = workload.round();
    interrupt(&mut tracer);
    Round { ns, before }
}
