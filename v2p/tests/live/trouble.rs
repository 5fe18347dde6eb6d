//! What v2p says where the kernel or the privileges lack something.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Output},
};

use libtest_mimic::Trial;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};

use crate::{Done, harness, target::Target, trial};

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
        trial("in_a_user_namespace_it_is_unsupported", in_a_user_namespace),
        trial("a_watch_of_nothing_says_so", a_watch_of_nothing),
        trial(
            "under_confidentiality_it_says_why_it_cannot",
            under_confidentiality,
        ),
    ]
}

/// Runs v2p after `before` has changed the child.
fn after(arguments: &[&str], before: fn() -> io::Result<()>) -> Output {
    let mut command: Command = harness::v2p();
    command.args(arguments);
    // SAFETY: `before` makes a few system calls and allocates nothing.
    unsafe { command.pre_exec(before) };
    command.output().expect("v2p runs")
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
fn hide(place: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: between fork and exec, where there is one thread and nothing is shared yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount(c"none", place, c"tmpfs", MountFlags::empty(), None)?;
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
    let pid = std::process::id().to_string();
    for command in [
        &["demo", "--json"][..],
        &["watch", "--pid", &pid],
        &["translate", "--pid", &pid, "--route", "both"],
    ] {
        let output = harness::run(command);
        assert_unsupported(
            &output,
            "hint: the kernel is locked down, eBPF may not read its memory: none integrity [confidentiality]",
        );
    }
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
