//! A huge page that goes while pagemap is read: before Linux 6.5 the kernel leaves out its words, and those of what follows come in their place.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use v2p::{
    common::{VirtAddr, pagemap::PagemapWord},
    process::{Pagemap, maps::Mapping},
    translate::{Page, Route, Translator},
};

use crate::{
    Done, WhenDone,
    memory::{HUGE, HUGE_BASE},
    target::{PAGE, Target},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "what_lies_behind_a_huge_page_that_goes_keeps_its_frames",
        behind_what_goes,
    )]
}

/// What comes and goes, then what stays.
const STAYS: u64 = HUGE_BASE + HUGE;
const PAGES: u64 = 2 * HUGE / PAGE;
const TIME: Duration = Duration::from_secs(5);

/// Frames of the pages that stay. The kernel may move one, but never into the frame of another.
struct Known {
    of_page: HashMap<u64, u64>,
    of_frame: HashMap<u64, u64>,
}

impl Known {
    fn of(pagemap: &Pagemap) -> Self {
        let mut known = Self {
            of_page: HashMap::new(),
            of_frame: HashMap::new(),
        };
        let (start, end) = (VirtAddr(STAYS), VirtAddr(STAYS + PAGES * PAGE));
        let alive = pagemap.words(start, end, |va, word| {
            let pfn = word.pfn().unwrap().0;
            known.of_page.insert(va.0, pfn);
            known.of_frame.insert(pfn, va.0);
        });
        assert!(alive.unwrap() && known.of_frame.len() as u64 == PAGES);
        known
    }

    /// Whether the frame told for the page at `va` is that of another.
    fn is_anothers(&mut self, va: u64, pfn: u64) -> bool {
        match self.of_frame.get(&pfn) {
            Some(owner) => *owner != va,
            None => {
                if let Some(before) = self.of_page.insert(va, pfn) {
                    self.of_frame.remove(&before);
                }
                false
            }
        }
    }
}

fn behind_what_goes() -> Done {
    const POPULATE_WRITE: u64 = 23;
    const NO_HUGE_PAGES: u64 = 15;
    let mut target = Target::start();
    if target.tell("thp", 0) == 0 {
        return Done::Skipped("this kernel gave no huge page".to_owned());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let arguments = [
        STAYS,
        PAGES * PAGE,
        3,
        flags.unsigned_abs().into(),
        u64::MAX,
        0,
    ];
    assert_eq!(target.must(libc::SYS_mmap, &arguments), STAYS);
    target.must(libc::SYS_madvise, &[STAYS, PAGES * PAGE, NO_HUGE_PAGES]);
    target.must(libc::SYS_madvise, &[STAYS, PAGES * PAGE, POPULATE_WRITE]);
    let pagemap = Pagemap::of(target.pid()).unwrap();
    let mut known = Known::of(&pagemap);
    let mapping = Mapping {
        start: HUGE_BASE,
        end: STAYS + PAGES * PAGE,
        writable: true,
        name: String::new(),
    };
    let mut translator = Translator::new(Route::Pagemap).unwrap();
    translator.without_flags();
    let over = AtomicBool::new(false);
    let (mut readings, mut misled) = (0, 0);
    thread::scope(|scope| {
        let _ends = WhenDone(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                target.order(&format!("flicker {HUGE_BASE} {HUGE} 1000"));
            }
        });
        let deadline = Instant::now() + TIME;
        let mut words = vec![0; usize::try_from(PAGES + HUGE / PAGE).unwrap()];
        while Instant::now() < deadline {
            readings += 1;
            let each = &mut |page: Page, _| {
                if let Some(pfn) = page.pfn() {
                    let (va, pfn) = (page.va.0, pfn.0);
                    assert!(!known.is_anothers(va, pfn), "{page:x?}, reading {readings}");
                }
                Ok(())
            };
            assert!(translator.mapping(&pagemap, &mapping, each).unwrap());
            // What one reading alone would have said.
            pagemap.read_words(VirtAddr(HUGE_BASE), &mut words).unwrap();
            let first = words.iter().find_map(|word| PagemapWord(*word).pfn());
            let first = first.and_then(|pfn| known.of_frame.get(&pfn.0));
            misled += u64::from(
                first.is_some_and(|owner| *owner == STAYS) && PagemapWord(words[0]).pfn().is_some(),
            );
        }
    });
    eprintln!("{misled} of {readings} readings would have been misled");
    Done::Passed
}
