//! The command line: what can be said, no I/O.

use std::{num::NonZeroU64, time::Duration};

use clap::{Args, ColorChoice, Parser, Subcommand};

use v2p_common::{Pfn, PhysAddr, VirtAddr};

use crate::{
    process::maps::{Asked, Range, USER_END},
    translate::Route,
};

/// Where in RAM is this address, is it still there, who moved it, and why can't I write to it?
#[derive(Parser, Debug)]
#[command(
    name = "v2p",
    bin_name = "v2p",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 yes (landed, translated) | 1 no (moved, strayed, denied) | 2 bad usage or a failure
| 3 this kernel or these privileges cannot do it"
)]
pub struct Cli {
    /// Print one JSON object a line; messages for people go to stderr
    #[arg(long, global = true)]
    pub json: bool,

    /// Colour the text
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
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
    /// Print faults and migrations of a process as they happen, with page frame numbers
    Watch(Watch),
    /// Print where the pages of a process are, by pagemap and by a walk of its page tables
    Translate(Translate),
    /// Print whose page a physical address is: every process that maps it
    Who(Who),
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
    #[arg(long, default_value = "Hello, Linux!")]
    pub text: String,

    /// Move the page on purpose between look-up and write
    #[arg(long)]
    pub inject_move: bool,
}

/// Arguments of `v2p watch`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo v2p watch --pid 1234
  sudo v2p watch --pid 1234 0x7f0000000000+2M --for 10 --faults
  sudo v2p watch --pid 1234 [heap] --json | jq 'select(.type == \"move\")'
  sudo v2p watch -- ls /")]
pub struct Watch {
    /// The process
    #[arg(long, value_name = "PID", required_unless_present = "command")]
    pub pid: Option<u32>,

    /// What to watch: ADDR, ADDR+LEN, ADDR..END (LEN takes K, M, G), or the name of a mapping; none: everything
    #[arg(value_name = "RANGE", value_parser = asked)]
    pub asked: Vec<Asked>,

    /// Stop after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,

    /// Print page faults too
    #[arg(long)]
    pub faults: bool,

    /// A program to start and to watch from its first instruction
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "pid")]
    pub command: Vec<String>,
}

/// Arguments of `v2p translate`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sudo v2p translate --pid 1234
  sudo v2p translate --pid self [stack]
  sudo v2p translate --pid 1234 0x7f0000000000+2M libc.so.6 --json
  sudo v2p translate --pid 1234 0x7f0000001234 --levels")]
pub struct Translate {
    /// The process: a number, or `self` for v2p itself
    #[arg(long, value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pid: u32,

    /// What to translate: ADDR, ADDR+LEN, ADDR..END, or the name of a mapping; none: everything
    #[arg(value_name = "RANGE", value_parser = asked)]
    pub asked: Vec<Asked>,

    /// Which way from an address to its frame
    #[arg(long, default_value = "auto")]
    pub route: Route,

    /// One line a page, not one a run
    #[arg(long)]
    pub each: bool,

    /// The walk of one address, level by level
    #[arg(long, conflicts_with = "each")]
    pub levels: bool,
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

/// Arguments of `v2p doctor`.
#[derive(Args, Debug)]
#[command(
    after_help = "Reading and writing are tried on a page of v2p's own. Of other addresses RAM is read, devices are
mapped without being touched, and nothing is written. Exit codes: 0 both are allowed | 1 one is denied
| 3 it cannot be told.

Examples:
  sudo v2p doctor
  sudo v2p doctor --pid 1234 --addr 0x7f0000001234
  sudo v2p doctor --pa 0xfed00000 --json"
)]
pub struct Doctor {
    /// The process whose page is asked about: a number, or `self` for v2p itself
    #[arg(long, value_name = "PID", value_parser = pid, requires = "addr")]
    pub pid: Option<u32>,

    /// The address in that process
    #[arg(long, value_name = "ADDR", value_parser = user_address, requires = "pid")]
    pub addr: Option<VirtAddr>,

    /// A physical address, or a frame as pfn:N, instead of a page of v2p's own
    #[arg(long, value_name = "PA|pfn:N", value_parser = frame, conflicts_with = "pid")]
    pub pa: Option<Pfn>,
}

const PAGE: u64 = v2p_common::PAGE_SIZE;

/// A physical address in hex with `0x`, or `pfn:N`.
fn frame(s: &str) -> Result<Pfn, String> {
    let bad = || format!("{s:?} is neither a physical address in hex with 0x, nor pfn:N");
    let pfn = match (s.strip_prefix("pfn:"), s.strip_prefix("0x")) {
        (Some(n), _) => Pfn(n.parse().map_err(|_| bad())?),
        (_, Some(digits)) => PhysAddr(u64::from_str_radix(digits, 16).map_err(|_| bad())?).pfn(),
        _ => return Err(bad()),
    };
    // x86-64 has at most 52 physical bits.
    if pfn.0 >> 40 != 0 {
        return Err(format!("{s:?} is beyond what x86-64 can address"));
    }
    Ok(pfn)
}

fn user_address(s: &str) -> Result<VirtAddr, String> {
    let va = address(s)?;
    match va < USER_END {
        true => Ok(VirtAddr(va)),
        false => Err("it is not in the user's half of the address space".into()),
    }
}

