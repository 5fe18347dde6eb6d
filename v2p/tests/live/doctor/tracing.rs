//! What tracing needs: hooks, tracefs, memory, descriptors; and /proc/kcore.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
    sync::mpsc,
    thread,
};

use libtest_mimic::Trial;
use rustix::{
    mount::{MountFlags, mount},
    process::{Resource, Rlimit, setrlimit},
    thread::{CapabilitySet, remove_capability_from_bounding_set},
};
use serde_json::Value;

use super::{
    Report, assert_same_hint,
    container::{Group, enter},
    doctor_after, is_expected,
    path::own_mounts,
    plain, skipped,
};
use crate::{Done, harness, trial, trouble::hide};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("the_doctor_looks_for_tracefs", tracefs),
        trial("the_doctor_names_a_memory_cgroup", memory_cgroup),
        trial("the_doctor_names_a_memory_cgroup_without_room", no_room),
        trial("the_doctor_names_locked_memory", locked_memory),
        trial("the_doctor_names_missing_types", no_types),
        trial("the_doctor_names_cap_bpf", cap_bpf),
        trial("the_doctor_names_few_descriptors", descriptors),
        trial("the_doctor_looks_at_kcore", kcore),
    ]
}

pub(super) fn trials_of_a_boot() -> Vec<Trial> {
    vec![
        trial("the_doctor_tries_the_hooks_of_watch", hooks),
        trial("the_doctor_says_what_the_kernel_takes", kinds),
    ]
}

fn text<'a>(check: &'a Value, field: &str) -> &'a str {
    let found = check[field].as_str();
    found.unwrap_or_else(|| panic!("no {field}: {check}"))
}

const CONFIDENTIAL: &str = "no eBPF under lockdown=confidentiality";

