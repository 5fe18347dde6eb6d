//! `cargo xtask soak`: the live test of a long watch, for longer, in the guest that it runs in for a glance with all others.

use std::{
    env,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    guests::{self, GUESTS},
    test,
};

/// Runs it; gives 1 where it failed.
pub(crate) fn run(seconds: u64) -> Result<u8> {
    let guest = GUESTS.iter().find(|guest| guest.runs(guests::SOAK));
    let guest = guest.context("no guest for the soak")?;
    // A process of its own, whose environment says how long.
    let mut test = Command::new(env::current_exe()?);
    test.args(["test", &format!("[{}]", guests::SOAK), "--on"])
        .arg(guest.title())
        .env(test::SOAK_SECONDS, seconds.to_string())
        .stdin(Stdio::null());
    Ok(u8::from(!test.status()?.success()))
}
