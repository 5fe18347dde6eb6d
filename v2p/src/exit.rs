//! Exit codes, and errors that know theirs.

use std::{
    fmt,
    io::{self, Write as _},
};

use crate::printable::printable;

/// The answer is yes: translated, landed, allowed.
pub const YES: u8 = 0;
/// The answer is no: not present, moved, strayed, denied.
pub const NO: u8 = 1;
/// Bad usage, or something failed.
pub const FAILED: u8 = 2;
/// This kernel or these privileges cannot do it.
pub const UNSUPPORTED: u8 = 3;

/// An error whose exit code is not 2, or that knows what to do next.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    what: String,
    hint: Option<String>,
}

impl Failure {
    /// The answer is no: exit code 1.
    pub fn no(what: impl Into<String>) -> Self {
        Self::new(NO, what)
    }

    /// Something failed, or was asked wrongly: exit code 2.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(FAILED, what)
    }

    /// This kernel or these privileges cannot do it: exit code 3.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(UNSUPPORTED, what)
    }

    fn new(code: u8, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            hint: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error: its own, or [`FAILED`].
pub fn code(error: &anyhow::Error) -> u8 {
    failure(error).map_or(FAILED, |f| f.code)
}

/// What a person reads of an error: `v2p: what: cause`, and a hint where there is one.
pub fn message(error: &anyhow::Error) -> String {
    match cause_and_hint(error) {
        (what, Some(hint)) => format!("v2p: {what}\nhint: {hint}"),
        (what, None) => format!("v2p: {what}"),
    }
}

/// An error in one line, and what to do about it where it knows.
pub fn cause_and_hint(error: &anyhow::Error) -> (String, Option<String>) {
    let what = format!("{error:#}").replace('\n', " ");
    let what = printable(&what).into_owned();
    (what, failure(error).and_then(|f| f.hint.clone()))
}

/// Answers what clap could not parse, or `--help` and `--version`, and gives the exit code. `command`: the subcommand, where one was named.
pub fn usage(error: &clap::Error, command: Option<&str>) -> u8 {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    // Nobody may be listening: what cannot be said is left unsaid.
    match error.kind() {
        DisplayHelp | DisplayVersion => match error.print().and_then(|()| io::stdout().flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                let _ = writeln!(io::stderr(), "v2p: stdout: {e}");
                FAILED
            }
            _ => YES,
        },
        DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            FAILED
        }
        _ => {
            let _ = writeln!(
                io::stderr(),
                "{}",
                usage_message(&error.to_string(), command)
            );
            FAILED
        }
    }
}

/// clap's first paragraph on one line, as every error of v2p. A value in it may have paragraphs of its own.
fn usage_message(rendered: &str, command: Option<&str>) -> String {
    let ends = ["\n\nUsage:", "\n\nFor more", "\n\n  tip:"];
    let end = ends.iter().filter_map(|end| rendered.find(end)).min();
    let paragraph = rendered.get(..end.unwrap_or(rendered.len()));
    let lines = paragraph.unwrap_or(rendered).lines().map(str::trim);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let what = lines.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let command = command.map_or_else(String::new, |command| format!("{command} "));
    format!("v2p: {what}\nhint: see v2p {command}--help")
}

/// Whether the error is only that nobody reads our output any more (`| head`).
pub fn is_closed_stdout(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn failure(error: &anyhow::Error) -> Option<&Failure> {
    error.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_error_without_a_code_of_its_own_is_a_failure() {
        let error = anyhow::anyhow!("cause").context("what");
        assert_eq!(code(&error), FAILED);
        assert_eq!(message(&error), "v2p: what: cause");
    }

    #[test]
    fn context_keeps_code_and_hint() {
        let error = Err::<(), _>(Failure::unsupported("no BTF").hint("use another kernel"))
            .context("demo")
            .unwrap_err();
        assert_eq!(code(&error), UNSUPPORTED);
        assert_eq!(
            message(&error),
            "v2p: demo: no BTF\nhint: use another kernel"
        );
    }

    #[test]
    fn a_usage_error_is_one_line_and_a_hint() {
        let rendered =
            "error: required arguments were not provided:\n  --pid <PID>\n\nUsage: v2p watch\n";
        assert_eq!(
            usage_message(rendered, Some("watch")),
            "v2p: required arguments were not provided: --pid <PID>\nhint: see v2p watch --help"
        );
    }

    #[test]
    fn a_value_of_several_paragraphs_does_not_hide_the_cause() {
        let rendered = "error: invalid value 'a\n\nb' for '--pid <PID>': not a number\n\nFor more information, try '--help'.\n";
        assert_eq!(
            usage_message(rendered, None),
            "v2p: invalid value 'a b' for '--pid <PID>': not a number\nhint: see v2p --help"
        );
    }

    #[test]
    fn a_closed_stdout_is_seen_through_its_context() {
        let error =
            anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("stdout");
        assert!(is_closed_stdout(&error));
    }
}
