//! What v2p says where the kernel or the privileges lack something.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Output},
};

use libtest_mimic::Trial;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Resource, Rlimit, setrlimit},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};

use crate::{
    Done, doctor, harness,
    target::{Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("without_btf_it_says_what_is_missing", without_btf),
        trial("without_proc_it_says_what_is_missing", without_proc),
        trial(
            "without_cap_sys_admin_nothing_is_guessed",
            without_cap_sys_admin,
        ),
        trial(
            "without_cap_sys_rawio_the_demo_names_it",
            without_cap_sys_rawio,
        ),
        trial("commands_give_up_what_they_do_not_need", what_is_given_up),
        trial("in_a_user_namespace_it_is_unsupported", in_a_user_namespace),
        trial("a_watch_of_nothing_says_so", a_watch_of_nothing),
        trial("with_few_descriptors_it_says_so", few_descriptors),
        trial("a_file_that_may_not_be_so_long_is_an_error", too_long),
        trial(
            "under_confidentiality_it_says_why_it_cannot",
            under_confidentiality,
        ),
    ]
}

/// Runs v2p after `before` has changed the child.
pub(crate) fn after(arguments: &[&str], before: fn() -> io::Result<()>) -> Output {
    let mut command: Command = harness::v2p();
    command.args(arguments);
    // SAFETY: `before` makes a few system calls and allocates nothing.
    unsafe { command.pre_exec(before) };
    command.output().expect("v2p runs")
}

fn limit(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(current),
        maximum: Some(maximum),
    };
    Ok(setrlimit(resource, limit)?)
}

/// Whatever is opened first, and whatever would be missed.
fn few_descriptors() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    let commands = [
        &["watch", "--pid", &pid, "--for", "0.1"][..],
        &["translate", "--pid", &pid],
        &["doctor"],
        &["demo"],
    ];
    for command in commands {
        for few in [
            || limit(Resource::Nofile, 4, 4),
            || limit(Resource::Nofile, 7, 7),
            || limit(Resource::Nofile, 40, 40),
            || limit(Resource::Nofile, 127, 127),
        ] {
            let output = after(command, few);
            assert_unsupported(&output, "too few files may be open at once");
        }
        // It may have more, and takes them.
        let output = after(command, || limit(Resource::Nofile, 16, 128));
        let errors = errors(&output);
        assert_ne!(output.status.code(), Some(2), "{errors}");
        assert!(!errors.contains("open files"), "{errors}");
    }
    Done::Passed
}

/// The signal of that would end it without a word.
fn too_long() -> Done {
    let mut target = Target::start();
    (0..32).for_each(|i| _ = target.tell("write", i));
    let pid = target.pid().to_string();
    let path = format!("/tmp/v2p-long-{}.svg", std::process::id());
    let output = after(&["map", "--pid", &pid, "-o", &path], || {
        limit(Resource::Fsize, 1024, 1024)
    });
    let errors = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("File too large"), "{errors}");
    assert!(!std::path::Path::new(&path).exists());
    Done::Passed
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code 3 with one line and a hint.
fn assert_unsupported(output: &Output, says: &str) {
    let errors = errors(output);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains(says), "{errors}");
    let lines: Vec<_> = errors.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("v2p: ") && lines[1].starts_with("hint: "),
        "{errors}"
    );
}

/// In a mount namespace of its own, hides what is under `place`.
pub(crate) fn hide(place: &std::ffi::CStr) -> io::Result<()> {
    cover(place, None)
}

/// As [`hide`], by a file system that has room for one page.
pub(crate) fn hide_small(place: &std::ffi::CStr) -> io::Result<()> {
    cover(place, Some(c"size=4k"))
}

fn cover(place: &std::ffi::CStr, options: Option<&std::ffi::CStr>) -> io::Result<()> {
    // SAFETY: between fork and exec, where there is one thread and nothing is shared yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount(c"none", place, c"tmpfs", MountFlags::empty(), options)?;
    Ok(())
}

fn without_btf() -> Done {
    let output = after(&["demo"], || hide(c"/sys/kernel/btf"));
    assert_unsupported(&output, "/sys/kernel/btf/vmlinux: No such file");
    Done::Passed
}

