//! What the kernel says when it refuses a program or a map, as one line.

use std::io::Write as _;

use aya::programs::ProgramError;

use crate::{
    exit::Failure,
    kernel::{limits::Limits, lockdown::Lockdown},
};

/// As [`unsupported`], of maps: where a limit of ours was met, which, and what raises it.
pub(super) fn no_maps(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let what = "the eBPF maps could not be created";
    let met = errno(error).and_then(|errno| Limits::read().met(errno));
    match met.filter(|_| Lockdown::against_bpf().is_none()) {
        Some(met) => {
            let what = format!("{what}: {}; {}", cause(error), met.evidence);
            Failure::unsupported(what).hint(met.mend).into()
        }
        None => unsupported(what, error),
    }
}

pub(super) fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |e| e.source())
}

/// The innermost.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    chain(error)
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .find_map(std::io::Error::raw_os_error)
}

/// An eBPF error as one line: the innermost cause, and what that usually means.
pub(super) fn unsupported(what: &str, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let log = chain(error).find_map(verifier_log);
    if let (Some(log), true) = (&log, std::env::var_os("V2P_VERIFIER_LOG").is_some()) {
        // Asked for by name; nobody may be listening.
        let _ = writeln!(std::io::stderr(), "{log}");
    }
    let failure = Failure::unsupported(format!("{what}: {}", cause(error)));
    if let Some(hint) = Lockdown::against_bpf() {
        return failure.hint(hint).into();
    }
    let hint = match errno(error) {
        Some(libc::EACCES) if log.is_some() => {
            "the kernel's verifier refused the program: please report it with what V2P_VERIFIER_LOG=1 adds to the output"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "run it as root; in a container the host may forbid eBPF (seccomp)"
        }
        Some(libc::ENOENT) => {
            "this kernel has no such tracepoint (CONFIG_TRACEPOINTS, CONFIG_FTRACE)"
        }
        Some(libc::ENOSYS) => "this kernel has no eBPF (CONFIG_BPF_SYSCALL)",
        _ => return failure.into(),
    };
    failure.hint(hint).into()
}

/// What the verifier said of a program that it refused.
pub(super) fn verifier_log(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    match error.downcast_ref() {
        Some(ProgramError::LoadError { verifier_log, .. }) => {
            Some(verifier_log.to_string()).filter(|log| !log.is_empty())
        }
        _ => None,
    }
}
