//! `cargo xtask demo`: the whole story with one command.

use anyhow::Result;

use crate::lab;

/// Boots a guest and runs the demo in it; gives the demo's exit code.
pub(crate) fn run(options: &lab::Options, arguments: &[String]) -> Result<u8> {
    let command: Vec<_> = std::iter::once("demo".to_owned())
        .chain(arguments.iter().cloned())
        .collect();
    lab::run_v2p(options, &command)
}
