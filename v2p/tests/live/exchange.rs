//! Pages that exchange frames while they are translated: what a frame is like is told of the page that is in it.

use std::{
    ptr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use libtest_mimic::Trial;
use v2p::{
    process::{FrameFlags, Pagemap, maps::Mapping},
    translate::{Page, Route, Translator},
};

use crate::{Done, WhenDone, target::PAGE, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "the_flags_are_those_of_the_page_s_own_frame",
        flags_of_its_own,
    )]
}

/// Of each kind. More than are read before the first are told.
const MANY: u64 = 512 * 16 * 5;
/// So many of each are given up, and then touched again, at a time.
const STEP: u64 = 64;
/// Translations by each route.
const READINGS: usize = 8;

fn bytes(pages: u64) -> usize {
    usize::try_from(pages * PAGE).unwrap()
}

/// Pages of one kind, of this process.
struct Pages(Mapping);

impl Pages {
    fn new(kind: libc::c_int) -> Self {
        let (len, flags) = (bytes(MANY), kind | libc::MAP_ANONYMOUS);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: what was just mapped. A kernel without huge pages does not know it.
        unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        let pages = Self(Mapping {
            start: start as u64,
            end: start as u64 + MANY * PAGE,
            writable: true,
            name: String::new(),
        });
        (0..MANY).for_each(|i| pages.touch(i));
        pages
    }

    fn touch(&self, i: u64) {
        // SAFETY: one of our pages, which holds nothing that anybody reads.
        unsafe { ((self.0.start + i * PAGE) as *mut u8).write_volatile(1) };
    }

    /// Gives up the frames of [`STEP`] pages from `first` on.
    fn give_up(&self, first: u64, advice: libc::c_int) {
        let place = (self.0.start + first * PAGE) as *mut libc::c_void;
        // SAFETY: as in `touch`.
        let failed = unsafe { libc::madvise(place, bytes(STEP), advice) };
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe { libc::munmap(self.0.start as *mut libc::c_void, bytes(MANY)) };
    }
}

/// Each takes the frames that the other has given up; no page twice while they are read once: it may come back into its frame.
fn exchange(private: &Pages, shared: &Pages, readings: &AtomicU64, over: &AtomicBool) {
    let mut seen = 0;
    for first in (0..MANY / STEP).map(|i| i * STEP).cycle() {
        while first == 0
            && readings.load(Ordering::Relaxed) == seen
            && !over.load(Ordering::Relaxed)
        {
            thread::yield_now();
        }
        if over.load(Ordering::Relaxed) {
            return;
        }
        private.give_up(first, libc::MADV_DONTNEED);
        shared.give_up(first, libc::MADV_REMOVE);
        (first..first + STEP).for_each(|i| private.touch(i));
        (first..first + STEP).for_each(|i| shared.touch(i));
        seen = readings.load(Ordering::Relaxed);
    }
}

fn flags_of_its_own() -> Done {
    let private = Pages::new(libc::MAP_PRIVATE);
    let shared = Pages::new(libc::MAP_SHARED);
    let (over, readings) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _ends = WhenDone(&over);
        scope.spawn(|| exchange(&private, &shared, &readings, &over));
        let pagemap = Pagemap::of_self().unwrap();
        for route in [Route::Pagemap, Route::Walk, Route::Both] {
            let mut translator = Translator::new(route).unwrap();
            let mut told = 0;
            for _ in 0..READINGS {
                for (pages, is_private) in [(&private, true), (&shared, false)] {
                    let each = &mut |page: Page, _| {
                        let Some(flags) = page.frame else {
                            return Ok(());
                        };
                        told += 1;
                        let is_anon = flags.has(FrameFlags::ANON);
                        let is_mapped = flags.has(FrameFlags::MMAP);
                        assert!(
                            is_mapped && is_anon == is_private,
                            "{route:?}: {:?} of {page:x?}",
                            flags.names()
                        );
                        Ok(())
                    };
                    readings.fetch_add(1, Ordering::Relaxed);
                    let read = translator.mapping(&pagemap, &pages.0, each);
                    assert!(matches!(read, Ok(true)), "{read:?}");
                }
            }
            // Most are not being exchanged at the moment.
            let all = 2 * MANY * READINGS as u64;
            assert!(told > all / 2, "{route:?}: {told} of {all} pages");
        }
    });
    Done::Passed
}
