//! The command line as anybody meets it: without root, asking for help, with nobody listening. What it says to mistakes is one table for all
//! commands: tests/live/input.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Command, Output, Stdio},
};

use rustix::io::FdFlags;

/// v2p as a user without any privilege.
fn unprivileged(arguments: &[&str]) -> Output {
    // Through a descriptor: `nobody` need not be able to reach the folder that the build lies in.
    let program = File::open(env!("CARGO_BIN_EXE_v2p")).unwrap();
    rustix::io::fcntl_setfd(&program, FdFlags::empty()).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.args(arguments).stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command.output().unwrap()
}

#[test]
fn without_arguments_it_says_how_it_is_used() {
    let output = unprivileged(&[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        output.stdout.is_empty() && errors.contains("Usage: v2p"),
        "{errors}"
    );
}

#[test]
fn the_doctor_works_without_root_and_says_what_is_in_the_way() {
    let output = unprivileged(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(output.stderr.is_empty());
    assert!(
        text.contains("\nverdict: read denied, write denied\n  first    "),
        "{text}"
    );
    assert!(text.contains("  NO  cap-sys-admin"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("  mend     "), "{last}");
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["demo", "--help"],
        &["watch", "--help"],
        &["doctor", "--help"],
    ] {
        let output = unprivileged(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_into_a_closed_pipe_is_quiet() {
    let script = format!("{} --help | true", env!("CARGO_BIN_EXE_v2p"));
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
