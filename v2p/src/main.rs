//! Parse, dispatch, print the error, exit.

use std::process::ExitCode;

use v2p::{
    cli::{self, Command},
    commands, exit,
    kernel::limits,
    render::Output,
};

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(e) => {
            let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
            return ExitCode::from(exit::usage(&e, cli::meant(words).as_deref()));
        }
    };
    let mut output = Output::new(cli.json, cli.color);
    limits::have_file_size_told();
    let done = runtime().and_then(|runtime| {
        runtime.block_on(async {
            match &cli.command {
                Command::Demo(args) => commands::demo::run(args, &mut output).await,
                Command::Watch(args) => commands::watch::run(args, &mut output).await,
                Command::Top(args) => commands::top::run(args, &mut output).await,
                Command::Translate(args) => commands::translate::run(args, &mut output),
                Command::Map(args) => commands::map::run(args, &mut output),
                Command::Who(args) => commands::who::run(args, &mut output),
                Command::Write(args) => commands::write::run(args, &mut output).await,
                Command::Doctor(args) => commands::doctor::run(args, &mut output),
            }
        })
    });
    // What was said before an error stands before it.
    let flushed = output.flush();
    let done = done.and_then(|code| match flushed {
        // The answer stands, though nobody reads it.
        Err(e) if !exit::is_closed_stdout(&e) => Err(e),
        _ => Ok(code),
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) if exit::is_closed_stdout(&e) => ExitCode::from(exit::YES),
        Err(e) => {
            output.say(&exit::message(&e));
            ExitCode::from(exit::code(&e))
        }
    }
}

/// One thread: requests to the carrier are tied to it, and the ring needs no more.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    limits::require_descriptors()?;
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