fn without_proc() -> Done {
    let output = after(&["demo"], || hide(c"/proc"));
    assert_unsupported(&output, "/proc");
    Done::Passed
}

fn without_cap_sys_admin() -> Done {
    let output = after(&["demo", "--json"], || {
        Ok(remove_capability_from_bounding_set(
            CapabilitySet::SYS_ADMIN,
        )?)
    });
    assert_unsupported(&output, "v2p: demo: CAP_SYS_ADMIN is missing");
    assert!(output.stdout.is_empty());
    Done::Passed
}

fn without_cap_sys_rawio() -> Done {
    if !std::path::Path::new("/dev/mem").exists() {
        return Done::Skipped("there is no /dev/mem on this kernel".to_owned());
    }
    let output = after(&["demo", "--json"], || {
        Ok(remove_capability_from_bounding_set(
            CapabilitySet::SYS_RAWIO,
        )?)
    });
    let demo = harness::last_json(&output);
    assert_eq!(
        demo["write"]["denied"]["check"], "cap-sys-rawio",
        "{demo:#}"
    );
    assert_eq!(demo["write"]["denied"]["errno"], "EPERM");
    assert_eq!(output.status.code(), Some(1));
    Done::Passed
}

/// The capabilities that a process has or could take, as /proc shows them.
fn capabilities(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line?.trim(), 16).ok()
    };
    Some(set("CapEff:")? | set("CapPrm:")?)
}

/// Whatever bug they have, they keep what docs/security.md says and no more: no module is loaded, no file's owner changed.
fn what_is_given_up() -> Done {
    const SYS_PTRACE: u64 = 1 << 19;
    const SYS_RAWIO: u64 = 1 << 17;
    // DAC_OVERRIDE, DAC_READ_SEARCH, IPC_LOCK, SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE, PERFMON, BPF (linux/capability.h).
    const LOOKING: u64 =
        1 << 1 | 1 << 2 | 1 << 14 | SYS_PTRACE | 1 << 21 | 1 << 24 | 1 << 38 | 1 << 39;
    const BY_OTHERS: u64 = !LOOKING;
    const BY_WRITERS: u64 = BY_OTHERS & !SYS_RAWIO;
    let ours = capabilities(std::process::id()).unwrap();
    if ours & SYS_PTRACE == 0 || ours & BY_WRITERS == 0 || ours & SYS_RAWIO == 0 {
        return Done::Skipped("we have nothing to give up ourselves".to_owned());
    }
    let target = Target::start();
    let pid = target.pid().to_string();
    let (master, slave) = match harness::terminal() {
        Ok(pair) => pair,
        Err(reason) => return Done::Skipped(reason),
    };
    // Somebody looks at it, all the while: it holds little that nobody has seen.
    std::thread::spawn(move || io::copy(&mut std::fs::File::from(master), &mut io::sink()));
    let va = format!("{:#x}", va(0));
    let commands: [(&[&str], u64); 7] = [
        (&["translate", "--pid", &pid], BY_OTHERS),
        (&["map", "--pid", &pid, "-o", "/dev/null"], BY_OTHERS),
        (&["who", "pfn:1"], BY_OTHERS),
        (&["top", "--pid", &pid, "--for", "0.2"], BY_OTHERS),
        (&["watch", "--pid", &pid, "--for", "0.2"], BY_OTHERS),
        (&["demo"], BY_WRITERS),
        (
            &["write", "--pid", &pid, &va, "--hex", "00", "--dry-run"],
            BY_WRITERS,
        ),
    ];
    let is_seen_without = |(command, lost): (&[&str], u64)| {
        let mut v2p = harness::v2p();
        v2p.args(command);
        if command[0] == "top" {
            let slave = |_| slave.try_clone().unwrap();
            v2p.stdin(slave(0)).stdout(slave(1));
        } else {
            v2p.stdout(std::process::Stdio::null());
        }
        let mut child = v2p.spawn().unwrap();
        // What is given up does not come back as long as it runs.
        let mut given_up = false;
        while child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(200));
            let Some(has) = capabilities(child.id()) else {
                continue;
            };
            assert!(!given_up || has & lost == 0, "{command:?}: {has:#x}");
            given_up |= has & lost == 0 && has & SYS_PTRACE != 0;
        }
        given_up
    };
    for command in commands {
        // A short one may be over before it is looked at.
        let is_seen = (0..10).any(|_| is_seen_without(command));
        assert!(is_seen, "{:?}", command.0);
    }
    Done::Passed
}

