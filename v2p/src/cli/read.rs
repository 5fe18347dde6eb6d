//! What words on the command line mean: pure.

use std::{
    num::{IntErrorKind, NonZeroU64, ParseIntError},
    time::Duration,
};

use clap::builder::{OsStringValueParser, TypedValueParser};
use v2p_common::{Pfn, PhysAddr, VirtAddr};

use super::Bytes;
use crate::process::{
    maps::{Range, USER_END},
    select::Asked,
};

const PAGE: u64 = v2p_common::PAGE_SIZE;
/// Digits from which on a number is an address without `0x` before it.
const BARE_ADDRESS: usize = 8;

/// A physical address in hex with `0x`, or `pfn:N`.
pub(crate) fn frame(s: &str) -> Result<Pfn, String> {
    let bad = || format!("{s:?} is neither a physical address in hex with 0x, nor pfn:N");
    let pfn = match (s.strip_prefix("pfn:"), s.strip_prefix("0x")) {
        (Some(n), _) => Pfn(digits(n, 10).ok_or_else(bad)?),
        (_, Some(hex)) => PhysAddr(digits(hex, 16).ok_or_else(bad)?).pfn(),
        _ => return Err(bad()),
    };
    if !pfn.is_possible() {
        return Err(format!("{s:?} is beyond what x86-64 can address"));
    }
    Ok(pfn)
}

pub(crate) fn user_address(s: &str) -> Result<VirtAddr, String> {
    let va = address(s)?;
    match va < USER_END {
        true => Ok(VirtAddr(va)),
        false => Err("it is not in the user's half of the address space".into()),
    }
}

/// Two hex digits a byte, with or without `0x`.
pub(super) fn bytes_in_hex(s: &str) -> Result<Bytes, String> {
    let digits = s.strip_prefix("0x").unwrap_or(s).as_bytes();
    if let Some(other) = s
        .strip_prefix("0x")
        .unwrap_or(s)
        .chars()
        .find(|c| !c.is_ascii_hexdigit())
    {
        return Err(format!("{other:?} is no hex digit"));
    }
    if !digits.len().is_multiple_of(2) {
        let n = digits.len();
        return Err(format!("{n} digits are an odd number: a byte has two"));
    }
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks_exact(2).map(byte).collect();
    bytes.map(Bytes).ok_or_else(|| "not hex".to_owned())
}

pub(super) fn pid(s: &str) -> Result<u32, String> {
    match s {
        "self" => Ok(std::process::id()),
        _ => number(s, "neither a number nor `self`"),
    }
}

/// A process that is not v2p itself: where it watched itself, it would see what its watching does.
pub(super) fn other(s: &str) -> Result<u32, String> {
    number(s, "not the number of a process")
}

fn number(s: &str, otherwise: &str) -> Result<u32, String> {
    s.parse().map_err(|e: ParseIntError| match e.kind() {
        IntErrorKind::PosOverflow => "no process has so large a number".to_owned(),
        _ => otherwise.to_owned(),
    })
}

/// As [`asked`], of any bytes: a name has U+FFFD for what is no UTF-8, as those of /proc/PID/maps have
/// (`maps::parse`).
pub(crate) fn any_asked() -> impl TypedValueParser<Value = Asked> {
    OsStringValueParser::new().try_map(|text| asked(&text.to_string_lossy()))
}

/// What starts with `0x` is a range, and what has anything in it that a range cannot have the name of a mapping. So is a short word of hex
/// digits with a letter among them (`dd`, `bc`): an address without `0x` is longer. All else may be either: the mappings tell.
pub(crate) fn asked(s: &str) -> Result<Asked, String> {
    // A range has two dots or none.
    let is_name = |s: &str| {
        s.contains(|c: char| !"0123456789abcdefABCDEFxKMG+.".contains(c))
            || s.replacen("..", "", 1).contains('.')
    };
    let is_word = |s: &str| {
        s.len() < BARE_ADDRESS
            && s.chars().all(|c| c.is_ascii_hexdigit())
            && s.contains(|c: char| c.is_ascii_alphabetic())
    };
    if s.is_empty() {
        Err("it is empty".to_owned())
    } else if s.starts_with("0x") {
        pages(s).map(Asked::Range)
    } else if is_name(s) || is_word(s) {
        Ok(Asked::Name(s.to_owned()))
    } else {
        Ok(Asked::Either(s.to_owned(), pages(s)))
    }
}

