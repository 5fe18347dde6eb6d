//! What `v2p translate` and `v2p who` say to what cannot be: one table of bad processes, bad addresses and missing rights.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Command, Output, Stdio},
};

use libtest_mimic::Trial;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Pid, WaitIdOptions},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};

use crate::{
    Done, harness,
    target::{Target, va},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("every_bad_input_is_one_line_with_its_exit_code", bad_input),
        trial("without_cap_sys_admin_frames_are_hidden", hidden_frames),
        trial("a_reader_that_goes_away_ends_it_quietly", closed_stdout),
    ]
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum As {
    Root,
    /// A user who may do nothing.
    Nobody,
    /// The same, where /proc shows nothing of others.
    NobodyWithHidepid,
    /// Root, who may not see frames.
    WithoutSysAdmin,
}

impl As {
    fn of(name: &str) -> Self {
        match name {
            "root" => Self::Root,
            "nobody" => Self::Nobody,
            "hidden" => Self::NobodyWithHidepid,
            "fewer" => Self::WithoutSysAdmin,
            _ => panic!("{name:?}"),
        }
    }
}

/// Runs v2p as `who`. An error: this machine does not let us prepare it.
fn run(who: As, arguments: &[&str]) -> io::Result<Output> {
    // Through a descriptor: a user need not be able to reach the folder that the build lies in.
    let program = File::open(harness::v2p().get_program())?;
    rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty())?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.args(arguments).stdin(Stdio::null());
    let before = move || match who {
        As::Root => Ok(()),
        As::Nobody => become_nobody(),
        As::NobodyWithHidepid => hide_processes().and_then(|()| become_nobody()),
        As::WithoutSysAdmin => {
            let dropped = remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN);
            Ok(dropped?)
        }
    };
    // SAFETY: `before` makes a few system calls and allocates nothing.
    unsafe { command.pre_exec(before) };
    command.output()
}

fn become_nobody() -> io::Result<()> {
    const NOBODY: u32 = 65534;
    // SAFETY: three system calls with plain numbers, in a process of one thread.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setgid(NOBODY) == 0
            && libc::setuid(NOBODY) == 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// In a mount namespace of its own, a /proc that shows a user his own processes alone.
fn hide_processes() -> io::Result<()> {
    // SAFETY: between fork and exec, where there is one thread and nothing is shared yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private)?;
    Ok(mount(
        c"proc",
        c"/proc",
        c"proc",
        MountFlags::empty(),
        Some(c"hidepid=2"),
    )?)
}

/// One line, perhaps a hint, nothing on stdout, and the exit code.
fn assert_refused(who: As, arguments: &[&str], output: &Output, code: i32, says: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let case = format!("{who:?} {arguments:?}: {errors}");
    assert_eq!(output.status.code(), Some(code), "{case}");
    let mut lines = errors.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with("v2p: ") && first.contains(says), "{case}");
    let rest: Vec<_> = lines.collect();
    assert!(
        rest.len() <= 1 && rest.iter().all(|l| l.starts_with("hint: ")),
        "{case}"
    );
    assert!(output.stdout.is_empty(), "{case}");
}

/// Who asks | with which arguments | the exit code | what is said. PID is a target, THREAD one of its threads, ZOMBIE one that has
/// ended and GONE one that is no more; PAGE is an address of the target's; kthreadd has number 2 on every kernel.
const TABLE: &str = r#"
root   | translate --pid PID 0x1000+              | 2 | is not a length
root   | translate --pid PID 0x1000+0             | 2 | the length is 0
root   | translate --pid PID 0x1000+1T            | 2 | is not a length
root   | translate --pid PID 0x1000+-1            | 2 | is not a length
root   | translate --pid PID 0x1000..             | 2 | an address is missing
root   | translate --pid PID ..0x1000             | 2 | an address is missing
root   | translate --pid PID 0x                   | 2 | is not an address in hex
root   | translate --pid PID 0x1000-0x2000        | 2 | is not an address in hex
root   | translate --pid PID 0x10000000000000000  | 2 | is not an address in hex
root   | translate --pid PID 4096                 | 2 | write 0x4096 if it is one
root   | translate --pid PID 0x2000..0x1000       | 2 | it ends before it starts
root   | translate --pid PID 0x1000..0x1000       | 2 | it ends before it starts
root   | translate --pid PID 0x0+99999999999999999999 | 2 | is not a length
root   | translate --pid PID 0x0+17179869184G     | 2 | is too long
root   | translate --pid PID 0xffffffffffff0000+1G | 2 | beyond the last address
root   | translate --pid PID 0xffffffffffffffff   | 2 | beyond the last address
root   | translate --pid PID 0xffff888000000000   | 2 | is an address of the kernel's
root   | translate --pid PID 0xffffffff81000000+2M | 2 | is an address of the kernel's
root   | translate --pid PID 0x8000000000000000   | 2 | is beyond the process's addresses, which end at 0x
root   | translate --pid PID 0x200000000000000    | 2 | is beyond the process's addresses, which end at 0x
root   | translate --pid PID 0x0..0x200000000000000 | 2 | goes beyond the process's addresses
root   | translate --pid PID [nothing]            | 1 | no mapping is called "[nothing]"
root   | translate --pid PID nothing.so           | 1 | no mapping is called "nothing.so"
root   | translate --pid PID --levels             | 2 | --levels wants one address
root   | translate --pid PID [stack] --levels     | 2 | --levels wants one address
root   | translate --pid PID 0x1000+2M --levels   | 2 | --levels wants one address
root   | translate --pid PID PAGE --levels --route pagemap | 2 | --route pagemap does not walk
root   | translate --pid 0                        | 2 | 0 is not the number of a process
root   | translate --pid -1                       | 2 | neither a number nor `self`
root   | translate --pid x                        | 2 | neither a number nor `self`
root   | translate --pid 4294967295               | 2 | is not the number of a process
root   | translate --pid 4294967296               | 2 | neither a number nor `self`
root   | translate --pid GONE                     | 1 | there is none
root   | translate --pid THREAD                   | 2 | is a thread of process PID
root   | translate --pid ZOMBIE                   | 1 | has ended: it is a zombie
root   | translate --pid 2                        | 1 | process 2 is a kernel thread: it has no address space
root   | who pfn:                                 | 2 | neither a physical address
root   | who 0x1000000000000000                   | 2 | beyond what x86-64 can address
nobody | translate --pid PID                      | 3 | process PID: Permission denied
nobody | translate --pid THREAD                   | 2 | is a thread of process PID
nobody | translate --pid ZOMBIE                   | 1 | has ended: it is a zombie
nobody | translate --pid GONE                     | 1 | there is none
nobody | translate --pid 2                        | 3 | process 2: Permission denied
nobody | translate --pid self --route both        | 3 | v2p: translate:
nobody | translate --pid self --route walk        | 3 | v2p: translate:
nobody | who pfn:1                                | 3 | CAP_SYS_ADMIN is missing
fewer  | who pfn:1                                | 3 | CAP_SYS_ADMIN is missing
hidden | translate --pid PID                      | 3 | process PID: it exists, but this /proc does not show it
hidden | translate --pid THREAD                   | 2 | is a thread, not a process
hidden | translate --pid ZOMBIE                   | 1 | has ended
hidden | translate --pid GONE                     | 1 | there is none
"#;