fn pid(s: &str) -> Result<u32, String> {
    match s {
        "self" => Ok(std::process::id()),
        _ => s
            .parse()
            .map_err(|_| "neither a number nor `self`".to_owned()),
    }
}

/// What starts as a number is a range, all else the name of a mapping.
fn asked(s: &str) -> Result<Asked, String> {
    let is_name = |s: &str| {
        s.starts_with(['[', '/'])
            || s.contains(|c: char| !"0123456789abcdefABCDEFxKMG+.".contains(c))
    };
    if s.is_empty() {
        return Err("it is empty".to_owned());
    }
    if !s.starts_with(|c: char| c.is_ascii_digit()) && is_name(s) {
        return Ok(Asked::Name(s.to_owned()));
    }
    pages(s).map(Asked::Range)
}

fn seconds(s: &str) -> Result<Duration, String> {
    let seconds: f64 = s
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// Reads `ADDR`, `ADDR+LEN` or `ADDR..ADDR`, and widens it to whole pages.
fn pages(s: &str) -> Result<Range, String> {
    const BEYOND: &str = "it goes beyond the last address";
    let (start, end) = if let Some((start, end)) = s.split_once("..") {
        (address(start)?, address(end)?)
    } else if let Some((start, len)) = s.split_once('+') {
        let start = address(start)?;
        (start, start.checked_add(length(len)?.get()).ok_or(BEYOND)?)
    } else {
        let start = address(s)?;
        (start, start.checked_add(1).ok_or(BEYOND)?)
    };
    if end <= start {
        return Err("it ends before it starts".into());
    }
    let end = end.checked_next_multiple_of(PAGE).ok_or(BEYOND)?;
    let start = start & !(PAGE - 1);
    Ok(Range { start, end })
}

fn address(s: &str) -> Result<u64, String> {
    // Without the prefix only what is as long as an address: `$(pidof ...)` gives several numbers too.
    let digits = match s.strip_prefix("0x") {
        _ if s.is_empty() => return Err("an address is missing".to_owned()),
        Some(digits) => digits,
        None if s.len() >= 8 => s,
        None => return Err(format!("{s:?} is not an address: write 0x{s} if it is one")),
    };
    u64::from_str_radix(digits, 16).map_err(|_| format!("{s:?} is not an address in hex"))
}

fn length(s: &str) -> Result<NonZeroU64, String> {
    let bad = || format!("{s:?} is not a length");
    let unit = s.chars().last().ok_or_else(bad)?;
    let (digits, shift) = match unit {
        'K' => (s.strip_suffix('K').unwrap_or(s), 10),
        'M' => (s.strip_suffix('M').unwrap_or(s), 20),
        'G' => (s.strip_suffix('G').unwrap_or(s), 30),
        _ => (s, 0),
    };
    let n = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    }
    .map_err(|_| bad())?;
    let bytes = n
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{s:?} is too long"))?;
    NonZeroU64::new(bytes).ok_or_else(|| "the length is 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges_are_read_in_their_three_forms() {
        let r = |start, end| Ok(Range { start, end });
        assert_eq!(
            pages("0x7f0000001234"),
            r(0x7f00_0000_1000, 0x7f00_0000_2000)
        );
        assert_eq!(
            pages("7f0000001000+8K"),
            r(0x7f00_0000_1000, 0x7f00_0000_3000)
        );
        assert_eq!(pages("0x1000..0x3000"), r(0x1000, 0x3000));
        assert_eq!(pages("0x1000+0x10"), r(0x1000, 0x2000));
    }

    #[test]
    fn frames_are_addresses_or_numbers() {
        assert_eq!(frame("0x11ac00123"), Ok(Pfn(0x11_ac00)));
        assert_eq!(frame("pfn:7"), Ok(Pfn(7)));
        for bad in [
            "",
            "7",
            "pfn:",
            "pfn:x",
            "pfn:-1",
            "0x",
            "0xg",
            "0xffffffffffffffff",
            "pfn:18446744073709551615",
        ] {
            assert!(frame(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_told_from_ranges() {
        let name = |s: &str| Ok(Asked::Name(s.to_owned()));
        for s in ["[heap]", "libc.so.6", "/usr/bin/a b", "my file (deleted)"] {
            assert_eq!(asked(s), name(s), "{s}");
        }
        assert!(matches!(asked("7f0012340000+4K"), Ok(Asked::Range(_))));
        assert!(matches!(asked("cafe00000"), Ok(Asked::Range(_))));
        assert!(asked("1240").is_err());
        assert!(asked("0x12zz").is_err());
        assert!(asked("").is_err());
    }

    #[test]
    fn ranges_that_mean_nothing_are_refused() {
        for bad in [
            "",
            "+",
            "x",
            "0x",
            "0x1000+",
            "0x1000+0",
            "0x1000+8KK",
            "1240",
            "0x2000..0x1000",
            "0x1000..",
            "..",
            "0xffffffffffffffff",
            "0xffffffffffff0000+1G",
            "0x1000+99999999999999999999",
            "0x1000+20000000000G",
        ] {
            assert!(pages(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn seconds_may_be_fractions_but_not_nonsense() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "x", "-1", "nan", "inf", "1e30"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
    }
}
