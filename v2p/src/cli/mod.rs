//! The command line: what can be said, no I/O.

mod read;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    ArgGroup, Args, ColorChoice, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    ValueEnum,
};

use v2p_common::{Pfn, VirtAddr};

#[cfg(test)]
pub(crate) use read::asked;
use read::{any_asked, bytes_in_hex, other, pid};
pub(crate) use read::{frame, seconds, user_address};

use crate::{process::select::Asked, translate::Route};

/// What every command takes.
const FOR_ALL: &str = "Options of every command";

/// Where in RAM is this address, is it still there, who moved it, and why can't I write to it?
#[derive(Parser, Debug)]
#[command(
    name = "v2p",
    bin_name = "v2p",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
#[command(after_help = "Examples:
  sudo v2p translate --pid self '[stack]'
  sudo v2p watch -- ls /
  sudo v2p doctor

Exit codes:
  0  yes: landed, translated, allowed
  1  no: moved, strayed, denied
  2  bad usage, or something failed
  3  this kernel or these privileges cannot do it")]
pub struct Cli {
    /// Print one JSON object a line; messages for people go to stderr
    #[arg(long, global = true, help_heading = FOR_ALL)]
    pub json: bool,

    /// Colour the text
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = FOR_ALL)]
    pub color: ColorChoice,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Find a page of our own in RAM by three routes, rewrite it through /dev/mem, and prove it
    Demo(Demo),
    /// Print what becomes of every page of a process as it happens: from which frame to which, why, by whom
    Watch(Watch),
    /// Show faults and moves of a process live: rates, mappings, the latest moves
    Top(Top),
    /// Print where the pages of a process are, by pagemap and by a walk of its page tables
    Translate(Translate),
    /// Draw where in physical memory the pages of a process are, or what moved since an earlier moment
    Map(Map),
    /// Print whose page a physical address is: every process that maps it
    Who(Who),
    /// Write to the page behind an address of a process through /dev/mem, under guard, and prove where it went
    Write(Write),
    /// Print which check denies /dev/mem or a trace, with the evidence, and what to do
    Doctor(Doctor),
}

/// Arguments of `v2p demo`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo v2p demo
  sudo v2p demo --text 'Hello, Tux!!!' --json
  sudo v2p demo --inject-move    # the page moves before the write: never `landed`")]
pub struct Demo {
    /// What to write over `Hello, World!`: 1 to 13 bytes
    #[arg(long, default_value = "Hello, Linux!", allow_hyphen_values = true)]
    pub text: String,

    /// Move the page on purpose between look-up and write
    #[arg(long)]
    pub inject_move: bool,
}

/// Arguments of `v2p watch`.
#[derive(Args, Clone, Debug)]
#[command(
    override_usage = "v2p watch [OPTIONS] --pid <PID> [RANGE]...\n       v2p watch [OPTIONS] [RANGE]... -- <COMMAND> [ARG]..."
)]
#[command(group(ArgGroup::new("whose").required(true).args(["pid", "command"])))]
#[command(after_help = "Examples:
  sudo v2p watch --pid 1234
  sudo v2p watch --pid 1234 0x7f0000000000+2M --for 10 --faults
  sudo v2p watch --pid 1234 '[heap]' --json | jq 'select(.type == \"move\")'
  sudo v2p watch --pid 1234 --for 5 --output trace.perfetto-trace
  sudo v2p watch -- ls /
  sudo v2p watch --follow -- sh -c 'ls / | wc'")]
pub struct Watch {
    /// The process
    #[arg(long, value_name = "PID", value_parser = other, allow_negative_numbers = true)]
    pub pid: Option<u32>,

    /// What to watch: ADDR, ADDR+LEN, ADDR..END (LEN takes K, M, G), or the name of a mapping, as it is when the watch begins; none:
    /// everything
    #[arg(value_name = "RANGE", value_parser = any_asked())]
    pub asked: Vec<Asked>,

    /// Stop after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub duration: Option<Duration>,

    /// Print page faults too
    #[arg(long)]
    pub faults: bool,

    /// Watch its children too, and theirs, each from its fork on
    #[arg(long)]
    pub follow: bool,

