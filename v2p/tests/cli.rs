//! The command line as anybody meets it: without root, with wrong arguments, with nobody listening.

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

struct Case {
    arguments: &'static [&'static str],
    code: i32,
    says: &'static str,
}

#[test]
fn every_mistake_is_one_line_with_its_exit_code() {
    let case = |arguments, code, says| Case {
        arguments,
        code,
        says,
    };
    let cases = [
        case(&[], 2, "Usage: v2p"),
        case(&["nonsense"], 2, "v2p: unrecognized subcommand 'nonsense'"),
        case(
            &["demo", "--nonsense"],
            2,
            "v2p: unexpected argument '--nonsense' found",
        ),
        case(
            &["demo", "--text"],
            2,
            "v2p: a value is required for '--text <TEXT>'",
        ),
        case(
            &["demo", "--text", "Hello, Universe!"],
            2,
            "v2p: --text: 16 bytes are too long",
        ),
        case(
            &["demo", "--text", ""],
            2,
            "v2p: --text: there is nothing to write",
        ),
        case(
            &["demo", "extra"],
            2,
            "v2p: unexpected argument 'extra' found",
        ),
        case(
            &["watch"],
            2,
            "v2p: the following required arguments were not provided: --pid <PID>",
        ),
        case(
            &["watch", "--pid"],
            2,
            "v2p: a value is required for '--pid <PID>'",
        ),
        case(
            &["watch", "--pid", "x"],
            2,
            "v2p: invalid value 'x' for '--pid <PID>'",
        ),
        case(&["watch", "--pid", "-1"], 2, "v2p: "),
        case(
            &["watch", "--pid", "4294967296"],
            2,
            "v2p: invalid value '4294967296' for '--pid <PID>'",
        ),
        case(
            &["watch", "--pid", "1", "--for", "x"],
            2,
            "v2p: invalid value 'x' for '--for <SECONDS>'",
        ),
        case(&["watch", "--pid", "1", "--for", "-1"], 2, "v2p: "),
        case(
            &["watch", "--pid", "1", "0x12zz"],
            2,
            "v2p: invalid value '0x12zz' for '[RANGE]...'",
        ),
        case(
            &["watch", "--pid", "1", "0x2000..0x1000"],
            2,
            "it ends before it starts",
        ),
        case(
            &["watch", "--pid", "1", "0xffffffffffffffff+1"],
            2,
            "beyond the last address",
        ),
        case(
            &["--color", "purple", "demo"],
            2,
            "v2p: invalid value 'purple' for '--color <WHEN>'",
        ),
        case(
            &["who"],
            2,
            "v2p: the following required arguments were not provided",
        ),
        case(
            &["who", "7"],
            2,
            "neither a physical address in hex with 0x, nor pfn:N",
        ),
        case(
            &["who", "pfn:x"],
            2,
            "neither a physical address in hex with 0x, nor pfn:N",
        ),
        case(
            &["who", "0xffffffffffffffff"],
            2,
            "beyond what x86-64 can address",
        ),
        case(&["who", "pfn:1"], 3, "v2p: who: CAP_SYS_ADMIN is missing"),
        case(
            &["translate"],
            2,
            "v2p: the following required arguments were not provided: --pid <PID>",
        ),
        case(
            &["translate", "--pid", "x"],
            2,
            "neither a number nor `self`",
        ),
        case(
            &["translate", "--pid", "0"],
            2,
            "v2p: translate: 0 is not the number of a process",
        ),
        case(&["translate", "--pid", "self", ""], 2, "it is empty"),
        case(
            &["translate", "--pid", "self", "0x12zz"],
            2,
            "is not an address in hex",
        ),
        case(
            &["translate", "--pid", "self", "[nothing]"],
            1,
            "v2p: translate: no mapping is called \"[nothing]\"",
        ),
        case(
            &["translate", "--pid", "self", "0xffff888000000000"],
            2,
            "v2p: translate: 0xffff888000000000 is an address of the kernel's, not of a process",
        ),
        case(
            &["translate", "--pid", "self", "--route", "x"],
            2,
            "v2p: invalid value 'x' for '--route <ROUTE>'",
        ),
        case(
            &["translate", "--pid", "self", "--route", "both"],
            3,
            "v2p: translate: ",
        ),
        case(
            &["translate", "--pid", "1"],
            3,
            "v2p: translate: process 1: Permission denied",
        ),
        case(
            &["translate", "--pid", "2147483647"],
            1,
            "v2p: translate: process 2147483647: there is none",
        ),
        case(
            &["translate", "--pid", "self", "--each", "--levels"],
            2,
            "v2p: the argument '--each' cannot be used with '--levels'",
        ),
        case(
            &["doctor", "--pid", "1"],
            2,
            "v2p: the following required arguments were not provided: --addr <ADDR>",
        ),
        case(
            &["doctor", "--pa", "7"],
            2,
            "neither a physical address in hex with 0x, nor pfn:N",
        ),
        case(
            &["doctor", "--pa", "pfn:1", "--pid", "1", "--addr", "0x1000"],
            2,
            "v2p: the argument '--pa <PA|pfn:N>' cannot be used with '--pid <PID>'",
        ),
        case(
            &["doctor", "--pid", "self", "--addr", "0xffffffffff600000"],
            2,
            "not in the user's half",
        ),
        case(
            &["doctor", "--pid", "self", "--addr", "0x1000"],
            1,
            "has nothing mapped at 0x1000",
        ),
        case(
            &["doctor", "--pid", "1", "--addr", "0x7f0000001000"],
            3,
            "v2p: doctor: ",
        ),
        case(&["demo"], 3, "v2p: demo: CAP_SYS_ADMIN is missing"),
        case(
            &["demo", "--json"],
            3,
            "v2p: demo: CAP_SYS_ADMIN is missing",
        ),
        case(
            &["watch", "--pid", "1"],
            3,
            "v2p: watch: CAP_SYS_ADMIN is missing",
        ),
    ];
    for Case {
        arguments,
        code,
        says,
    } in cases
    {
        let output = unprivileged(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(says), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        if says.starts_with("v2p: ") {
            let lines: Vec<_> = errors.lines().collect();
            assert!(lines.len() <= 2, "{arguments:?}: {errors}");
            assert!(
                lines[1..].iter().all(|line| line.starts_with("hint: ")),
                "{arguments:?}: {errors}"
            );
        }
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    }
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
