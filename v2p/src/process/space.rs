//! The address space of a process: its pagemap and its mappings, both of one and the same program.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use anyhow::Result;
use procfs::process::StatFlags;

use super::{
    Pagemap, Process,
    identity::threads,
    maps::{self, Mapping},
    stat::stat,
};
use crate::{
    exit::{self, Failure},
    kernel::privileges::MOUNT_PROC,
};

/// How often a process is looked at again that executes one program after the other.
const ATTEMPTS: usize = 10;

/// What a process has of memory.
pub struct AddressSpace {
    /// Where its pages are.
    pub pagemap: Pagemap,
    /// What it has mapped, by address, also what of it lies in the kernel's half (`[vsyscall]`).
    pub mappings: Vec<Mapping>,
    /// What the program was as they were opened.
    layout: Option<[u64; 3]>,
}

impl AddressSpace {
    /// That of `process`.
    ///
    /// # Errors
    /// Exit code 1 where it has none: it has ended, or is a kernel thread; 3 where we may not read it.
    pub fn of(process: &Process) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let found = at_a_root(process.pid, |root| {
                // What the program is, before and after: pagemap stays with the address space that there was when it was
                // opened, and the mappings of another program would be mixed with it.
                let layout = layout(root);
                let pagemap = Pagemap::open(&root.join("pagemap"))?;
                let found = Self {
                    pagemap,
                    mappings: maps::read(&root.join("maps"))?,
                    layout,
                };
                let is_whole = !found.mappings.is_empty() && found.is_of(process);
                if is_whole { Ok(found) } else { Err(over()) }
            });
            match found {
                Ok(found) => return Ok(found),
                Err(e) if is_over(&e) => {}
                Err(e) => return Err(explain(&e, process).into()),
            }
            if Self::is_over(process) {
                break;
            }
        }
        Err(Self::none(process).into())
    }

    /// Whether it is still that of `process`, whose number is not another's: what was read of it until now was its own. Its pagemap alone would not
    /// tell, as long as somebody else has the address space too (vfork).
    pub fn is_of(&self, process: &Process) -> bool {
        // A thread that has ended tells nothing any more.
        let is_same = |root: PathBuf| self.layout == layout(&root);
        roots(process.pid).any(is_same) && !process.has_ended()
    }

    /// Whether `process` has none, now and later: it has ended, or is a kernel thread.
    pub fn is_over(process: &Process) -> bool {
        process.has_ended() || is_kernel_thread(process.pid)
    }

    /// Why `process` has none.
    pub fn none(process: &Process) -> Failure {
        let pid = process.pid;
        Failure::no(if process.has_ended() {
            let zombie = std::fs::exists(format!("/proc/{pid}")).unwrap_or(false);
            let more = if zombie {
                ": it is a zombie, which its parent has not waited for"
            } else {
                ""
            };
            format!("process {pid} has ended{more}")
        } else if is_kernel_thread(pid) {
            format!("process {pid} is a kernel thread: it has no address space")
        } else {
            format!("process {pid} has no address space: it is ending")
        })
    }

    /// Why a reading of what `process` had gave nothing any more.
    pub fn gone(process: &Process) -> Failure {
        let pid = process.pid;
        Failure::no(match Self::of(process) {
            Err(e) if exit::code(&e) == exit::NO => {
                format!("process {pid} ended during the reading")
            }
            // What it executes may not be ours to read.
            _ => format!("process {pid} executed another program during the reading"),
        })
    }
}

/// Where /proc has the memory of process `pid`: at its main thread, or where that has ended, at one of the others. Those that have come
/// since the others were listed are among them, as long as there are some.
pub(super) fn roots(pid: u32) -> impl Iterator<Item = PathBuf> {
    let main = PathBuf::from(match pid == std::process::id() {
        true => "/proc/self".to_owned(),
        false => format!("/proc/{pid}"),
    });
    let tasks = main.join("task");
    let mut known = BTreeSet::from([pid]);
    let lists = (0..ATTEMPTS).map_while(move |_| {
        let mut new = threads(pid);
        new.retain(|tid| known.insert(*tid));
        (!new.is_empty()).then_some(new)
    });
    let others = lists.flatten();
    std::iter::once(main).chain(others.map(move |tid| tasks.join(tid.to_string())))
}

/// What `open` gives of the first of the [`roots`] of process `pid` that has memory. ESRCH: none has.
///
/// # Errors
/// Those of the kernel; ENOENT, where there is no such process, or /proc does not show it.
pub(super) fn at_a_root<T>(
    pid: u32,
    mut open: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<T> {
    for (i, root) in roots(pid).enumerate() {
        match open(&root) {
            // A thread that has ended has no memory, but another may. Once it is waited for, its folder is gone too.
            Err(e) if is_over(&e) || i > 0 && e.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    Err(over())
}

/// Whether a task has no memory, or not any more.
pub(super) fn is_over(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ESRCH)
}

/// That a task has no memory.
pub(super) fn over() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}

/// Where the program of the process and its stack lie: an exec changes it. Where the arguments lie a program changes itself, as it takes another title
/// (PR_SET_MM_ARG_START, PR_SET_MM_MAP in kernel/sys.c, 6.1 to 7.3).
fn layout(root: &Path) -> Option<[u64; 3]> {
    let stat = stat(root)?;
    Some([stat.startcode, stat.endcode, stat.startstack])
}

/// Why a file of the process cannot be opened.
fn explain(e: &io::Error, process: &Process) -> Failure {
    let pid = process.pid;
    match e.kind() {
        _ if process.has_ended() => AddressSpace::none(process),
        io::ErrorKind::PermissionDenied => super::no_rights(&format!("process {pid}"), e),
        io::ErrorKind::NotFound if process.is_own() => super::no_pagemap(e),
        io::ErrorKind::NotFound if !Path::new("/proc/self").exists() => {
            Failure::unsupported("/proc is not there, or not the kernel's").hint(MOUNT_PROC)
        }
        io::ErrorKind::NotFound => {
            Failure::unsupported(format!("process {pid}: it exists, but this /proc does not show it"))
                .hint("/proc is mounted with hidepid, or is another PID namespace's: run as root, or mount one of your own")
        }
        _ => Failure::failed(format!("process {pid}: {e}")),
    }
}

fn is_kernel_thread(pid: u32) -> bool {
    let stat = stat(Path::new(&format!("/proc/{pid}")));
    stat.is_some_and(|stat| stat.flags & StatFlags::PF_KTHREAD.bits() != 0)
}
