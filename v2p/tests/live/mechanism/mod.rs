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
mod split;
mod swap;
mod tiers;
mod uffd;
mod writers;

use libtest_mimic::Trial;

pub(crate) use migration::move_to_other_node;

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
        split::trials(),
        hugetlb::trials(),
        ksm::trials(),
        uffd::trials(),
        writers::trials(),
        pressure::trials(),
        tiers::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// This thread.
fn tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}
