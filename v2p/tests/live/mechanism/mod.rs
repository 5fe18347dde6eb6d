//! One test for each way in which what lies behind a page changes: made on purpose, and every move held against the truth.

mod faults;
mod huge;
mod migration;
mod others;
mod removal;
mod scene;
mod swap;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    [
        faults::trials(),
        removal::trials(),
        migration::trials(),
        swap::trials(),
        huge::trials(),
        others::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
