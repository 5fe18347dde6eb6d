//! Why a call on /dev/mem failed: by the same checks that `v2p doctor` goes through.

use std::io;

use v2p_common::PhysAddr;

use super::{
    cause::by_elimination,
    check::{Access, Check, Errno, Id},
    facts::{DirectMapped, Facts, Target},
    predict::{Explained, Outcome, explains},
};
use crate::record::Denial;

/// Why open(2) of /dev/mem failed with `error`.
pub fn open(error: &io::Error) -> Denial {
    open_with(&Facts::gather(), error)
}

fn open_with(facts: &Facts, error: &io::Error) -> Denial {
    let errno = Errno::of(error);
    let found = super::open::checks(facts);
    let call = format!("open(/dev/mem): {error}");
    denial(&found, Access::Write, &Outcome::NotOpened(errno), &call)
}

/// What to do about a denial by what v2p has no check for.
pub(super) const NOT_OURS: &str = "look at `dmesg` and the audit log; run it as root on the host";

/// Every check that is known lets it through: what is left sits outside them.
pub fn unexplained(call: &str) -> Check {
    let what = "no check that v2p knows denies it: a security module or a device cgroup may";
    Check::denies(Id::Container, what, call).mend(NOT_OURS)
}

/// Why pread(2) or pwrite(2) of RAM at `pa` failed with `error`, after open(2) had worked; `None`: no
/// check of the kernel denies with that error.
pub fn access(call: &str, pa: PhysAddr, error: &io::Error) -> Option<Denial> {
    access_with(&Facts::gather(), call, pa, error)
}

fn access_with(facts: &Facts, call: &str, pa: PhysAddr, error: &io::Error) -> Option<Denial> {
    let errno = Errno::of(error)?;
    let target = Target {
        pa: Some(pa),
        is_hidden: false,
        is_page: true,
        is_own: false,
        mapping: None,
        // EFAULT for a page of memory has no other cause (read_mem, drivers/char/mem.c).
        direct_mapped: (errno.0 == libc::EFAULT).then_some(DirectMapped::No),
        own_page_was_read: false,
    };
    let access = match call {
        "pwrite" => Access::Write,
        _ => Access::Read,
    };
    // open(2) has worked: its checks are past.
    let found = super::address::checks(facts, &target);
    let call = format!("{call}(/dev/mem) at {:#x}: {error}", pa.0);
    let outcome = Outcome::Failed(Some(errno));
    match explains(&found, access, &outcome) {
        Explained::Perhaps(perhaps) if perhaps.is_empty() && errno.0 != libc::EPERM => None,
        _ => Some(denial(&found, access, &outcome, &call)),
    }
}

/// The check's that makes the outcome, with the call that met it.
fn denial(checks: &[Check], access: Access, outcome: &Outcome, call: &str) -> Denial {
    let errno = match outcome {
        Outcome::NotOpened(errno) | Outcome::Failed(errno) => *errno,
        _ => None,
    };
    let check = by_elimination(checks, access, outcome, call);
    let evidence = match check.id {
        Id::NotDirectMapped => call.to_owned(),
        _ if check.evidence.contains(call) => check.evidence.clone(),
        _ => format!("{}; {call}", check.evidence),
    };
    Denial {
        evidence,
        ..Denial::of(&check, errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{opened, root};

    fn error(n: i32) -> io::Error {
        io::Error::from_raw_os_error(n)
    }

    #[test]
    fn a_refused_read_of_ram_is_strict_devmem() {
        let pa = PhysAddr(0x1000_0000);
        let denial = access_with(&root(), "pread", pa, &error(libc::EPERM)).unwrap();
        assert_eq!(
            (denial.check, denial.errno),
            ("strict-devmem", Some("EPERM"))
        );
        assert!(denial.evidence.contains("0x10000000"));
        assert!(denial.evidence.contains("CONFIG_STRICT_DEVMEM=y"));
    }

    #[test]
    fn a_page_out_of_the_direct_map_is_told_from_a_refusal() {
        let pa = PhysAddr(0x1000_0000);
        let denial = access_with(&opened(), "pread", pa, &error(libc::EFAULT)).unwrap();
        assert_eq!(denial.check, "not-direct-mapped");
    }

    #[test]
    fn an_error_that_no_check_makes_is_not_called_a_denial() {
        let pa = PhysAddr(0x1000);
        let short = io::Error::new(io::ErrorKind::WriteZero, "only 3 of 13 bytes were written");
        assert_eq!(access_with(&root(), "pwrite", pa, &short), None);
        let eio = error(libc::EIO);
        assert_eq!(access_with(&root(), "pwrite", pa, &eio), None);
    }

    #[test]
    fn an_open_that_nothing_explains_is_not_blamed_on_a_check_that_passed() {
        let denial = open_with(&root(), &error(libc::EACCES));
        assert_eq!((denial.check, denial.errno), ("container", Some("EACCES")));
        assert!(denial.what.starts_with("no check that v2p knows"));
    }
}
