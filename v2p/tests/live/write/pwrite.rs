//! What pwrite on /dev/mem may answer beside success. A kernel that lets the write through gives these answers rarely or never,
//! so a seccomp filter holds the call of the writing thread, and its supervisor here answers in the kernel's place,
//! after doing to the memory what the kernel would have done.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    panic::{panic_any, resume_unwind},
    ptr,
    sync::mpsc::{Receiver, channel},
    thread,
};

use libtest_mimic::Trial;
use v2p::{
    common::VirtAddr,
    guard::{Job, undisturbed},
    record::{Verdict, Write},
};

use super::{Scene, inside, is_open, word};
use crate::{Again, Done, target::Target, trial};

const OLD: [u8; 8] = *b"was here";
const NEW: [u8; 8] = *b"8 bytes!";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "write_says_how_many_bytes_went_where_when_pwrite_fails",
        answers,
    )]
}

/// How the call ends, and what the memory has then.
struct Answer {
    /// What is there in the place of the first bytes.
    does: &'static [u8],
    /// The result, or the error as a negative number.
    result: i64,
    /// The verdict; none where it is an error.
    verdict: Option<Verdict>,
    /// What is said.
    says: &'static str,
}

const ANSWERS: [Answer; 6] = [
    Answer {
        does: b"",
        result: -(libc::EPERM as i64),
        verdict: Some(Verdict::Denied),
        says: "Operation not permitted",
    },
    Answer {
        does: b"",
        result: -(libc::EFAULT as i64),
        verdict: None,
        says: "Bad address (os error 14): no byte there has changed",
    },
    // Where the source faults the kernel fills the rest of the target with zeros (copy_from_user).
    Answer {
        does: b"8 b\0\0\0\0\0",
        result: 3,
        verdict: None,
        says: "took 3 of 8 bytes: 3 bytes were written, the 5 after them are zeros now",
    },
    Answer {
        does: b"8 b",
        result: 3,
        verdict: None,
        says: "took 3 of 8 bytes: 3 bytes were written, the 5 after them are as they were",
    },
    Answer {
        does: b"",
        result: 0,
        verdict: None,
        says: "took 0 of 8 bytes: no byte there has changed",
    },
    // As for RAM below 1 MiB under STRICT_DEVMEM.
    Answer {
        does: b"",
        result: 8,
        verdict: Some(Verdict::Unproven),
        says: "the kernel dropped the write",
    },
];

fn answers() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    let mut target = Target::start();
    let pages = || (0..).take(ANSWERS.len());
    pages().for_each(|i| _ = target.tell("write", i));
    let (send, listener) = channel();
    let pid = target.pid();
    let said = thread::scope(|scope| {
        let supervisor = scope.spawn(|| supervise(listener));
        // A thread of its own: it never gets rid of the filter.
        let writer = scope.spawn(move || {
            let mut scene = Scene::of(pid, super::EVERYWHERE);
            for i in pages() {
                assert_eq!(scene.write(inside(i), &OLD).verdict, Verdict::Landed);
            }
            let held = hold_pwrite();
            let is_held = held.is_ok();
            send.send(held).unwrap();
            let all = pages().filter(|_| is_held);
            all.map(|i| write(&mut scene, inside(i)))
                .collect::<Vec<_>>()
        });
        let said = writer.join().unwrap_or_else(|what| resume_unwind(what));
        supervisor.join().unwrap().map(|()| said)
    });
    let said = match said {
        Ok(said) => said,
        Err(why) => return Done::Skipped(format!("seccomp: {why}")),
    };
    assert_eq!(said.len(), ANSWERS.len());
    for ((answer, said), i) in ANSWERS.iter().zip(said).zip(0..) {
        let verdict = said.as_ref().ok().map(|said| said.verdict);
        assert_eq!(verdict, answer.verdict, "{said:#?}");
        let told = match said {
            Err(told) => told,
            Ok(said) => format!("{:?} {:?}", said.why, said.denied),
        };
        assert!(told.contains(answer.says), "{}: {told}", answer.says);
        assert!(!told.contains("bytes were written before"), "{told}");
        let mut there = OLD;
        there[..answer.does.len()].copy_from_slice(answer.does);
        assert_eq!(target.peek(inside(i)), word(there), "{told}");
    }
    Done::Passed
}

fn write(scene: &mut Scene, va: u64) -> Result<Write, String> {
    let job = Job {
        va: VirtAddr(va),
        bytes: &NEW,
        dry_run: false,
        force_readonly: false,
    };
    let Scene { guard, runtime } = scene;
    let said = runtime.block_on(guard.write(&job, &mut undisturbed));
    if said.as_ref().is_ok_and(|said| said.lost > 0) {
        panic_any(Again(format!("events were lost: {said:?}")));
    }
    said.map_err(|e| format!("{e:#}"))
}

/// From here on every pwrite of this thread waits for the listener's answer.
fn hold_pwrite() -> io::Result<OwnedFd> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(libc::SYS_pwrite64).unwrap();
    let mut program = [
        // The number comes first in struct seccomp_data.
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_EQUAL, 0, 1, number),
        step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is as long as is said; it is copied.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const filter,
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Answers the calls, one after the other.
fn supervise(listener: Receiver<io::Result<OwnedFd>>) -> io::Result<()> {
    // Where the writer ended before, that is what is told.
    let listener = listener.recv().map_err(io::Error::other)??;
    let memory = OpenOptions::new().write(true).open("/dev/mem")?;
    ANSWERS
        .iter()
        .try_for_each(|answer| give(answer, &listener, &memory))
}

fn give(answer: &Answer, listener: &OwnedFd, memory: &File) -> io::Result<()> {
    // _IOWR('!', 0, struct seccomp_notif) and _IOWR('!', 1, struct seccomp_notif_resp), include/uapi/linux/seccomp.h.
    const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
    const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
    // SAFETY: numbers alone, for which zero is a value; the kernel wants it so.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in one such structure.
    let r = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, ptr::from_mut(&mut call)) };
    assert_eq!(r, 0, "{}", io::Error::last_os_error());
    // pwrite64(fd, bytes, count, offset).
    assert_eq!(call.data.args[2], 8);
    if !answer.does.is_empty() {
        memory.write_all_at(answer.does, call.data.args[3])?;
    }
    let mut reply = libc::seccomp_notif_resp {
        id: call.id,
        val: answer.result.max(0),
        error: i32::try_from(answer.result.min(0)).unwrap(),
        flags: 0,
    };
    // SAFETY: one such structure, which is read.
    let r = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, ptr::from_mut(&mut reply)) };
    assert_eq!(r, 0, "{}", io::Error::last_os_error());
    Ok(())
}
