//! What other commands say where the doctor's checks deny: the same words.

use std::{
    ffi::CStr,
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Output},
};

use libtest_mimic::Trial;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::Report;
use crate::{
    Done,
    harness::{self, expected_devmem},
    trial,
    trouble::hide,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a_user_who_is_not_root_gets_the_doctor_s_hint", not_root),
        trial(
            "without_types_commands_give_the_doctor_s_hint",
            without_types,
        ),
        trial(
            "without_cap_bpf_commands_give_the_doctor_s_hint",
            without_cap_bpf,
        ),
    ]
}

/// The command failed, with the mend of that check as its hint.
#[track_caller]
pub(crate) fn assert_same_hint(output: &Output, report: &Report, id: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    let hint = errors.lines().find_map(|line| line.strip_prefix("hint: "));
    let check = report.check(id);
    assert_ne!(check["status"], "ok", "{check}");
    assert_eq!(hint, check["mend"].as_str(), "{id}: {errors}");
}

/// Runs them all in the same trouble: the doctor, and commands, each with the check that stops it.
fn all(change: impl Fn(&mut Command), stopped: &[(&str, &str)]) {
    let pid = std::process::id().to_string();
    let byte = Box::new(7u8);
    let own = format!("{:#x}", &raw const *byte as u64);
    let run = |line: &str| {
        let line = line.replace("PID", &pid).replace("ADDR", &own);
        let (mut command, _program) = harness::v2p_by_descriptor().unwrap();
        command.args(line.split(' '));
        change(&mut command);
        command.output().expect("v2p runs")
    };
    let report = Report::of(&run("doctor --json"));
    for (line, id) in stopped {
        assert_same_hint(&run(line), &report, id);
    }
    drop(byte);
}

const WATCH: &str = "watch --pid PID --for 0";
const WRITE: &str = "write --pid PID ADDR --text x --dry-run";
const WALK: &str = "translate --pid PID --route walk ADDR";

fn after(before: fn() -> io::Result<()>) -> impl Fn(&mut Command) {
    move |command| {
        // SAFETY: `before` makes a few system calls and allocates nothing.
        unsafe { command.pre_exec(before) };
    }
}

fn not_root() -> Done {
    let nobody = |command: &mut Command| {
        command.uid(65534).gid(65534);
    };
    let frames = "cap-sys-admin";
    all(
        nobody,
        &[
            ("demo", frames),
            (WATCH, frames),
            (WRITE, frames),
            ("who pfn:1", "cap-bpf"),
        ],
    );
    Done::Passed
}

fn without_types() -> Done {
    if expected_devmem().as_deref() == Some("confidentiality") {
        return Done::Skipped("lockdown comes first".to_owned());
    }
    const TYPES: &CStr = c"/sys/kernel/btf";
    all(
        after(|| hide(TYPES)),
        &[
            ("demo", "btf"),
            (WATCH, "btf"),
            (WRITE, "btf"),
            (WALK, "btf"),
        ],
    );
    Done::Passed
}

fn without_cap_bpf() -> Done {
    // CAP_SYS_ADMIN stands in for the others.
    let without = || {
        for capability in [
            CapabilitySet::SYS_ADMIN,
            CapabilitySet::PERFMON,
            CapabilitySet::BPF,
        ] {
            remove_capability_from_bounding_set(capability)?;
        }
        Ok(())
    };
    let frames = "cap-sys-admin";
    all(
        after(without),
        &[
            (WALK, "cap-bpf"),
            ("demo", frames),
            (WATCH, frames),
            (WRITE, frames),
        ],
    );
    Done::Passed
}