fn bad_input() -> Done {
    let target = Target::start();
    let zombie = zombie();
    let names = [
        ("PID", target.pid().to_string()),
        ("THREAD", target.a_thread().to_string()),
        ("ZOMBIE", zombie.pid().to_string()),
        ("GONE", Target::start().pid().to_string()),
        ("PAGE", format!("{:#x}", va(0))),
    ];
    let fill = |text: &str| {
        let text = text.trim().to_owned();
        let fill = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        names.iter().fold(text, fill)
    };
    for row in TABLE.lines().filter(|row| !row.is_empty()) {
        let [who, arguments, code, says] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let who = As::of(who.trim());
        let (arguments, says) = (fill(arguments), fill(says));
        let arguments: Vec<_> = arguments.split(' ').collect();
        let output = run(who, &arguments).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_refused(
            who,
            &arguments,
            &output,
            code.trim().parse().unwrap(),
            &says,
        );
    }
    Done::Passed
}

/// A target that has ended, and that nobody has waited for.
fn zombie() -> Target {
    let mut target = Target::start();
    target.end_unreaped();
    let pid = Pid::from_raw(i32::try_from(target.pid()).unwrap());
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(pid.unwrap()), ended).unwrap();
    target
}

fn hidden_frames() -> Done {
    let mut target = Target::start();
    let pfn = target.tell("write", 1);
    let pid = target.pid().to_string();
    let asked = |route: &str, range: &str| {
        let arguments = [
            "translate",
            "--json",
            "--route",
            route,
            "--pid",
            &pid,
            range,
        ];
        let output = run(As::WithoutSysAdmin, &arguments).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), harness::last_json(&output), text)
    };
    let (code, end, text) = asked("pagemap", &format!("{:#x}", va(1)));
    assert_eq!((code, &end["hidden"]), (Some(3), &1.into()), "{text}");
    assert!(
        !text.contains("\"pfn\"") && !text.contains("\"pa\""),
        "{text}"
    );
    let (code, end, text) = asked("pagemap", &format!("{:#x}", va(2)));
    assert_eq!((code, &end["absent"]), (Some(1), &1.into()), "{text}");
    let (code, end, text) = asked("pagemap", &format!("{:#x}+16K", va(0)));
    assert_eq!((code, &end["hidden"]), (Some(0), &1.into()), "{text}");
    assert_eq!(end["absent"], 3, "{text}");
    // CAP_BPF and CAP_PERFMON may be enough for the walk, which then is the only one that can tell.
    let (code, end, text) = asked("auto", &format!("{:#x}", va(1)));
    if end["route"] == "both" {
        assert_eq!((code, &end["present"]), (Some(0), &1.into()), "{text}");
        assert!(text.contains(&format!("\"pfn\":{pfn},")), "{text}");
        assert!(text.contains("\"verdict\":\"single\""), "{text}");
    } else {
        assert_eq!((code, &end["hidden"]), (Some(3), &1.into()), "{text}");
        assert!(end["why"].is_string(), "{end}");
    }
    Done::Passed
}

fn closed_stdout() -> Done {
    let mut target = Target::start();
    // More lines than a pipe holds, so that they meet its end.
    let start = target.tell("reserve", 1500);
    let (pid, range) = (target.pid().to_string(), format!("{start:#x}+1024G"));
    let mut child = harness::v2p()
        .args(["translate", "--each", "--json", "--pid", &pid, &range])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut stdout = io::BufReader::new(child.stdout.take().unwrap());
    io::BufRead::read_line(&mut stdout, &mut first).unwrap();
    assert!(first.starts_with("{\"type\":\"run\""), "{first}");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    Done::Passed
}
