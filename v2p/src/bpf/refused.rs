//! What the kernel says when it refuses a program or a map, as one line.

use std::io::Write as _;

use aya::programs::ProgramError;

use crate::{
    exit::Failure,
    kernel::{config::Config, lockdown::Lockdown},
};

/// An eBPF error as one line: the innermost cause, and what that usually means.
pub(super) fn unsupported(what: &str, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let chain: Vec<_> = std::iter::successors(Some(error), |e| e.source()).collect();
    let cause = chain.last().map(ToString::to_string).unwrap_or_default();
    let errno = chain
        .iter()
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .find_map(std::io::Error::raw_os_error);
    let log = chain.iter().find_map(|e| verifier_log(*e));
    if let (Some(log), true) = (&log, std::env::var_os("V2P_VERIFIER_LOG").is_some()) {
        // Asked for by name; nobody may be listening.
        let _ = writeln!(std::io::stderr(), "{log}");
    }
    let failure = Failure::unsupported(format!("{what}: {cause}"));
    let lockdown = Lockdown::read(Config::of_this_kernel().as_ref());
    if let Some(lockdown) = lockdown.filter(|l| l.mode == "confidentiality") {
        let hint = format!(
            "the kernel is locked down, eBPF may not read its memory: {}",
            lockdown.evidence
        );
        return failure.hint(hint).into();
    }
    let hint = match errno {
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
