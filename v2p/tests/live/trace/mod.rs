//! `v2p watch --output`: the trace holds what was printed. It is read back by Perfetto's schema, of which trace/perfetto.proto has
//! what is needed; and, where it is there, by the schema that Perfetto's maintainers publish themselves. Their trace processor is not
//! in their package, which fetches it from a host of its own at its first use.

mod schema;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use libtest_mimic::Trial;
use serde_json::Value;

use self::schema::Schema;
use crate::{
    Done,
    harness::{self, PATIENCE, Watching},
    map::Place,
    target::{PAGE, Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_trace_holds_every_move_that_was_printed", holds_all),
        trial("perfettos_own_schema_reads_the_same", official),
        trial("a_watch_that_fails_leaves_an_older_trace_alone", older),
        trial("a_trace_on_a_full_disk_is_an_error", full),
        trial("a_trace_that_was_cut_off_can_be_read", cut_off),
    ]
}

/// An instant of the trace.
#[derive(Debug)]
struct Instant {
    t_ns: u64,
    track: u64,
    category: String,
    name: String,
    /// DebugAnnotation: name -> text, address or number, as text.
    values: BTreeMap<String, String>,
}

/// A trace, read back.
struct Read {
    /// uuid -> name, parent.
    tracks: BTreeMap<u64, (String, Option<u64>)>,
    instants: Vec<Instant>,
    /// Values of each counter's track.
    counters: BTreeMap<u64, Vec<(u64, u64)>>,
}

/// What a trace is, by Perfetto's names for it.
fn json(trace: &[u8]) -> Value {
    let schema = Schema::parse(include_str!("perfetto.proto"));
    schema.read("Trace", trace).expect("a whole trace")
}

/// A number of 64 bits, which JSON has as text.
fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn read(trace: &[u8]) -> Read {
    let mut read = Read {
        tracks: BTreeMap::new(),
        instants: Vec::new(),
        counters: BTreeMap::new(),
    };
    let trace = json(trace);
    let packets = trace["packet"].as_array().unwrap();
    for packet in packets {
        assert_eq!(packet["trusted_packet_sequence_id"], 1);
        let track = &packet["track_descriptor"];
        if !track.is_null() {
            let uuid = number(&track["uuid"]);
            let parent = track["parent_uuid"].as_str().map(|n| n.parse().unwrap());
            let known = read.tracks.insert(uuid, (text(&track["name"]), parent));
            assert!(known.is_none(), "track {uuid} is described twice");
        }
        let event = &packet["track_event"];
        if !event.is_null() {
            read.event(packet, event);
        }
    }
    read
}

impl Read {
    fn event(&mut self, packet: &Value, event: &Value) {
        assert_eq!(packet["timestamp_clock_id"], 3, "CLOCK_MONOTONIC");
        let t_ns = number(&packet["timestamp"]);
        let track = number(&event["track_uuid"]);
        assert!(self.tracks.contains_key(&track), "described before");
        match event["type"].as_str().unwrap() {
            "TYPE_INSTANT" => {
                let none = Vec::new();
                let values = event["debug_annotations"].as_array().unwrap_or(&none);
                let values = values.iter().map(|value| {
                    let address = value["pointer_value"].as_str();
                    let address = address.map(|n| format!("{:#x}", n.parse::<u64>().unwrap()));
                    let number = value["uint_value"].as_str().map(str::to_owned);
                    let text = text(&value["string_value"]);
                    (
                        self::text(&value["name"]),
                        address.or(number).unwrap_or(text),
                    )
                });
                self.instants.push(Instant {
                    t_ns,
                    track,
                    category: text(&event["categories"][0]),
                    name: text(&event["name"]),
                    values: values.collect(),
                });
            }
            "TYPE_COUNTER" => {
                let value = number(&event["counter_value"]);
                self.counters.entry(track).or_default().push((t_ns, value));
            }
            other => panic!("an event of {other}"),
        }
    }
}

fn holds_all() -> Done {
    let mut target = Target::start();
    let place = Place::new("all.perfetto-trace");
    let pid = target.pid().to_string();
    let watching = Watching::start(&["--pid", &pid, "--faults", "--output", place.path()]);
    for i in 0..20 {
        target.tell("write", i);
    }
    target.must(libc::SYS_madvise, &[va(0), 10 * PAGE, 4]);
    target.tell("write", 3);
    let (records, status) = watching.interrupt();
    assert_eq!(status.code(), Some(0));
    let of = |kind: &str| -> Vec<&Value> { records.iter().filter(|r| r["type"] == kind).collect() };
    let (moves, faults) = (of("move"), of("fault"));
    assert!(moves.len() >= 21 && faults.len() >= 20, "{records:#?}");

    let trace = read(&fs::read(&place.0).unwrap());
    let of = |category: &str| -> Vec<&Instant> {
        let instants = trace.instants.iter();
        instants.filter(|i| i.category == category).collect()
    };
    // Each is on its mapping's track, with what was printed of it.
    assert_eq!(of("move").len(), moves.len());
    for (instant, one) in of("move").iter().zip(&moves) {
        assert_eq!(instant.t_ns, one["t_ns"].as_u64().unwrap());
        assert_eq!(instant.values["va"], one["va"].as_str().unwrap());
        assert_eq!(instant.values["pages"], one["pages"].to_string());
        assert_eq!(instant.values["proof"], one["proof"].as_str().unwrap());
        assert!(
            instant.name.starts_with(one["cause"].as_str().unwrap()),
            "{instant:?} {one}"
        );
        let (name, parent) = &trace.tracks[&instant.track];
        assert_eq!(*name, instant.values["mapping"]);
        assert_eq!(trace.tracks[&parent.unwrap()].0, "moves by mapping");
    }
    // And on that of who did it.
    let known = moves.iter().filter(|m| !m["by"].is_null()).count();
    assert_eq!(of("mover").len(), known);
    assert_eq!(of("fault").len(), faults.len());
    for instant in of("fault") {
        let (_, parent) = &trace.tracks[&instant.track];
        assert_eq!(
            trace.tracks[&parent.unwrap()].0,
            "moves and faults by thread"
        );
    }
    assert_rates(&trace, &moves);
    Done::Passed
}

