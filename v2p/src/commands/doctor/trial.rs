//! What is tried, and on what: writing only on a page of our own, by the guard; reading only what is RAM, since
//! reading a device's registers may change its state; mapping anything, without touching it.

use std::io;

use anyhow::Result;
use v2p_common::{PAGE_SIZE, PhysAddr};

use crate::{
    doctor::{
        check::Errno,
        facts::Target,
        predict::{Answer, Outcome},
        verdict::Trial,
        witness::Witness,
    },
    guard::{self, Attempt, Call, devmem::DevMem},
    page::PAGE_LEN,
};

/// Tries what may be tried on `target`. `predicted` is what reading is said to meet: zeros are what memory may hold, so
/// only where they were foretold they are taken for dropped.
pub(super) fn run(
    target: &Target,
    is_device: bool,
    predicted: Answer,
    witness: &mut Witness,
) -> Result<Trial> {
    // Other files were opened since.
    witness.forget();
    if target.is_own {
        let attempt = guard::attempt(true, &mut |call| witness.note(call))?;
        return Ok(of_attempt(attempt));
    }
    let opened = DevMem::open();
    witness.note("open");
    let devmem = match opened {
        Ok(devmem) => devmem,
        Err(e) => return Ok(Trial::all(&Outcome::NotOpened(Errno::of(&e)))),
    };
    let Some(pa) = target.pa else {
        let why = match target.is_hidden {
            true => "the kernel hides the frame",
            false => "no page is there",
        };
        return Ok(Trial::all(&not_tried(why)));
    };
    let read = match is_device {
        true => not_tried("it may be a device, whose state reading may change"),
        false => read(&devmem, pa, predicted),
    };
    witness.note("pread");
    let mmap = match devmem.try_mmap(pa) {
        Ok(()) => Outcome::Worked,
        Err(e) => failed(&e),
    };
    witness.note("mmap");
    Ok(Trial {
        read,
        write: not_tried("v2p writes to pages of its own alone"),
        mmap,
    })
}

/// Whether a page of our own is read through /dev/mem; nothing is written.
pub(super) fn own_page_is_read() -> bool {
    let attempt = guard::attempt(false, &mut |_| {});
    attempt.is_ok_and(|attempt| matches!(attempt.read, Call::Worked))
}

fn read(devmem: &DevMem, pa: PhysAddr, predicted: Answer) -> Outcome {
    let mut page = vec![0; PAGE_LEN];
    match devmem.read(PhysAddr(pa.0 & !(PAGE_SIZE - 1)), &mut page) {
        Ok(()) if matches!(predicted, Answer::Dropped(_)) && page.iter().all(|b| *b == 0) => {
            Outcome::Dropped
        }
        Ok(()) => Outcome::Worked,
        Err(e) => failed(&e),
    }
}

fn not_tried(why: &str) -> Outcome {
    Outcome::NotTried(why.to_owned())
}

fn failed(error: &io::Error) -> Outcome {
    Outcome::Failed(Errno::of(error))
}

fn of_attempt(attempt: Attempt) -> Trial {
    let Attempt {
        open,
        read,
        mmap,
        write,
    } = attempt;
    match open {
        Ok(()) => Trial {
            read: of_call(read),
            write: of_call(write),
            mmap: of_call(mmap),
        },
        Err(e) => Trial {
            write: of_call(write),
            ..Trial::all(&Outcome::NotOpened(Errno::of(&e)))
        },
    }
}

fn of_call(call: Call) -> Outcome {
    match call {
        Call::NotMade(why) => Outcome::NotTried(why),
        Call::Worked => Outcome::Worked,
        Call::Dropped => Outcome::Dropped,
        Call::NotOpened(e) => Outcome::NotOpened(Errno::of(&e)),
        Call::Failed(e) => failed(&e),
    }
}
