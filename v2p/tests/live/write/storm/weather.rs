//! A storm as the tests hold it: begun, asked, ended.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::Duration,
};

use super::{
    PAGES, START,
    blow::{FILE, Shared, blow, breathe, map_pages, shared},
};
use crate::target::{KIND, PAGE};

/// A storm that blows, in another process or in a thread of this one.
pub(super) struct Storm {
    shared: &'static Shared,
    path: String,
    pub(super) weather: Weather,
    child: Option<Child>,
    thread: Option<thread::JoinHandle<()>>,
    question: u64,
}

/// What a storm does, and to what.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) name: &'static str,
    /// The pages are locked, so that they are neither thrown away nor swapped out.
    pub(super) locks: bool,
    pub(super) swaps: bool,
    pub(super) discards: bool,
}

impl Storm {
    fn new(weather: Weather) -> Self {
        let Weather {
            name,
            locks,
            swaps,
            discards,
        } = weather;
        let path = format!("/tmp/v2p-storm-{}-{name}", std::process::id()).replace([' ', ','], "-");
        fs::write(&path, [0; 4096]).unwrap();
        let shared = shared(&path);
        shared.locks.store(u64::from(locks), SeqCst);
        shared.swaps.store(u64::from(swaps), SeqCst);
        shared.discards.store(u64::from(discards), SeqCst);
        Self {
            shared,
            path,
            weather,
            child: None,
            thread: None,
            question: 0,
        }
    }

    /// In another process.
    pub(super) fn elsewhere(weather: Weather) -> Self {
        let mut storm = Self::new(weather);
        let child = Command::new(std::env::current_exe().unwrap())
            .env(KIND, "storm")
            .env(FILE, &storm.path)
            .stdin(Stdio::null())
            .spawn();
        storm.child = Some(child.unwrap());
        while storm.shared.ready.load(SeqCst) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        storm
    }

    /// On pages of our own, which it begins to do with [`Self::begin`].
    pub(super) fn here(weather: Weather) -> Self {
        let storm = Self::new(weather);
        map_pages(storm.shared);
        storm
    }

    /// Waits until some more was done: without it a guest whose processors take turns would write between two deeds.
    pub(super) fn let_blow(&self) {
        const DEEDS: u64 = 4;
        let from = self.deeds();
        while self.deeds() < from + DEEDS {
            breathe();
        }
    }

    fn deeds(&self) -> u64 {
        self.shared.deeds.iter().map(|n| n.load(SeqCst)).sum()
    }

    /// It did blow: all that it may do was done, and taken by the kernel.
    pub(super) fn assert_blew(&self) -> [u64; 4] {
        let Weather {
            name,
            locks,
            swaps,
            discards,
        } = self.weather;
        let deeds = [0, 1, 2, 3].map(|i| self.shared.deeds[i].load(SeqCst));
        let expected = [true, discards && !locks, swaps && !locks, true];
        for (done, expected) in deeds.into_iter().zip(expected) {
            assert_eq!(
                done > 0,
                expected,
                "{name}: moves, discards, page-outs, compactions: {deeds:?}"
            );
        }
        deeds
    }

    pub(super) fn begin(&mut self) {
        let shared = self.shared;
        self.thread = Some(thread::spawn(|| blow(shared)));
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(std::process::id(), Child::id)
    }

    /// The truth about page `i`: what is in its slot, and when it was last thrown away.
    pub(super) fn ask(&mut self, i: u64) -> (u64, u64) {
        self.question += 1;
        self.shared.asked.store(i, SeqCst);
        self.shared.question.store(self.question, SeqCst);
        while self.shared.answered.load(SeqCst) != self.question {
            breathe();
        }
        let truth = (
            self.shared.value.load(SeqCst),
            self.shared.wiped_ns.load(SeqCst),
        );
        self.shared.question.store(0, SeqCst);
        truth
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.end.store(1, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
            let len = usize::try_from(PAGES * PAGE).unwrap();
            // SAFETY: the storm is over, and nothing refers to its pages.
            unsafe { rustix::mm::munmap(START as *mut _, len) }.unwrap();
        }
        if let Some(mut child) = self.child.take() {
            assert!(child.wait().unwrap().success());
        }
        let _ = fs::remove_file(&self.path);
    }
}
