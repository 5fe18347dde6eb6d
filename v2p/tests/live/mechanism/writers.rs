//! Writers from outside: each may make the kernel copy the page that it writes to.

use std::{fs, io, os::unix::fs::FileExt as _};

use libtest_mimic::Trial;

use super::{scene::Scene, tid};
use crate::{
    Done,
    machine::{load_module, only_in_guests},
    memory::FILE_BASE,
    target::{BASE, PAGE, PAGES, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);
const PROT_READ: u64 = 1;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_process_vm_writev", process_vm_writev),
        trial("mechanism_proc_pid_mem", proc_pid_mem),
        trial("mechanism_proc_pid_mem_forced", proc_pid_mem_forced),
        trial("mechanism_ptrace_poke", ptrace_poke),
        trial("mechanism_direct_write", direct_write),
    ]
}

fn process_vm_writev() -> Done {
    let scene = Scene::new(&[ALL], |target| {
        target.fill(va(4), 1);
        target.fork();
    });
    let byte = [9u8];
    let ours = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    let theirs = libc::iovec {
        iov_base: va(4) as *mut _,
        iov_len: 1,
    };
    let pid = i32::try_from(scene.target.pid()).unwrap();
    // SAFETY: one element each, which outlive the call.
    let written =
        unsafe { libc::process_vm_writev(pid, &raw const ours, 1, &raw const theirs, 1, 0) };
    assert_eq!(written, 1, "{}", io::Error::last_os_error());
    let told = scene.end();
    if told.moves.iter().all(|m| m["proof"] == "event") {
        told.only((va(4), 1), &["cow"]).by("cow", tid());
    } else {
        told.only((va(4), 1), &["unknown"]);
    }
    told.in_part("process_vm_writev");
    Done::Passed
}

fn proc_pid_mem() -> Done {
    let scene = Scene::new(&[(FILE_BASE, 1)], |target| {
        target.private_file(1);
        target.touch(FILE_BASE);
    });
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/mem", scene.target.pid()))
        .unwrap();
    memory.write_at(&[9], FILE_BASE).unwrap();
    let told = scene.end();
    if told.functions {
        told.only((FILE_BASE, 1), &["cow"]).by("cow", tid());
    } else {
        told.only((FILE_BASE, 1), &["unknown"]);
    }
    told.proven("/proc/PID/mem");
    Done::Passed
}

/// A page of a file, mapped private and read, that may not be written to.
fn read_only() -> Scene {
    Scene::new(&[(FILE_BASE, 1)], |target| {
        target.private_file(1);
        target.must(libc::SYS_mprotect, &[FILE_BASE, PAGE, PROT_READ]);
        target.touch(FILE_BASE);
    })
}

/// What a writer who goes past the protection leaves.
fn copied(scene: Scene, mechanism: &str) -> Done {
    let told = scene.end();
    if told.functions {
        told.only((FILE_BASE, 1), &["cow"]).by("cow", tid());
    } else {
        told.only((FILE_BASE, 1), &["unknown"]);
    }
    told.proven(mechanism);
    Done::Passed
}

fn proc_pid_mem_forced() -> Done {
    let scene = read_only();
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/mem", scene.target.pid()))
        .unwrap();
    if let Err(e) = memory.write_at(&[9], FILE_BASE) {
        let told = scene.end();
        told.none();
        return Done::Skipped(format!("this kernel does not force such a write: {e}"));
    }
    copied(scene, "/proc/PID/mem, read-only page")
}

fn ptrace_poke() -> Done {
    let scene = read_only();
    let pid = i32::try_from(scene.target.pid()).unwrap();
    let trace = |request: libc::c_uint, place: u64, word: u64| {
        // SAFETY: a child of ours, and a word of its memory.
        let done = unsafe { libc::ptrace(request, pid, place, word) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    };
    trace(libc::PTRACE_ATTACH, 0, 0);
    // SAFETY: no status is asked for.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
    trace(libc::PTRACE_POKETEXT, FILE_BASE, 9);
    trace(libc::PTRACE_DETACH, 0, 0);
    copied(scene, "ptrace POKETEXT, read-only page")
}

/// A write past the page cache, which takes out of it, and of every process, what it makes stale: of a block device, since guests
/// have no file system that is on one.
fn direct_write() -> Done {
    if let Err(reason) = only_in_guests("adds a block device") {
        return Done::Skipped(reason);
    }
    load_module("zram");
    let Ok(number) = fs::read_to_string("/sys/class/zram-control/hot_add") else {
        return Done::Skipped("this kernel has no zram".to_owned());
    };
    let number = number.trim();
    fs::write(format!("/sys/block/zram{number}/disksize"), "1M").unwrap();
    let path = format!("/dev/zram{number}");
    let scene = Scene::new(&[(FILE_BASE, 4)], |target| {
        const SHARED_FIXED: u64 = 0x01 | 0x10;
        let fd = target.open(&path);
        let arguments = [FILE_BASE, 4 * PAGE, PROT_READ, SHARED_FIXED, fd, 0];
        target.must(libc::SYS_mmap, &arguments);
        (0..4).for_each(|i| target.touch(FILE_BASE + i * PAGE));
    });
    let page = v2p::page::OwnPage::new().unwrap();
    use std::os::unix::fs::OpenOptionsExt as _;
    let disk = fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    // SAFETY: a page of our own that lives.
    let bytes = unsafe { std::slice::from_raw_parts(page.va().0 as *const u8, 4096) };
    disk.write_all_at(bytes, PAGE).unwrap();
    let told = scene.end();
    let cause = if told.functions { "discard" } else { "unknown" };
    told.only((FILE_BASE + PAGE, 1), &[cause])
        .by("discard", tid());
    told.proven("direct write of a mapped page");
    Done::Passed
}
