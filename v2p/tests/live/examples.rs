//! The examples of every help text, run as they stand: only `sudo` is left out, and process 1234 is one that there is.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use clap::CommandFactory as _;
use libtest_mimic::Trial;

use crate::{
    Again, Done,
    harness::{self, UNMOVED},
    top::Showing,
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_examples_of_every_help_text_run", all),
        trial("the_examples_that_are_read_by_jq_run", by_jq),
        trial("the_examples_of_the_live_view_run", of_top),
        trial("the_example_of_the_library_runs", of_the_library),
    ]
}

/// The lines of a help text's examples.
fn examples(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string);
    let lines = help.iter().flat_map(|help| help.lines());
    lines
        .filter_map(|line| line.trim().strip_prefix("sudo "))
        .map(str::to_owned)
        .collect()
}

/// Exit codes that an example may have: the answer of some depends on the machine.
fn expected(line: &str) -> &'static [i32] {
    match line.split_whitespace().nth(1) {
        // /dev/mem may be denied, and what is checked may not be known.
        Some("demo" | "doctor" | "write") => &[0, 1, 3],
        // Nobody need have that frame.
        Some("who") => &[0, 1],
        // Nor need there be anything at that address.
        Some("translate") if line.contains("--levels") => &[0, 1],
        _ => &[0],
    }
}

/// A process like most: linked dynamically, with the mappings that the examples name. These tests may be static.
struct Shell(Child);

impl Shell {
    fn start() -> Self {
        let mut sh = Command::new("sh");
        let child = sh.args(["-c", "read line"]).stdin(Stdio::piped()).spawn();
        let shell = Self(child.unwrap());
        let maps = format!("/proc/{}/maps", shell.0.id());
        let is_there = || {
            let maps = std::fs::read_to_string(&maps).unwrap();
            ["libc.so.6", "[heap]"]
                .iter()
                .all(|name| maps.contains(name))
        };
        while !is_there() {
            thread::sleep(Duration::from_millis(10));
        }
        shell
    }

    /// The example, of this process.
    fn named_in(&self, line: &str) -> String {
        line.replace("--pid 1234", &format!("--pid {}", self.0.id()))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // At the end of its input it ends.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

const VIEW: &str = "v2p top";
const READER: &str = "| jq";

fn all() -> Done {
    if !has("sh") || !has("timeout") {
        return Done::Skipped("there is no shell here".to_owned());
    }
    let lines = lines().into_iter();
    run_all(lines.filter(|line| !line.starts_with(VIEW) && !line.contains(READER)))
}

fn by_jq() -> Done {
    match has("sh") && has("timeout") && has("jq") {
        true => run_all(lines().into_iter().filter(|line| line.contains(READER))),
        false => Done::Skipped("there is no jq here".to_owned()),
    }
}

fn of_top() -> Done {
    if !has("sh") {
        return Done::Skipped("there is no shell here".to_owned());
    }
    let shell = Shell::start();
    for line in lines().iter().filter(|line| line.starts_with(VIEW)) {
        if let Err(reason) = top(&shell.named_in(line)) {
            return Done::Skipped(reason);
        }
    }
    Done::Passed
}

/// `cargo test` builds it beside these tests.
fn of_the_library() -> Done {
    let us = std::env::current_exe().unwrap();
    let program = us.ancestors().nth(2).unwrap().join("examples/translate");
    if !program.is_file() {
        return Done::Skipped("it was not built: `cargo test` does so, without --test".to_owned());
    }
    let output = Command::new(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{text}"
    );
    assert!(text.contains("in [heap] is Present"), "{text}");
    Done::Passed
}

/// All examples.
fn lines() -> Vec<String> {
    let cli = v2p::cli::Cli::command();
    let commands = cli.get_subcommands();
    let own = examples(&cli);
    assert!(own.len() >= 3, "v2p --help has no examples");
    let mut lines = own;
    for command in commands.filter(|command| command.get_name() != "help") {
        let some = examples(command);
        assert!(!some.is_empty(), "{}: no examples", command.get_name());
        lines.extend(some);
    }
    lines
}

fn run_all(lines: impl Iterator<Item = String>) -> Done {
    let folder = std::env::temp_dir().join(format!("v2p-examples-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("patch.bin"), "Hello").unwrap();
    let shell = Shell::start();
    let mut done = 0u32;
    for line in lines {
        run(&shell.named_in(&line), &line, &folder);
        done += 1;
    }
    assert!(done > 0);
    std::fs::remove_dir_all(&folder).unwrap();
    Done::Passed
}

fn run(real: &str, line: &str, folder: &std::path::Path) {
    // A watch without an end gets a Ctrl-C after some seconds, by which it has long begun.
    let program = harness::v2p();
    let program = program.get_program().to_str().unwrap().to_owned();
    let endless = line.starts_with("v2p watch --pid") && !line.contains("--for");
    let before = match endless {
        true => format!("timeout --preserve-status --signal=INT 4 {program}"),
        false => program,
    };
    let script = real.replacen("v2p", &before, 1);
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains(UNMOVED) {
        std::panic::panic_any(Again(errors.into_owned()));
    }
    let code = output.status.code().unwrap();
    assert!(
        expected(line).contains(&code),
        "{line}: exit code {code}: {errors}"
    );
    let is_quiet = line.contains('>') || line.contains("| jq");
    let says = match code {
        0 => &output.stdout,
        // A no may be an error's line.
        _ => &[output.stdout, output.stderr.clone()].concat(),
    };
    assert!(is_quiet || !says.is_empty(), "{line}: says nothing");
}

/// Else why not.
fn top(real: &str) -> Result<(), String> {
    let words = real.split_whitespace().skip(2);
    // As a shell does.
    let arguments: Vec<_> = words.map(|word| word.trim_matches('\'')).collect();
    let mut showing = Showing::start(&arguments)?;
    showing.wait_for(|shown| shown.contains("MAPPING"));
    showing.type_keys("q");
    showing.finish(0);
    Ok(())
}