    /// Write moves and faults to this file too, as a trace for Perfetto: a .perfetto-trace
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// A program to start and to watch from its first instruction; with --json its own output goes to stderr
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Arguments of `v2p top`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo v2p top --pid 1234
  sudo v2p top --pid 1234 '[heap]' --for 60")]
pub struct Top {
    /// The process
    #[arg(long, value_name = "PID", value_parser = other, allow_negative_numbers = true)]
    pub pid: u32,

    /// What to watch: ADDR, ADDR+LEN, ADDR..END, or the name of a mapping; none: everything
    #[arg(value_name = "RANGE", value_parser = any_asked())]
    pub asked: Vec<Asked>,

    /// Stop after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub duration: Option<Duration>,
}

/// Arguments of `v2p translate`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo v2p translate --pid 1234
  sudo v2p translate --pid self '[stack]'
  sudo v2p translate --pid 1234 0x7f0000000000+2M libc.so.6 --json
  sudo v2p translate --pid 1234 0x7f0000001234 --levels")]
pub struct Translate {
    /// The process: a number, or `self` for v2p itself
    #[arg(long, value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pid: u32,

    /// What to translate: ADDR, ADDR+LEN, ADDR..END, or the name of a mapping; none: everything
    #[arg(value_name = "RANGE", value_parser = any_asked())]
    pub asked: Vec<Asked>,

    /// Which way from an address to its frame
    #[arg(long, default_value = "auto")]
    pub route: Route,

    /// One line a page, not one a run; stretches where nothing is, which are not read, stay together
    #[arg(long)]
    pub each: bool,

    /// The walk of one address, level by level
    #[arg(long, conflicts_with = "each")]
    pub levels: bool,
}

/// Arguments of `v2p map`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo v2p map --pid 1234 -o map.svg
  sudo v2p map --pid 1234 '[heap]' -o heap.png
  sudo v2p translate --pid 1234 --json > old.jsonl
  sudo v2p map --pid 1234 --diff old.jsonl -o moved.svg    # what moved in between")]
pub struct Map {
    /// The process: a number, or `self` for v2p itself
    #[arg(long, value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pid: u32,

    /// What to draw: ADDR, ADDR+LEN, ADDR..END, or the name of a mapping; none: everything
    #[arg(value_name = "RANGE", value_parser = any_asked())]
    pub asked: Vec<Asked>,

    /// The picture: an .svg or a .png, of 2 MB at most; written whole or not at all
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Draw what became of each page since this output of `v2p translate --json`
    #[arg(long, value_name = "OLD.jsonl")]
    pub diff: Option<PathBuf>,

    /// Which way from an address to its frame
    #[arg(long, default_value = "auto")]
    pub route: Route,
}

/// Arguments of `v2p who`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo v2p who 0x11ac00000
  sudo v2p who pfn:1158144 pfn:1158145 --json")]
pub struct Who {
    /// Physical addresses, or frames as pfn:N
    #[arg(value_name = "PA|pfn:N", required = true, value_parser = frame)]
    pub frames: Vec<Pfn>,
}

/// Arguments of `v2p write`.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("bytes").required(true).args(["text", "hex", "file"])),
    after_help = "Verdicts:
  landed                   it is where it should be, proven
  moved, refused, denied   nothing was written; of several pages, none from the one it names on
  strayed                  it went to a page that is no longer the process's
  unproven                 cannot tell: events were lost, or the page went at that moment
  allowed                  it would be written: of a dry run
Only `landed` and `allowed` exit 0. One write takes 1 MiB at most.

Examples:
  sudo v2p write --pid 1234 0x7f0000001234 --text 'Hello, Linux!'
  sudo v2p write --pid 1234 0x7f0000001234 --hex 90909090 --stop --json
  sudo v2p write --pid 1234 0x7f0000001234 --file patch.bin --dry-run"
)]
pub struct Write {
    /// The process: a number, or `self` for v2p itself
    #[arg(long, value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pid: u32,

    /// The first byte's address in that process
    #[arg(value_name = "ADDR", value_parser = user_address)]
    pub va: VirtAddr,