pub(crate) fn seconds(s: &str) -> Result<Duration, String> {
    let seconds: f64 = s.parse().unwrap_or(f64::NAN);
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let what = match seconds {
            ..0.0 => "it is negative",
            0.0.. => "so long is no watch",
            _ => "not a number of seconds",
        };
        what.to_owned()
    })
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
    if end == start {
        return Err("its end is its start: no address is in it".into());
    }
    if end < start {
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
        None if s.len() >= BARE_ADDRESS => s,
        None if digits(s, 16).is_some() => {
            return Err(format!("{s:?} is not an address: write 0x{s} if it is one"));
        }
        None => return Err(format!("{s:?} is not an address")),
    };
    self::digits(digits, 16).ok_or_else(|| format!("{s:?} is not an address in hex"))
}

/// A number of digits alone: what Rust reads may have a plus before it, which is a range's.
fn digits(s: &str, radix: u32) -> Option<u64> {
    let all = s.chars().all(|c| c.is_digit(radix));
    u64::from_str_radix(s, radix).ok().filter(|_| all)
}

fn length(s: &str) -> Result<NonZeroU64, String> {
    let bad =
        || format!("{s:?} is not a length: a number of bytes, or one with K, M or G after it");
    let unit = s.chars().last().ok_or_else(bad)?;
    let (digits, shift) = match unit {
        'K' => (s.strip_suffix('K').unwrap_or(s), 10),
        'M' => (s.strip_suffix('M').unwrap_or(s), 20),
        'G' => (s.strip_suffix('G').unwrap_or(s), 30),
        _ => (s, 0),
    };
    let n = match digits.strip_prefix("0x") {
        Some(hex) => self::digits(hex, 16),
        None => self::digits(digits, 10),
    }
    .ok_or_else(bad)?;
    let bytes = n
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{s:?} is too long"))?;
    NonZeroU64::new(bytes).ok_or_else(|| "the length is 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "pfn:+1",
            "0x+1",
            "0x",
            "0xg",
            "0xffffffffffffffff",
            "pfn:18446744073709551615",
        ] {
            assert!(frame(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hex_has_two_digits_a_byte_and_nothing_else() {
        assert_eq!(bytes_in_hex("0a0B"), Ok(Bytes(vec![10, 11])));
        assert_eq!(bytes_in_hex("0x00ff"), Ok(Bytes(vec![0, 255])));
        assert_eq!(bytes_in_hex(""), Ok(Bytes(Vec::new())));
        for bad in [
            "0",
            "abc",
            "0x0",
            "zz",
            "+1",
            "0 ",
            "\u{e4}\u{e4}",
            "0x0x00",
        ] {
            assert!(bytes_in_hex(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_told_from_ranges() {
        let name = |s: &str| Ok(Asked::Name(s.to_owned()));
        for s in [
            "[heap]",
            "libc.so.6",
            "/usr/bin/a b",
            "my file (deleted)",
            "7z.so",
            "dead.beef",
            "1240-5000",
            "dd",
            "cafe",
        ] {
            assert_eq!(asked(s), name(s), "{s}");
        }
        let either = |s: &str| match asked(s) {
            Ok(Asked::Either(name, range)) if name == s => range,
            other => panic!("{s}: {other:?}"),
        };
        assert!(either("7f0012340000+4K").is_ok());
        assert!(either("cafe00000").is_ok());
        for s in [
            "1240",
            "xxd",
            "MAKE",
            "a+b",
            "..",
            &"0123456789abcdef".repeat(4),
        ] {
            assert!(either(s).is_err(), "{s}");
        }
        let why = either("1240").unwrap_err();
        assert!(why.ends_with("write 0x1240 if it is one"), "{why}");
        assert!(!either("xxd").unwrap_err().contains("0xxxd"));
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
            "0x1000++8K",
            "0x+1000",
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