fn in_a_user_namespace() -> Done {
    let output = after(&["demo", "--json"], || {
        // SAFETY: as in `hide`.
        Ok(unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?)
    });
    assert_unsupported(&output, "v2p: ");
    assert!(output.stdout.is_empty());
    Done::Passed
}

fn a_watch_of_nothing() -> Done {
    let gone = {
        let target = Target::start();
        target.pid()
    };
    let gone = gone.to_string();
    let cases = [
        (gone.as_str(), 1, "there is none"),
        // kthreadd, on every kernel.
        ("2", 1, "no address space"),
        ("0", 2, "not the number of a process"),
    ];
    for (pid, code, says) in cases {
        let output = harness::run(&["watch", "--pid", pid]);
        let errors = errors(&output);
        assert_eq!(output.status.code(), Some(code), "{pid}: {errors}");
        assert!(
            errors.starts_with("v2p: watch: ") && errors.contains(says),
            "{pid}: {errors}"
        );
        assert!(output.stdout.is_empty());
    }
    Done::Passed
}

fn under_confidentiality() -> Done {
    if harness::expected_devmem().as_deref() != Some("confidentiality") {
        return Done::Skipped("this kernel is not locked down to confidentiality".to_owned());
    }
    const WHY: &str = "hint: the kernel is locked down, eBPF may not read its memory: none integrity [confidentiality]";
    let pid = std::process::id().to_string();
    let report = doctor::Report::of(&harness::run(&["doctor", "--json"]));
    let address = format!("{:#x}", std::ptr::from_ref(&pid) as u64);
    for command in [
        &["demo", "--json"][..],
        &["watch", "--pid", &pid],
        &["watch", "--", "true"],
        &["translate", "--pid", &pid, "--route", "both"],
        &["translate", "--pid", &pid, "--route", "walk"],
        &["translate", "--pid", &pid, &address, "--levels"],
        &["map", "--pid", &pid, "--route", "walk", "-o", "/dev/null"],
        &["who", "pfn:1", "--json"],
        &["write", "--pid", &pid, &address, "--text", "x", "--dry-run"],
    ] {
        let output = harness::run(command);
        assert_unsupported(&output, WHY);
        assert!(output.stdout.is_empty(), "{command:?}");
        doctor::assert_same_hint(&output, &report, "bpf-tracepoint");
    }
    // It wants a terminal first.
    if let Ok((_master, slave)) = harness::terminal() {
        let top = harness::v2p()
            .args(["top", "--pid", &pid])
            .stdin(slave.try_clone().unwrap())
            .stdout(slave)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        assert_unsupported(&top, WHY);
    }
    // What does without eBPF works as ever.
    for command in [
        &["translate", "--pid", &pid, "--route", "pagemap"][..],
        &["map", "--pid", &pid, "-o", "/dev/null"],
    ] {
        let output = harness::run(command);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command:?}: {}",
            errors(&output)
        );
        assert!(!text.is_empty() && output.stderr.is_empty(), "{command:?}");
    }
    let doctor = harness::run(&["doctor"]);
    let report = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(1), "{report}");
    assert!(report.contains("  NO  lockdown"), "{report}");
    let output = harness::run(&["translate", "--json", "--pid", &pid]);
    let end = harness::last_json(&output);
    assert_eq!(
        (&end["route"], output.status.code()),
        (&serde_json::Value::from("pagemap"), Some(0)),
        "{end}"
    );
    assert!(
        end["present"].as_u64() > Some(100) && end["why"].is_string(),
        "{end}"
    );
    Done::Passed
}
