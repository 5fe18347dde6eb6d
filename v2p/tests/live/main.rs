//! Tests against a running kernel, as root: this machine's own, and those of the lab's guests, where
//! `cargo xtask test` runs this same program.
//!
//! What a kernel cannot show is skipped with its reason. The lab says in V2P_LAB_DEVMEM what
//! /dev/mem is expected to answer there: `open`, or the id of the check that denies.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod deeds;
mod delivery;
mod demo;
mod doctor;
mod harness;
mod input;
mod machine;
mod mechanism;
mod memory;
mod midway;
mod secret;
mod states;
mod target;
mod translate;
mod trouble;
mod walk;
mod watch;

use libtest_mimic::{Arguments, Completion, Trial};

fn main() {
    if let Some(kind) = std::env::var_os(target::KIND) {
        target::run(&kind);
        return;
    }
    let mut arguments = Arguments::from_args();
    // They move pages of the whole machine, and would move each other's.
    arguments.test_threads = Some(1);
    let trials = [
        demo::trials(),
        doctor::trials(),
        watch::trials(),
        delivery::trials(),
        mechanism::trials(),
        walk::trials(),
        translate::trials(),
        states::trials(),
        midway::trials(),
        input::trials(),
        trouble::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// How a test ends that did not fail.
enum Done {
    Passed,
    Skipped(String),
}

/// A test, which is skipped without root.
fn trial(name: &str, test: fn() -> Done) -> Trial {
    Trial::ignorable_test(name, move || {
        let ignored = |reason: String| Completion::Ignored {
            reason: Some(reason),
        };
        if !rustix::process::geteuid().is_root() {
            return Ok(ignored("it needs root".to_owned()));
        }
        match test() {
            Done::Passed => Ok(Completion::Completed),
            Done::Skipped(reason) => Ok(ignored(reason)),
        }
    })
}