    /// Write this text, without a newline or a NUL after it
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    pub text: Option<String>,

    /// Write these bytes: two hex digits each
    #[arg(long, value_name = "H", value_parser = bytes_in_hex)]
    pub hex: Option<Bytes>,

    /// Write what this file holds
    #[arg(long, value_name = "F")]
    pub file: Option<PathBuf>,

    /// Do all of it but the write
    #[arg(long)]
    pub dry_run: bool,

    /// Hold the process still meanwhile: the kernel may still move its pages
    #[arg(long)]
    pub stop: bool,

    /// Also write where the process itself may not
    #[arg(long)]
    pub force_readonly: bool,

    /// Move the page on purpose at this step
    #[arg(long, value_name = "STEP", hide = true)]
    pub inject_move: Option<InjectAt>,
}

/// A step of the write to disturb.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum InjectAt {
    /// Before the last look-up.
    LookUp,
    /// Between it and the write.
    Write,
    /// After the write.
    Prove,
}

/// Bytes that were given in hex.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bytes(pub Vec<u8>);

/// Arguments of `v2p doctor`.
#[derive(Args, Debug)]
#[command(
    after_help = "Reading and writing are tried on a page of v2p's own. Of other addresses,
RAM is read, devices are mapped without a touch, and nothing is written.

Exit codes:
  0  reading and writing are allowed
  1  one of them is denied, or nothing lies at the address
  3  it cannot be told

Examples:
  sudo v2p doctor
  sudo v2p doctor --pid 1234 --addr 0x7f0000001234
  sudo v2p doctor --pa 0xfed00000 --json"
)]
pub struct Doctor {
    /// The process whose page is asked about: a number, or `self` for v2p itself
    #[arg(long, value_name = "PID", value_parser = pid, allow_negative_numbers = true, requires = "addr")]
    pub pid: Option<u32>,

    /// The address in that process
    #[arg(long, value_name = "ADDR", value_parser = user_address, requires = "pid")]
    pub addr: Option<VirtAddr>,

    /// A physical address, or a frame as pfn:N, instead of a page of v2p's own
    #[arg(long, value_name = "PA|pfn:N", value_parser = frame, conflicts_with = "pid")]
    pub pa: Option<Pfn>,
}

/// Reads the words of this program's command line.
///
/// # Errors
/// What clap says of them; also where they ask for help.
pub fn parse() -> Result<Cli, clap::Error> {
    let words = std::env::args_os().filter_map(|word| word.into_string().ok());
    let command = Cli::command().color(colour(words));
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// The colour that the words ask for, as far as can be said before they are read: helps and errors are coloured too.
fn colour(words: impl IntoIterator<Item = String>) -> ColorChoice {
    let mut words = words.into_iter().take_while(|word| word != "--");
    let mut said = None;
    while let Some(word) = words.next() {
        if word == "--color" {
            said = words.next();
        } else if let Some(when) = word.strip_prefix("--color=") {
            said = Some(when.to_owned());
        }
    }
    let choice = said.and_then(|when| <ColorChoice as ValueEnum>::from_str(&when, false).ok());
    choice.unwrap_or(ColorChoice::Auto)
}

/// The subcommand that was meant, where one is named.
pub fn meant(words: impl IntoIterator<Item = String>) -> Option<String> {
    let known = Cli::command();
    let mut words = words.into_iter().skip(1);
    words.find(|word| known.find_subcommand(word).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subcommand_is_found_among_options() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            meant(words("v2p --json watch --pid x")).as_deref(),
            Some("watch")
        );
        assert_eq!(meant(words("v2p --json nothing")), None);
    }

    #[test]
    fn colour_is_known_before_the_words_are_read() {
        let of = |text: &str| colour(text.split(' ').map(str::to_owned));
        assert_eq!(of("v2p --color never --help"), ColorChoice::Never);
        assert_eq!(of("v2p watch --color=always -h"), ColorChoice::Always);
        assert_eq!(of("v2p watch -- ls --color=never"), ColorChoice::Auto);
        assert_eq!(of("v2p --color"), ColorChoice::Auto);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
