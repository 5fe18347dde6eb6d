//! Processes that are killed, and whose memory others take while they have not ended: a tracer holds them at their exit, where the address
//! space is still theirs (PTRACE_EVENT_EXIT, do_exit, kernel/exit.c).

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    panic::panic_any,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::Value;

use super::{group::Group, scene::Scene, tid};
use crate::{
    Again, Done,
    harness::PATIENCE,
    machine::only_in_guests,
    target::{BASE, PAGE, PAGES, Target},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_process_mrelease", process_mrelease),
        trial("mechanism_oom_reaper", oom_reaper),
    ]
}

/// A process that stops when it is about to exit, until this is dropped. Of the thread that made it.
struct Held(libc::pid_t);

impl Held {
    fn new(target: &Target) -> Self {
        let pid = i32::try_from(target.pid()).unwrap();
        let options = u64::try_from(libc::PTRACE_O_TRACEEXIT).unwrap();
        // SAFETY: a child of ours; no memory is given.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0u64, options) };
        assert_eq!(seized, 0, "{}", io::Error::last_os_error());
        Self(pid)
    }

    /// Waits until it is about to exit.
    fn wait(&self) {
        let (mut status, began) = (0, Instant::now());
        loop {
            // SAFETY: a place for the status.
            let who =
                unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL | libc::WNOHANG) };
            if who == self.0 {
                break;
            }
            assert_eq!(who, 0, "{}", io::Error::last_os_error());
            assert!(began.elapsed() < PATIENCE, "it is not about to exit");
            thread::sleep(Duration::from_millis(10));
        }
        let expected = libc::SIGTRAP | libc::PTRACE_EVENT_EXIT << 8;
        assert!(
            libc::WIFSTOPPED(status) && status >> 8 == expected,
            "{status:#x}"
        );
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended.
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0u64, 0u64) };
    }
}

fn process_mrelease() -> Done {
    let scene = Scene::new(&[ALL], |target| target.fill(BASE, 8));
    let process = scene.target.pidfd();
    let held = Held::new(&scene.target);
    pidfd_send_signal(&process, Signal::KILL).unwrap();
    held.wait();
    // SAFETY: a call without pointers.
    let done = unsafe { libc::syscall(libc::SYS_process_mrelease, process.as_raw_fd(), 0) };
    let error = io::Error::last_os_error();
    let taken = scene.target.frame(0) == 0;
    drop(held);
    let told = scene.end_with_target();
    told.only((BASE, 8), &["exit"]);
    if done != 0 && error.raw_os_error() == Some(libc::ENOSYS) {
        return Done::Skipped("this kernel has no process_mrelease".to_owned());
    }
    assert!(done == 0 && taken, "{error}");
    // Where there are no hooks on functions, they are told when the address space ends.
    if told.functions {
        told.by("exit", tid());
    }
    told.by_event("process_mrelease");
    Done::Passed
}

fn oom_reaper() -> Done {
    const ROOM: u64 = 4 << 20;
    const MORE: u64 = 0x6900_0000_0000;
    const PRIVATE_ANONYMOUS_FIXED: u64 = 0x2 | 0x20 | 0x10;
    if let Err(reason) = only_in_guests("has a process killed for its memory") {
        return Done::Skipped(reason);
    }
    let group = match Group::new("memory") {
        Ok(group) => group,
        Err(skipped) => return skipped,
    };
    let mut eater = Target::start();
    group.take(&eater);
    let scene = Scene::of(
        &[ALL],
        |_| {},
        |target| {
            // What it had before stays with the group that it was taken from.
            group.take(target);
            target.fill(BASE, 8);
            target.pid()
        },
    );
    // Who is to be killed, and who never.
    for (process, score) in [(&scene.target, "1000"), (&eater, "-1000")] {
        fs::write(format!("/proc/{}/oom_score_adj", process.pid()), score).unwrap();
    }
    let held = Held::new(&scene.target);
    group.set("memory.max", &ROOM.to_string());
    // There may be no swap in this kernel.
    let _ = fs::write("/tmp/cgroup/v2p/memory.swap.max", "0");
    let eats = thread::spawn(move || {
        let arguments = [MORE, 2 * ROOM, 3, PRIVATE_ANONYMOUS_FIXED, u64::MAX, 0];
        eater.must(libc::SYS_mmap, &arguments);
        // Until there is room for the last of it.
        eater.fill(MORE, 2 * ROOM / PAGE);
    });
    held.wait();
    let began = Instant::now();
    while scene.target.frame(0) != 0 && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
    }
    let taken = scene.target.frame(0) == 0;
    drop(held);
    group.no_limit();
    eats.join().unwrap();
    let told = scene.end_with_target();
    told.only((BASE, 8), &["exit"]);
    if !taken {
        // It tries for a second to have the lock, and gives up (oom_reap_task, mm/oom_kill.c, 6.1 to 7.3).
        panic_any(Again("the OOM reaper left it alone".to_owned()));
    }
    let by_reaper = |m: &Value| m["by"]["comm"] == "oom_reaper";
    if told.functions {
        assert!(told.moves.iter().any(by_reaper), "{:#?}", told.moves);
    }
    told.by_event("OOM reaper");
    Done::Passed
}
