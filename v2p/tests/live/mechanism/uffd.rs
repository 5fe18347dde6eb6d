//! userfaultfd: who holds it gives the owner its pages, and may be another process.

use std::os::fd::{AsRawFd as _, OwnedFd};

use libtest_mimic::Trial;

use super::{scene::Scene, tid};
use crate::{
    Done,
    memory::FILE_BASE,
    target::{PAGE, Target, va},
    trial,
};

const COPY: u64 = 0xc028_aa03;
const ZEROPAGE: u64 = 0xc020_aa04;
const MOVE: u64 = 0xc028_aa05;
const CONTINUE: u64 = 0xc020_aa07;
/// UFFDIO_REGISTER_MODE_*: a page is missing, or is in the page cache and not mapped.
const MISSING: u64 = 1;
const MINOR: u64 = 1 << 2;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const FEATURE_MOVE: u64 = 1 << 16;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_uffd_copy", uffd_copy),
        trial("mechanism_uffd_copy_by_another", uffd_copy_by_another),
        trial("mechanism_uffd_zeropage", uffd_zeropage),
        trial("mechanism_uffd_continue", uffd_continue),
        trial("mechanism_uffd_move", uffd_move),
    ]
}

/// A userfaultfd for `pages` pages from `start` on. `None`: this kernel has none with these features.
fn userfaultfd(
    target: &mut Target,
    (start, pages): (u64, u64),
    features: u64,
    mode: u64,
) -> Option<u64> {
    const API: u64 = 0xc018_aa3f;
    const REGISTER: u64 = 0xc020_aa00;
    let fd = u64::try_from(target.call(libc::SYS_userfaultfd, &[1])).ok()?;
    let place = target.scratch(&[0xaa, features, 0]);
    if target.call(libc::SYS_ioctl, &[fd, API, place]) != 0 {
        return None;
    }
    let place = target.scratch(&[start, pages * PAGE, mode, 0]);
    target.must(libc::SYS_ioctl, &[fd, REGISTER, place]);
    Some(fd)
}

fn uffd_copy() -> Done {
    let mut scene = Scene::new(&[(va(8), 4)], |target| target.fill(va(20), 4));
    let done = scene.act(|target| {
        let fd = userfaultfd(target, (va(8), 4), 0, MISSING)?;
        let place = target.scratch(&[va(8), va(20), 4 * PAGE, 0, 0]);
        Some(target.must(libc::SYS_ioctl, &[fd, COPY, place]))
    });
    if done.is_none() {
        return Done::Skipped("this kernel has no userfaultfd".to_owned());
    }
    let told = scene.end();
    told.only((va(8), 4), &["first-touch"])
        .by("first-touch", told.pid);
    told.by_event("UFFDIO_COPY");
    Done::Passed
}

fn uffd_copy_by_another() -> Done {
    let mut scene = Scene::new(&[(va(8), 4)], |_| {});
    let given = scene.act(|target| userfaultfd(target, (va(8), 4), 0, MISSING));
    let Some(fd) = given else {
        return Done::Skipped("this kernel has no userfaultfd".to_owned());
    };
    let theirs = match descriptor_of(&scene.target, fd) {
        Ok(theirs) => theirs,
        Err(e) => return Done::Skipped(format!("pidfd_getfd: {e}")),
    };
    // What is copied is of who copies.
    let bytes = vec![7u8; 4 * 4096];
    let mut argument = [va(8), bytes.as_ptr() as u64, 4 * PAGE, 0, 0];
    // SAFETY: the argument is a struct uffdio_copy, and its source so long.
    let done = unsafe { libc::ioctl(theirs.as_raw_fd(), COPY, argument.as_mut_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    let told = scene.end();
    told.only((va(8), 4), &["first-touch"]);
    told.by("first-touch", tid());
    told.proven("UFFDIO_COPY by another process");
    Done::Passed
}

/// A descriptor of another process, as one of ours.
fn descriptor_of(target: &Target, fd: u64) -> std::io::Result<OwnedFd> {
    use rustix::process::{ForeignRawFd, PidfdGetfdFlags, pidfd_getfd};
    let fd = ForeignRawFd::try_from(fd).unwrap();
    Ok(pidfd_getfd(target.pidfd(), fd, PidfdGetfdFlags::empty())?)
}

fn uffd_zeropage() -> Done {
    let mut scene = Scene::new(&[(va(8), 4)], |_| {});
    let done = scene.act(|target| {
        let fd = userfaultfd(target, (va(8), 4), 0, MISSING)?;
        let place = target.scratch(&[va(8), 4 * PAGE, 0, 0]);
        Some(target.must(libc::SYS_ioctl, &[fd, ZEROPAGE, place]))
    });
    if done.is_none() {
        return Done::Skipped("this kernel has no userfaultfd".to_owned());
    }
    let told = scene.end();
    told.only((va(8), 4), &["first-touch"])
        .by("first-touch", told.pid);
    told.by_event("UFFDIO_ZEROPAGE");
    Done::Passed
}

fn uffd_continue() -> Done {
    // The same memory a second time, with nothing mapped of it.
    const SECOND: u64 = FILE_BASE + (1 << 30);
    const SHARED_FIXED: u64 = 0x01 | 0x10;
    let mut scene = Scene::new(&[(SECOND, 4)], |target| {
        let file = target.shared_memory(4);
        target.fill(FILE_BASE, 4);
        let arguments = [SECOND, 4 * PAGE, 3, SHARED_FIXED, file, 0];
        target.must(libc::SYS_mmap, &arguments);
    });
    let done = scene.act(|target| {
        let fd = userfaultfd(target, (SECOND, 4), FEATURE_MINOR_SHMEM, MINOR)?;
        let place = target.scratch(&[SECOND, 4 * PAGE, 0, 0]);
        Some(target.must(libc::SYS_ioctl, &[fd, CONTINUE, place]))
    });
    if done.is_none() {
        return Done::Skipped("this kernel has no UFFDIO_CONTINUE".to_owned());
    }
    let told = scene.end();
    told.only((SECOND, 4), &["first-touch"])
        .by("first-touch", told.pid);
    told.by_event("UFFDIO_CONTINUE");
    Done::Passed
}

fn uffd_move() -> Done {
    let mut scene = Scene::new(&[(va(8), 4), (va(20), 4)], |target| target.fill(va(20), 4));
    let done = scene.act(|target| {
        let fd = userfaultfd(target, (va(8), 4), FEATURE_MOVE, MISSING)?;
        let place = target.scratch(&[va(8), va(20), 4 * PAGE, 0, 0]);
        Some(target.call(libc::SYS_ioctl, &[fd, MOVE, place]))
    });
    match done {
        None => return Done::Skipped("this kernel has no UFFDIO_MOVE".to_owned()),
        Some(0) => {}
        Some(error) => panic!("UFFDIO_MOVE: {error}"),
    }
    let told = scene.end();
    told.just((va(8), 4), &["remap"])
        .just((va(20), 4), &["remap"])
        .by("remap", told.pid);
    told.by_event("UFFDIO_MOVE");
    Done::Passed
}