/// The start record of a watch that ends at once.
fn start(more: &[&str]) -> Value {
    let pid = std::process::id().to_string();
    let arguments = ["watch", "--follow", "--pid", &pid, "--for", "0", "--json"];
    let output = harness::run(&[&arguments, more].concat());
    serde_json::from_slice(output.stdout.split(|b| *b == b'\n').next().unwrap())
        .unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// The doctor's hooks are those of a watch: as many live, the same missing.
fn hooks() -> Done {
    if is_expected("confidentiality") {
        return skipped(CONFIDENTIAL);
    }
    let report = plain();
    let (usual, faults) = (start(&[]), start(&["--faults"]));
    // Each has what the other has not: what says how a fault comes.
    let words = |field: &str| -> BTreeSet<String> {
        let both = [&usual, &faults].into_iter();
        let all = both.flat_map(|start| start[field].as_array().unwrap());
        all.map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let (live, missing) = (words("hooks"), words("missing"));
    let start = format!("{usual}, {faults}");
    let evidence = text(report.check("bpf-tracepoint"), "evidence");
    let counted = format!(" {} hooks of watch", live.len());
    assert!(evidence.contains(&counted), "{evidence}: {start}");
    let lost: Vec<&Value> = ["bpf-tracepoint", "bpf-fentry"]
        .iter()
        .flat_map(|id| report.check(id)["lost"].as_array().unwrap())
        .collect();
    for one in &lost {
        for hook in one["hooks"].as_array().unwrap() {
            let told = format!("{}: {}", hook.as_str().unwrap(), text(one, "why"));
            assert!(missing.contains(&told), "{told}: {start}");
        }
        // The list knows all hooks that there are.
        assert!(!text(one, "then").contains("cannot tell"), "{one}");
    }
    let is_lost = |what: &str| lost.iter().any(|one| text(one, "what").contains(what));
    let is_live = |hook: &str| live.iter().any(|other| other == hook);
    for (what, hook) in [
        ("pages that are moved", "set_migration_pte"),
        ("swapped out", "try_to_unmap_one"),
        ("mremap", "move_page_tables"),
        ("process_vm_writev", "__get_user_pages"),
    ] {
        assert_eq!(is_lost(what), !is_live(hook), "{what}: {start}");
    }
    Done::Passed
}

fn kinds() -> Done {
    if is_expected("confidentiality") {
        return skipped(CONFIDENTIAL);
    }
    let report = plain();
    let tracepoints = text(report.check("bpf-tracepoint"), "evidence");
    for kind in ["raw_tp live", "tp_btf live", "perf_event live", "iter live"] {
        assert!(tracepoints.contains(kind), "{kind}: {tracepoints}");
    }
    let fentry = report.check("bpf-fentry");
    let evidence = text(fentry, "evidence");
    let (_, lsm) = evidence.split_once("lsm ").unwrap();
    let (became, modules) = lsm.split_once(", where the modules are ").unwrap();
    let asks_programs = modules.split([',', ' ']).any(|module| module == "bpf");
    match fentry["status"].as_str() {
        // What is read of the list agrees with what was tried.
        _ if became == "live" => assert!(asks_programs, "{evidence}"),
        _ if became == "attached, but never asked" => assert!(!asks_programs, "{evidence}"),
        Some("limits") => assert_eq!(became, "refused (EPERM)"),
        _ => panic!("{evidence}"),
    }
    Done::Passed
}

/// What stands at this place in a mount namespace of its own.
fn doctor_with_tracefs(kind: &'static std::ffi::CStr) -> Report {
    doctor_after(move || {
        own_mounts()?;
        for place in [c"/sys/kernel/tracing", c"/sys/kernel/debug"] {
            if kind == c"tmpfs" || place == c"/sys/kernel/tracing" {
                // A kernel may have no debugfs.
                let _ = mount(c"none", place, kind, MountFlags::empty(), None);
            }
        }
        Ok(())
    })
}

fn tracefs() -> Done {
    let report = doctor_with_tracefs(c"tracefs");
    let check = report.check("tracefs");
    assert_eq!(check["status"], "ok", "{check}");
    assert_eq!(check["evidence"], "/sys/kernel/tracing");
    if !is_expected("confidentiality") {
        // The kind of program that needs it is attached then.
        let evidence = text(report.check("bpf-tracepoint"), "evidence");
        assert!(evidence.contains(", tracepoint live"), "{evidence}");
    }
    let report = doctor_with_tracefs(c"tmpfs");
    let check = report.check("tracefs");
    assert_eq!(check["status"], "limits", "{check}");
    assert_eq!(check["mend"], "mount -t tracefs nodev /sys/kernel/tracing");
    Done::Passed
}

/// A group of the memory controller with a limit.
fn limited(limit: &str) -> io::Result<Group> {
    if let Ok(group) = Group::new(c"cgroup", c"memory") {
        fs::write(group.place("memory.limit_in_bytes"), limit)?;
        return Ok(group);
    }
    let group = Group::new(c"cgroup2", c"")?;
    fs::write(group.root("cgroup.subtree_control"), "+memory")?;
    fs::write(group.place("memory.max"), limit)?;
    Ok(group)
}

/// What the doctor says inside such a group.
fn doctor_within(limit: &str) -> Result<(Group, Report), Done> {
    if is_expected("confidentiality") {
        return Err(skipped(CONFIDENTIAL));
    }
    let group = limited(limit).map_err(|e| Done::Skipped(format!("no memory controller: {e}")))?;
    let members = group.members();
    let report = doctor_after(move || enter(&members));
    Ok((group, report))
}

fn memory_cgroup() -> Done {
    // Enough for the doctor, and less than a watch may want.
    const LIMIT: &str = "83886080";
    let (_group, report) = match doctor_within(LIMIT) {
        Ok(both) => both,
        Err(skipped) => return skipped,
    };
    let check = report.check("ring-buffer");
    assert_eq!(check["status"], "limits", "{check}");
    let evidence = text(check, "evidence");
    assert!(evidence.contains("a ring of 16 MiB was made"), "{evidence}");
    assert!(evidence.contains(&format!("{LIMIT} bytes")), "{evidence}");
    let name = match evidence.contains("memory.max") {
        true => "v2p-test/memory.max",
        false => "v2p-test/memory.limit_in_bytes",
    };
    assert!(text(check, "mend").contains(name), "{check}");
    Done::Passed
}

/// No room for the ring: what the kernel refused, the limit that did it; and a watch says the same.
fn no_room() -> Done {
    // Enough for the program, and not for the maps beside it.
    const LIMIT: &str = "20971520";
    let (group, report) = match doctor_within(LIMIT) {
        Ok(both) => both,
        Err(skipped) => return skipped,
    };
    let check = report.check("ring-buffer");
    assert_eq!(check["status"], "denies", "{check}");
    let evidence = text(check, "evidence");
    assert!(evidence.contains("Cannot allocate memory"), "{evidence}");
    let told = format!("memory cgroup: {LIMIT} bytes");
    assert!(evidence.contains(&told), "{evidence}");
    assert!(text(check, "mend").contains("v2p-test/memory."), "{check}");
    for id in ["bpf-tracepoint", "bpf-fentry"] {
        assert_eq!(report.check(id)["status"], "unknown", "{id}");
    }
    let pid = std::process::id().to_string();
    for arguments in [&["watch", "--pid", &pid, "--for", "0"][..], &["demo"]] {
        let is_watch = arguments.contains(&"watch");
        let members = group.members();
        let mut command = harness::v2p();
        command.args(arguments);
        // SAFETY: it makes one system call and allocates nothing.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, move || enter(&members));
        }
        let output = command.output().expect("v2p runs");
        // It reads the types at the same time: the kernel may kill it before it refuses.
        if is_watch && output.status.code().is_none() {
            continue;
        }
        assert_same_hint(&output, &report, "ring-buffer");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(&told), "{errors}");
    }
    Done::Passed
}

/// Without the kernel's types nothing is traced, and that alone is named.
fn no_types() -> Done {
    let report = doctor_after(|| hide(c"/sys/kernel/btf"));
    let check = report.check("btf");
    assert_eq!(check["status"], "denies", "{check}");
    assert!(text(check, "evidence").starts_with("/sys/kernel/btf/vmlinux: No such file"));
    assert!(
        text(check, "mend").contains("CONFIG_DEBUG_INFO_BTF"),
        "{check}"
    );
    let ring = report.check("ring-buffer");
    assert_eq!(text(ring, "evidence"), "see btf");
    for id in ["ring-buffer", "bpf-tracepoint", "bpf-fentry"] {
        assert_eq!(report.check(id)["status"], "unknown", "{id}");
    }
    // The way to /dev/mem is judged all the same.
    let verdict = report.verdict();
    assert_eq!(verdict["read"], plain().verdict()["read"], "{verdict:#}");
    Done::Passed
}