/// The counters add up to what was moved: each stands for the tenth of a second that begins with it.
fn assert_rates(trace: &Read, moves: &[&Value]) {
    let counter = |name: &str| {
        let track = trace.tracks.iter().find(|(_, (n, _))| n == name);
        let (uuid, _) = track.unwrap_or_else(|| panic!("no track {name:?}"));
        &trace.counters[uuid]
    };
    let values = counter("pages moved a second");
    let mut sum = 0;
    for pair in values.windows(2) {
        let tenths = (pair[1].0 - pair[0].0) / 100_000_000;
        sum += pair[0].1 / 10 * tenths;
    }
    assert_eq!(values.last().unwrap().1, 0, "it ends");
    let pages: u64 = moves.iter().map(|m| m["pages"].as_u64().unwrap()).sum();
    assert_eq!(sum, pages, "{values:?}");
    assert_eq!(counter("lost events"), &[(counter("lost events")[0].0, 0)]);
}

/// What `cargo xtask setup` puts into the cache.
const PACKAGE: &str = "perfetto-0.59.1";

/// The same trace as JSON, by the Python package.
fn officially(trace: &[u8]) -> Result<Value, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.filter(|path| path.is_absolute());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = cache.or_else(home).ok_or("there is no HOME")?;
    let package = cache.join("v2p").join(PACKAGE);
    if !package.is_dir() {
        return Err(format!(
            "{PACKAGE} is not here: cargo xtask setup brings it"
        ));
    }
    let mut python = Command::new("python3")
        .args(["-B", "-c", include_str!("official.py")])
        .env("PYTHONPATH", package)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("python3: {e}"))?;
    python.stdin.take().unwrap().write_all(trace).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

fn official() -> Done {
    let mut target = Target::start();
    let place = Place::new("official.perfetto-trace");
    let pid = target.pid().to_string();
    let watching = Watching::start(&["--pid", &pid, "--faults", "--output", place.path()]);
    for i in 0..20 {
        target.tell("write", i);
    }
    target.must(libc::SYS_madvise, &[va(0), 10 * PAGE, 4]);
    let (records, _) = watching.interrupt();
    let trace = fs::read(&place.0).unwrap();
    let theirs = match officially(&trace) {
        Ok(theirs) => theirs,
        Err(reason) => return Done::Skipped(reason),
    };
    assert_eq!(theirs, json(&trace));
    let packets = theirs["packet"].as_array().unwrap();
    let is_move = |packet: &&Value| packet["track_event"]["categories"][0] == "move";
    let moves = records.iter().filter(|r| r["type"] == "move").count();
    assert_eq!(packets.iter().filter(is_move).count(), moves);
    Done::Passed
}

fn older() -> Done {
    let place = Place::new("older.perfetto-trace");
    // Beyond the largest number of a process.
    let arguments = ["watch", "--pid", "4194304", "--output", place.path()];
    let fails = || {
        let output = harness::run(&arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
    };
    fails();
    assert!(!place.0.exists(), "a watch that was not makes no file");
    fs::write(&place.0, "an older trace").unwrap();
    fails();
    assert_eq!(fs::read_to_string(&place.0).unwrap(), "an older trace");
    // The next one takes its place, though it is shorter.
    fs::write(&place.0, vec![0xff; 1 << 20]).unwrap();
    let target = Target::start();
    let pid = target.pid().to_string();
    let watching = Watching::start(&["--pid", &pid, "--output", place.path()]);
    watching.interrupt();
    assert!(!read(&fs::read(&place.0).unwrap()).tracks.is_empty());
    Done::Passed
}

fn full() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    let output = harness::run(&["watch", "--json", "--pid", &pid, "--output", "/dev/full"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.starts_with("v2p: watch: cannot write /dev/full: No space left on device")
            && errors.contains("moves the file holds 0 for sure")
            && errors.lines().count() == 2,
        "{errors}"
    );
    Done::Passed
}

fn cut_off() -> Done {
    let mut target = Target::start();
    let place = Place::new("cut.perfetto-trace");
    let pid = target.pid().to_string();
    let mut watching = Watching::start(&["--pid", &pid, "--output", place.path()]);
    let length = || fs::metadata(place.path()).unwrap().len();
    let before = length();
    target.tell("write", 3);
    watching.wait_for(|r| r["type"] == "move");
    // It was printed before the turn ends by which it is in the file.
    let printed = std::time::Instant::now();
    while length() == before && printed.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(300));
    // Dropped: killed as by SIGKILL.
    drop(watching);
    let trace = read(&fs::read(&place.0).unwrap());
    let moves = trace.instants.iter().filter(|i| i.category == "move");
    assert!(moves.count() >= 1);
    assert!(
        trace
            .instants
            .iter()
            .all(|i| i.category != "fault" || i.t_ns > 0)
    );
    Done::Passed
}
