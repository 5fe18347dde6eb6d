//! The last look-up, the pwrite, the reading back and the look-up after it, with nothing between them: the one place where physical memory is
//! written, for the protocol and for the doctor's trial.

use std::io;

use anyhow::Result;
use v2p_common::Pfn;

use super::{Step, devmem::DevMem};
use crate::kernel::now_ns;

/// How often it is looked up while no frame is named, or not the same by both routes: where the kernel tries to move a page that is
/// pinned, it takes the entry out and puts it back (try_to_migrate_one, mm/rmap.c, 6.1 to 7.3), and the walk, which takes no
/// lock, may come by just then.
const LOOKS: u32 = 20;

/// What is to be written where: inside one page.
pub(super) struct Shot<'a> {
    pub(super) devmem: &'a DevMem,
    /// The frame that the page is known to have.
    pub(super) pfn: Pfn,
    /// Where in it, in bytes.
    pub(super) offset: u64,
    /// Resident, and locked.
    pub(super) bytes: &'a [u8],
    /// All but the pwrite.
    pub(super) dry_run: bool,
}

/// What came of it.
pub(super) enum Strike {
    /// The last look-up did not name the frame any more: nothing was written.
    Moved,
    /// It did, and nothing was to be written.
    Spared,
    /// The pwrite was made.
    Made(Struck),
}

/// A pwrite, and the time around it: CLOCK_MONOTONIC in nanoseconds, as events are stamped.
pub(super) struct Struck {
    /// The last look-up began.
    pub(super) look_up_ns: u64,
    /// The pwrite had returned.
    pub(super) written_ns: u64,
    /// The look-up after the pwrite had ended.
    pub(super) seen_ns: u64,
    /// How many bytes the kernel says that it took.
    pub(super) wrote: io::Result<usize>,
    /// Whether the bytes were read back at once, by both routes: then they came to the page, whatever became of it later.
    pub(super) back: bool,
    /// Whether the look-up after that named the frame. One that failed did not; who needs another one will meet the error.
    pub(super) still: bool,
    /// Whether nobody was taking entries out as it ended.
    pub(super) quiet: bool,
}

/// Looks up, and writes at once where the frame is the one that is known. `look_up`: the frame that the page has now.
/// `disturb`: called between the two, and right after the pwrite, where a test has its say. `read_back`: whether the bytes are there, by both
/// routes. `quiet`: whether nobody is taking entries out.
///
/// # Errors
/// Those of the first `look_up` and of the first `disturb`: then nothing was written.
pub(super) fn strike(
    shot: &Shot<'_>,
    mut look_up: impl FnMut() -> Result<Option<Pfn>>,
    disturb: &mut dyn FnMut(Step) -> Result<()>,
    read_back: impl FnOnce() -> bool,
    quiet: impl FnOnce() -> bool,
) -> Result<Strike> {
    let Shot {
        devmem, pfn, bytes, ..
    } = *shot;
    let pa = pfn.at(shot.offset);
    let mut looks = 0..LOOKS;
    let look_up_ns = loop {
        let began_ns = now_ns();
        match look_up()? {
            Some(now) if now == pfn => break began_ns,
            None if looks.next().is_some() => {}
            _ => return Ok(Strike::Moved),
        }
    };
    disturb(Step::Write)?;
    if shot.dry_run {
        return Ok(Strike::Spared);
    }
    let wrote = devmem.write(pa, bytes);
    let written_ns = now_ns();
    let back = disturb(Step::ReadBack).is_ok() && read_back();
    let still = look_up().is_ok_and(|now| now == Some(pfn));
    // In this order: what has ended by the time is stamped earlier.
    let quiet = quiet();
    Ok(Strike::Made(Struck {
        look_up_ns,
        written_ns,
        seen_ns: now_ns(),
        wrote,
        back,
        still,
        quiet,
    }))
}
