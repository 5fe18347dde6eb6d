//! One test for each way in which what lies behind a page changes: made on purpose, and every move held against the truth.

mod compaction;
mod faults;
mod frames;
mod group;
mod huge;
mod hugetlb;
mod image;
mod killed;
mod ksm;
mod migration;
mod pressure;
mod removal;
mod scene;
mod swap;
mod uffd;
mod writers;

use std::panic;

use libtest_mimic::Trial;

pub(crate) use migration::move_to_other_node;

use self::scene::Again;
use crate::Done;

pub(crate) fn trials() -> Vec<Trial> {
    [
        faults::trials(),
        removal::trials(),
        image::trials(),
        killed::trials(),
        migration::trials(),
        compaction::trials(),
        frames::trials(),
        swap::trials(),
        huge::trials(),
        hugetlb::trials(),
        ksm::trials(),
        uffd::trials(),
        writers::trials(),
        pressure::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A test that is done again where [`Again`] says so, some times.
fn trial(name: &'static str, test: fn() -> Done) -> Trial {
    const TIMES: u32 = 5;
    crate::trial_with(name, move || {
        let mut times = 0;
        loop {
            let what = match panic::catch_unwind(test) {
                Ok(done) => return done,
                Err(what) => what,
            };
            times += 1;
            match what.downcast::<Again>() {
                Ok(again) if times < TIMES => eprintln!("{name}: again: {}", again.0),
                Ok(again) => panic!("{}", again.0),
                Err(what) => panic::resume_unwind(what),
            }
        }
    })
}

/// This thread.
fn tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}
