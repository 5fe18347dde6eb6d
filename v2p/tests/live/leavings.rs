//! What a watch takes, and what it leaves behind.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use libtest_mimic::Trial;
use rustix::process::Pid;

use crate::{
    Done,
    harness::PATIENCE,
    target::{PAGES, Target, va},
    trial,
    watch::watch,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_watch_that_is_killed_leaves_nothing", killed),
        trial("a_watch_does_not_grow_with_what_it_has_told", constant),
    ]
}

/// Commands of bpf(2) that give a descriptor by number (include/uapi/linux/bpf.h).
const BY_NUMBER: [(&str, libc::c_long); 3] = [("prog_id", 13), ("map_id", 14), ("link_id", 30)];

/// Programs, maps and links that a process has open, by kind and number.
fn objects(pid: u32) -> BTreeSet<(libc::c_long, u32)> {
    let mut objects = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        let info = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for line in info.lines() {
            let Some((name, number)) = line.split_once(':') else {
                continue;
            };
            if let Some((_, command)) = BY_NUMBER.iter().find(|(known, _)| *known == name) {
                objects.insert((*command, number.trim().parse().unwrap()));
            }
        }
    }
    objects
}

/// Whether there still is such an object.
fn is_there((command, number): (libc::c_long, u32)) -> bool {
    // union bpf_attr of these commands: the number, then two words that are 0.
    let attributes = [number, 0, 0];
    // SAFETY: as long as is said; the kernel reads it alone.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if fd >= 0 {
        // SAFETY: a descriptor of our own, used nowhere else.
        unsafe { libc::close(i32::try_from(fd).unwrap()) };
    }
    fd >= 0
}

/// What lies where something could have been left.
pub(crate) fn pins() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// State, parent and group of every process: fields 3 to 5 of proc_pid_stat(5).
fn processes() -> impl Iterator<Item = (Pid, [String; 3])> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit(") ").next()?.split(' ').map(str::to_owned);
        Some((pid, [fields.next()?, fields.next()?, fields.next()?]))
    })
}

/// Whether somebody of this process group lives; who has ended, and is not waited for by whom he was left to, does not.
pub(crate) fn lives(group: Pid) -> bool {
    let group = group.as_raw_nonzero().to_string();
    processes().any(|(_, [state, _, of])| of == group && !matches!(state.as_str(), "Z" | "X"))
}

/// A process whose parent this is.
pub(crate) fn child_of(parent: u32) -> Option<Pid> {
    let parent = parent.to_string();
    let mut processes = processes();
    processes.find_map(|(pid, [_, of, _])| (of == parent).then_some(pid))
}

fn killed() -> Done {
    let mut target = Target::start();
    let pins_before = pins();
    let watching = watch(&target, &["--faults"]);
    target.churn(va(0), PAGES, 20);
    let pid = watching.pid();
    let objects = objects(pid);
    let programs = objects.iter().filter(|(kind, _)| *kind == BY_NUMBER[0].1);
    // Its programs hang on tracepoints and perf events alike: what is left of those keeps a program.
    assert!(programs.count() >= 5, "{objects:?}");
    assert!(objects.iter().all(|object| is_there(*object)));
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let open = fs::read_link(entry.path()).unwrap_or_default();
        // stdin, stdout and stderr are whose they are.
        if ["0", "1", "2"].iter().any(|n| entry.file_name() == *n) {
            continue;
        }
        let kept = ["/tmp", "/var", "/run", "/dev/shm", "/sys/fs/bpf"];
        assert!(
            !kept.iter().any(|place| open.starts_with(place)),
            "{open:?}"
        );
    }
    // Dropped, it is killed by SIGKILL, and waited for.
    drop(watching);
    let left = || objects.iter().filter(|object| is_there(**object)).count();
    let deadline = std::time::Instant::now() + PATIENCE;
    // The kernel takes them down after a grace period.
    while left() > 0 && std::time::Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(left(), 0, "{objects:?}");
    assert_eq!(pins(), pins_before);
    // The target lives, and faults as ever.
    assert_ne!(target.tell("write", 1), 0);
    target.end();
    Done::Passed
}

/// Bytes of its own that a process has resident: what it maps of the ring is counted elsewhere.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

fn constant() -> Done {
    const MORE: u64 = 1 << 20;
    let mut target = Target::start();
    let watching = watch(&target, &[]);
    // A second a time, so that everything that happens now and then has happened.
    let churn = |target: &mut Target| {
        for _ in 0..10 {
            target.churn(va(0), PAGES, 10);
            thread::sleep(Duration::from_millis(100));
        }
        // What is still being told has its memory; the least of a second has none of it.
        let samples = (0..10).map(|_| {
            thread::sleep(Duration::from_millis(100));
            resident(watching.pid())
        });
        samples.min().unwrap()
    };
    churn(&mut target);
    let before = churn(&mut target);
    churn(&mut target);
    let after = churn(&mut target);
    assert!(after < before + MORE, "{before} bytes, then {after}");
    let (records, status) = watching.interrupt();
    assert!(status.success());
    let moves = records.last().unwrap()["moves"].as_u64().unwrap();
    assert!(moves >= 2000, "{moves} moves");
    Done::Passed
}
