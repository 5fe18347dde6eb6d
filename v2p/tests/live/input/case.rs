//! One call of v2p by somebody, somewhere; and what it left behind.

use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Output, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Pid, Signal, kill_process_group},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};

use crate::{
    doctor::container,
    harness::{self, PATIENCE},
    leavings,
};

/// Where a place that has no room has it: a folder that every kernel here has, and that v2p does not look into.
pub(super) const ROOM: &str = "/proc/tty";
const ROOM_C: &CStr = c"/proc/tty";

/// How a call ended.
pub(super) struct Ran {
    pub(super) output: Output,
    /// Files and processes.
    pub(super) left: Vec<String>,
}

/// Runs v2p. An error: this machine does not let us prepare it.
///
/// `who`: `root`; `nobody`, a user who may do nothing; root without CAP_SYS_ADMIN (`fewer`), without what looking at others takes (`needy`), without any (`none`), or in a
/// user namespace of his own (`userns`).
///
/// `place`: `plain`; where /proc shows nothing of others (`hidepid`) or there is none (`noproc`); where there is no BTF (`nobtf`); where OUT is on a disk
/// of one page (`disk`), or on one that is not to be written (`readonly`); where the reader of stdout has gone (`closed`) or stdout is full (`full`), the same
/// of stderr (`mute`, `fullmute`); at a `terminal`.
pub(super) fn run(who: &str, place: &str, arguments: &[&str]) -> io::Result<Ran> {
    let folder = Folder::new()?;
    let (through, _program) = harness::v2p_by_descriptor()?;
    let mut command = match place {
        "noproc" => harness::v2p(),
        _ => through,
    };
    command
        .args(arguments)
        .current_dir(&folder.0)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Open until it has ended.
    let mut _terminal = None;
    match place {
        "closed" => _ = command.stdout(gone()?),
        "full" => _ = command.stdout(full()?),
        "mute" => _ = command.stderr(gone()?),
        "fullmute" => _ = command.stderr(full()?),
        "terminal" => {
            let (master, slave) = harness::terminal().map_err(io::Error::other)?;
            command.stdin(slave.try_clone()?).stdout(slave);
            _terminal = Some(master);
        }
        _ => {}
    }
    let (becomes, goes) = (becoming(who), going(place));
    // SAFETY: both make a few system calls and allocate nothing.
    unsafe { command.pre_exec(move || goes().and_then(|()| becomes())) };
    let child = command.spawn()?;
    drop(command);
    let group = Pid::from_child(&child);
    let (sender, ended) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match ended.recv_timeout(PATIENCE) {
        Ok(output) => output?,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            kill_process_group(group, Signal::KILL)?;
            return Err(io::Error::other("it did not end"));
        }
    };
    let mut left = folder.files()?;
    // Programs and maps live in descriptors: as long as a process of it does, and no longer. A command that it started and that ends by itself closes
    // its stdout a moment before it is seen as ended.
    let over = Instant::now();
    while leavings::lives(group) {
        if over.elapsed() > PATIENCE {
            left.push("a process".to_owned());
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Ran { output, left })
}

type Before = fn() -> io::Result<()>;

fn becoming(who: &str) -> Before {
    match who {
        "root" => || Ok(()),
        // Who is not root is nobody already.
        "nobody" if !rustix::process::geteuid().is_root() => || Ok(()),
        "nobody" => become_nobody,
        "fewer" => || without(CapabilitySet::SYS_ADMIN),
        // From 6.16 on who may trace may look, too.
        "needy" => || {
            without(CapabilitySet::SYS_PTRACE)?;
            without(CapabilitySet::PERFMON)?;
            without(CapabilitySet::SYS_ADMIN)
        },
        "none" => || CapabilitySet::all().iter().try_for_each(without),
        // SAFETY: between fork and exec, where there is one thread.
        "userns" => || Ok(unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?),
        _ => panic!("{who:?}"),
    }
}

fn going(place: &str) -> Before {
    match place {
        "hidepid" => || cover(c"proc", c"/proc", MountFlags::empty(), Some(c"hidepid=2")),
        "noproc" => || cover(c"tmpfs", c"/proc", MountFlags::empty(), None),
        "nobtf" => || cover(c"tmpfs", c"/sys/kernel/btf", MountFlags::empty(), None),
        "disk" => || cover(c"tmpfs", ROOM_C, MountFlags::empty(), Some(c"size=4k")),
        "readonly" => || cover(c"tmpfs", ROOM_C, MountFlags::RDONLY, None),
        "pidns" => container::own_pids,
        "noout" => || close(1),
        "noerr" => || close(2),
        "plain" | "closed" | "full" | "mute" | "fullmute" | "terminal" => || Ok(()),
        _ => panic!("{place:?}"),
    }
}

fn close(number: i32) -> io::Result<()> {
    // SAFETY: between fork and exec, where nobody uses it any more.
    unsafe { rustix::io::close(number) };
    Ok(())
}

/// In a mount namespace of its own, another file system at `place`.
fn cover(kind: &CStr, place: &CStr, flags: MountFlags, how: Option<&CStr>) -> io::Result<()> {
    // SAFETY: between fork and exec, where there is one thread and nothing is shared yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private)?;
    Ok(mount(kind, place, kind, flags, how)?)
}

/// What its exec shall not give it.
fn without(one: CapabilitySet) -> io::Result<()> {
    match remove_capability_from_bounding_set(one) {
        // One that this kernel does not know.
        Err(rustix::io::Errno::INVAL) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
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

/// A pipe that nobody reads.
fn gone() -> io::Result<io::PipeWriter> {
    Ok(io::pipe()?.1)
}

fn full() -> io::Result<File> {
    File::options().write(true).open("/dev/full")
}

/// A folder that anybody may write to, gone after it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("v2p-input-{}", std::process::id()));
        fs::create_dir(&path)?;
        let folder = Self(path);
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777))?;
        Ok(folder)
    }

    fn files(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.0)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // There is no one to tell that it cannot be removed.
        let _ = fs::remove_dir_all(&self.0);
    }
}