fn cap_bpf() -> Done {
    let report = doctor_after(|| {
        for capability in [
            CapabilitySet::SYS_ADMIN,
            CapabilitySet::PERFMON,
            CapabilitySet::BPF,
        ] {
            remove_capability_from_bounding_set(capability)?;
        }
        Ok(())
    });
    let check = report.check("cap-bpf");
    assert_eq!(check["status"], "denies", "{check}");
    assert!(text(check, "evidence").starts_with("bits 21, 38, 39 of CapEff"));
    // What it takes with it.
    let ring = report.check("ring-buffer");
    assert_eq!(ring["status"], "denies", "{ring}");
    assert!(text(ring, "evidence").contains("not permitted"), "{ring}");
    Done::Passed
}

fn set_limit(resource: Resource, number: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(number),
        maximum: Some(number),
    };
    Ok(setrlimit(resource, limit)?)
}

fn locked_memory() -> Done {
    if is_expected("confidentiality") {
        return skipped(CONFIDENTIAL);
    }
    let report = doctor_after(|| set_limit(Resource::Memlock, 1 << 20));
    let check = report.check("ring-buffer");
    assert_eq!(check["status"], "ok", "{check}");
    let evidence = text(check, "evidence");
    let told = "RLIMIT_MEMLOCK 1048576 bytes, by which this kernel does not count maps";
    assert!(evidence.contains(told), "{evidence}");
    Done::Passed
}

/// A process of many threads, of which no watch with so few descriptors can follow all.
fn descriptors() -> Done {
    if is_expected("confidentiality") {
        return skipped(CONFIDENTIAL);
    }
    const THREADS: usize = 200;
    const FILES: u64 = 400;
    let byte = Box::new(7u8);
    let address = format!("{:#x}", &raw const *byte as u64);
    let pid = std::process::id().to_string();
    let ask = |files| {
        let mut command = harness::v2p();
        command.args(["doctor", "--json", "--pid", &pid, "--addr", &address]);
        // SAFETY: it makes one system call and allocates nothing.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
                set_limit(Resource::Nofile, files)
            });
        }
        Report::of(&command.output().expect("v2p runs"))
    };
    let (stop, stopped) = mpsc::channel::<()>();
    let stopped = std::sync::Arc::new(std::sync::Mutex::new(stopped));
    let wait = |_| {
        let stopped = std::sync::Arc::clone(&stopped);
        thread::spawn(move || {
            let _ = stopped.lock().unwrap().recv();
        })
    };
    let threads: Vec<_> = (0..THREADS).map(wait).collect();
    let (few, many) = (ask(FILES), ask(FILES + 4 * THREADS as u64));
    drop(stop);
    for thread in threads {
        thread.join().unwrap();
    }
    drop(byte);
    let check = few.check("bpf-tracepoint");
    assert_eq!(check["status"], "limits", "{check}");
    let evidence = text(check, "evidence");
    assert!(
        evidence.contains(&format!("RLIMIT_NOFILE {FILES}")),
        "{evidence}"
    );
    assert!(text(check, "mend").starts_with("ulimit -Hn"), "{check}");
    assert!(text(check, "what").contains("threads"), "{check}");
    assert_eq!(check["lost"], Value::Array(Vec::new()), "{check}");
    let check = many.check("bpf-tracepoint");
    assert_eq!(check["status"], "ok", "{check}");
    Done::Passed
}

fn kcore() -> Done {
    let mut magic = [0; 4];
    let read = File::open("/proc/kcore").and_then(|mut file| file.read_exact(&mut magic));
    let check = plain().check("kcore");
    match read {
        Ok(()) => {
            assert_eq!(&magic, b"\x7fELF");
            assert_eq!(check["status"], "ok", "{check}");
            let report = doctor_after(|| {
                Ok(remove_capability_from_bounding_set(
                    CapabilitySet::SYS_RAWIO,
                )?)
            });
            let check = report.check("kcore");
            assert_eq!(check["status"], "limits", "{check}");
            assert_eq!(check["evidence"], "/proc/kcore: EPERM");
            assert!(text(check, "mend").contains("CAP_SYS_RAWIO"), "{check}");
        }
        Err(e) => {
            assert_eq!(check["status"], "limits", "{check}");
            let (errno, mend) = match e.kind() {
                io::ErrorKind::NotFound => ("ENOENT", "CONFIG_PROC_KCORE"),
                _ => ("EPERM", "lockdown=confidentiality"),
            };
            assert_eq!(check["evidence"], format!("/proc/kcore: {errno}"));
            assert!(text(check, "mend").contains(mend), "{check}");
        }
    }
    Done::Passed
}
