//! The lab as its user meets it, when things go wrong. Guests run here, so these take a while.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Output, String) {
    let output = xtask(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, errors)
}

#[test]
fn a_kernel_that_is_none_is_an_error_that_names_those_there_are() {
    let (output, errors) = run(&["lab", "--kernel", "nonsense", "--", "demo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("\"nonsense\" is no kernel"), "{errors}");
}

#[test]
fn a_guest_that_hangs_is_stopped_with_its_last_lines() {
    let start = Instant::now();
    // PID 1 of a guest lives as long as the guest.
    let (output, errors) = run(&[
        "lab",
        "--timeout",
        "15",
        "--append",
        "loglevel=7",
        "--",
        "watch",
        "--pid",
        "1",
    ]);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains(
            "the guest was not done after 15 s and was stopped; the last lines of its console:"
        ),
        "{errors}"
    );
    assert!(start.elapsed() > Duration::from_secs(15));
}

#[test]
fn a_guest_that_panics_is_an_error_with_its_last_lines() {
    let (output, errors) = run(&[
        "lab",
        "--append",
        "rdinit=/nothing init=/nothing",
        "--",
        "demo",
    ]);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("the guest ended before its command did"),
        "{errors}"
    );
    assert!(errors.contains("Kernel panic"), "{errors}");
}

#[test]
fn the_exit_code_is_that_of_the_command_in_the_guest() {
    let (output, errors) = run(&["lab", "--", "v2p", "watch", "--pid", "999999"]);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("v2p: watch: process 999999: there is none"),
        "{errors}"
    );
}

/// The QEMUs whose parent is `parent`.
fn guests_of(parent: u32) -> Vec<PathBuf> {
    let is_guest = |process: &Path| {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        stat.contains("(qemu-system") && fields.nth(1) == Some(&parent.to_string())
    };
    let processes = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    processes.filter(|process| is_guest(process)).collect()
}

/// On a fresh machine the lab is set up before a guest starts.
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(900);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_guest_is_left_behind_when_we_are_killed() {
    // What a killed one cannot remove goes with this.
    let place = tempfile::tempdir().unwrap();
    let mut lab = xtask(&["lab", "--", "watch", "--pid", "1"])
        .env("TMPDIR", place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("a guest starts", || !guests_of(lab.id()).is_empty());
    let guest = guests_of(lab.id()).remove(0);
    lab.kill().unwrap();
    lab.wait().unwrap();
    wait_until("the guest ends", || !guest.exists());
}

#[test]
fn ctrl_c_ends_the_guest_and_removes_the_run() {
    let place = tempfile::tempdir().unwrap();
    let lab = xtask(&["lab", "--", "watch", "--pid", "1"])
        .env("TMPDIR", place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("a guest starts", || !guests_of(lab.id()).is_empty());
    let guest = guests_of(lab.id()).remove(0);
    let pid = rustix::process::Pid::from_raw(i32::try_from(lab.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = lab.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.ends_with("xtask: interrupted; the guest was stopped\n"),
        "{errors}"
    );
    assert!(!guest.exists());
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_qemu_and_apt_it_says_what_to_install() {
    let cargo = PathBuf::from(env!("CARGO"));
    let path = cargo.parent().unwrap();
    let output = xtask(&["lab", "--", "demo"])
        .env("PATH", path)
        .env("CARGO", &cargo)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("not on this machine: qemu-system-x86"),
        "{errors}"
    );
}

#[test]
fn a_full_disk_leaves_no_half_kernel_in_the_cache() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: it needs root, to mount a small disk");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, so that nothing has to be unmounted.
    let script = "mount -t tmpfs -o size=20m none \"$1\" && shift && \"$@\"; code=$?; ls -A \"$XDG_CACHE_HOME/v2p\" | grep -v lock >&2; exit $code";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(place.path())
        .arg(env!("CARGO_BIN_EXE_xtask"))
        .args(["lab", "--kernel", "stock-6.12", "--", "demo"])
        .env("XDG_CACHE_HOME", place.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(
        errors.contains("debian-6.12 needs 500 MiB of disk"),
        "{errors}"
    );
    assert!(
        !errors
            .lines()
            .any(|line| line.starts_with("debian-6.12 ") || line.starts_with(".making")),
        "{errors}"
    );
}
