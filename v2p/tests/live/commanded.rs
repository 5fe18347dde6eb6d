//! A command that a watch starts, and signals: to v2p, to the command, before it is started and after.

use std::{fs, panic::panic_any, process::Stdio, time::Instant};

use libtest_mimic::Trial;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};
use serde_json::Value;

use crate::{
    Again, Done,
    harness::{self, PATIENCE},
    leavings,
    signals::{SIGNALS, Struck, assert_ended, stages, struck_as_its_handler_is_set},
    target::Target,
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_command_that_was_not_started_is_said_to_be", not_started),
        trial("a_command_that_outlives_its_watch_is_said_to", goes_on),
        trial(
            "a_watched_command_outlives_no_signal_before_its_exec",
            a_command,
        ),
        trial(
            "a_signal_to_the_command_alone_waits_for_its_exec",
            to_the_command,
        ),
    ]
}

/// Nothing is told of what v2p itself was until then.
fn not_started() -> Done {
    for signal in [Signal::INT, Signal::TERM] {
        let arguments = [
            "watch",
            "--json",
            "--faults",
            "--",
            "touch",
            "/nowhere/at/all",
        ];
        let child = struck_as_its_handler_is_set(&arguments, signal);
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let said = "v2p: watch: touch was not started: a signal came before\n";
        assert_eq!(errors, said);
        let records = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(records.lines().count(), 2, "{records}");
        let end = harness::last_json(&output);
        assert_eq!((&end["why"], &end["moves"]), (&"signal".into(), &0.into()));
        assert_eq!(end["status"], Value::Null);
    }
    Done::Passed
}

fn goes_on() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    let program = harness::v2p().get_program().to_str().unwrap().to_owned();
    // It becomes our child as its parent ends.
    let this = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(this)).unwrap();
    // Files: who reads a pipe would wait for it too.
    let path = |what| format!("/tmp/v2p-goes-on-{what}-{}", std::process::id());
    let paths = ["out", "err"].map(path);
    let [out, err] = paths.each_ref().map(|path| fs::File::create(path).unwrap());
    let status = harness::v2p()
        .args(["watch", "--json", "--for", "0.2", "--"])
        .args([&program, "watch", "--pid", &pid])
        .stdout(out)
        .stderr(err)
        .status()
        .unwrap();
    let [told, errors] = paths.map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        text
    });
    let records: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let command = i32::try_from(records[0]["pid"].as_i64().unwrap()).unwrap();
    // It does.
    let command = Pid::from_raw(command).unwrap();
    kill_process(command, Signal::KILL).unwrap();
    waitpid(Some(command), WaitOptions::empty()).unwrap();
    rustix::process::set_child_subreaper(None).unwrap();
    assert_eq!(status.code(), Some(0), "{errors}");
    let said = format!("v2p: watch: {program} goes on, unwatched");
    assert!(errors.contains(&said), "{errors}");
    let end = records.last().unwrap();
    let (why, status) = (&end["why"], &end["status"]);
    assert_eq!((why, status), (&"duration".into(), &Value::Null));
    Done::Passed
}

fn a_command() -> Done {
    // One that ends by itself, and one that does not. What they do to their pages fills a pipe: a watch waits for who reads it.
    let target = Target::start();
    let pid = target.pid().to_string();
    let program = harness::v2p().get_program().to_str().unwrap().to_owned();
    for command in [&["--version"][..], &["watch", "--pid", &pid]] {
        let start = ["watch", "--json", "--", &program];
        let arguments = [&start, command].concat();
        for signal in SIGNALS {
            for after in stages() {
                let struck = Struck::start(&arguments, Stdio::null());
                let status = struck.with_a_reader().strike(after, signal);
                assert_ended(&arguments, status, signal, &[0]);
            }
        }
    }
    Done::Passed
}

/// However early it comes, there is a watch with a beginning and an end.
fn to_the_command() -> Done {
    let program = harness::v2p().get_program().to_str().unwrap().to_owned();
    for signal in SIGNALS {
        let mut watching = harness::v2p();
        watching.args(["watch", "--json", "--", &program, "--version"]);
        let watching = watching.stdout(Stdio::piped()).stderr(Stdio::null());
        let watching = watching.spawn().unwrap();
        let start = Instant::now();
        let command = loop {
            if let Some(child) = leavings::child_of(watching.id()) {
                break child;
            }
            assert!(start.elapsed() < PATIENCE, "it starts no child");
        };
        let met = kill_process(command, signal);
        let output = watching.wait_with_output().unwrap();
        if met == Err(Errno::SRCH) {
            panic_any(Again("the command was over before it was met".to_owned()));
        }
        assert_eq!(met, Ok(()));
        assert_eq!(output.status.code(), Some(0), "{signal:?}");
        let end = harness::last_json(&output);
        let (why, status) = (&end["why"], &end["status"]);
        assert_eq!(why, "target-exited", "{signal:?}: {end}");
        assert_eq!(*status, 128 + signal.as_raw(), "{end}");
    }
    Done::Passed
}
