//! Man pages and completions, made from the command line's own description: `cargo run --example packaging -- FOLDER`.
//!
//! `cargo xtask dist` packs them. In an example, since only packaging needs what makes them.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};
use v2p::cli::Cli;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("a folder to write to")?;
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // v2p.1, v2p-watch.1, ...; `help` needs no page.
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &folder).context("man pages")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "v2p", &folder).context("completions")?;
    }
    Ok(())
}
