//! What this process may do.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::exit::Failure;

/// What to do where /proc does not tell.
pub const MOUNT_PROC: &str = "mount -t proc proc /proc";

/// A capability, by its bit (include/uapi/linux/capability.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Capability {
    /// Opens files whatever their mode.
    DacOverride = 1,
    /// Opens /dev/mem.
    SysRawio = 17,
    /// Looks into other users' processes.
    SysPtrace = 19,
    /// Shows PFNs; and stands in for CAP_BPF and CAP_PERFMON (include/linux/capability.h, bpf_capable).
    SysAdmin = 21,
    /// Traces.
    Perfmon = 38,
    /// Loads eBPF programs.
    Bpf = 39,
}

/// The effective capabilities of this process.
#[derive(Clone, Copy, Debug)]
pub struct Privileges {
    effective: u64,
}

impl Privileges {
    /// Reads them from /proc/self/status.
    ///
    /// # Errors
    /// Exit code 3 where /proc is not mounted.
    pub fn read() -> Result<Self> {
        let status = procfs::process::Process::myself()
            .and_then(|p| p.status())
            .map_err(|e| {
                Failure::unsupported(format!("/proc/self/status: {e}")).hint(MOUNT_PROC)
            })?;
        Ok(Self {
            effective: status.capeff,
        })
    }

    /// Those of the bits in `effective`.
    pub const fn new(effective: u64) -> Self {
        Self { effective }
    }

    /// Whether `capability` is effective.
    pub const fn has(self, capability: Capability) -> bool {
        self.effective >> capability as u32 & 1 != 0
    }

    /// The line that shows them.
    pub fn evidence(self) -> String {
        format!("CapEff: {:016x} (/proc/self/status)", self.effective)
    }
}

/// What looking at processes and tracing them takes, and no more: neither /dev/mem nor a module of the kernel can be opened
/// by mistake.
const LOOKING: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    // Pagemap and maps of a process of others; files of /proc and of BTF.
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    // Limits of open files and, before 5.11, of locked memory.
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::IPC_LOCK);

/// Gives up every capability that looking does not take. To be called before any thread is started. A command that we start gets what its user
/// has by its exec, where that is root; else it must be told by `ours_alone: false`, and what we give up could be taken again.
///
/// # Errors
/// Where the kernel does not let us.
pub fn keep_to_looking(ours_alone: bool) -> Result<()> {
    keep_to(LOOKING, ours_alone)
}

/// The same for who writes through /dev/mem, too.
///
/// # Errors
/// As [`keep_to_looking`].
pub fn keep_to_writing() -> Result<()> {
    keep_to(LOOKING.union(CapabilitySet::SYS_RAWIO), true)
}

fn keep_to(kept: CapabilitySet, ours_alone: bool) -> Result<()> {
    let mut sets = capabilities(None).context("capget")?;
    // Without CAP_SYS_PTRACE the kernel lets us look only at what has no capability that we lack (cap_ptrace_access_check,
    // security/commoncap.c, 6.1 to 7.3).
    if !sets.effective.contains(CapabilitySet::SYS_PTRACE) {
        return Ok(());
    }
    sets.effective &= kept;
    if ours_alone {
        sets.permitted &= kept;
    }
    set_capabilities(None, sets).context("capset")
}

/// A namespace of this process, and whether it is the one that the system booted with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// As the link says, for instance `user:[4026531837]`.
    pub link: String,
    /// The initial one's.
    pub initial: String,
}

impl Namespace {
    /// The user namespace: outside the initial one capabilities count for nothing that is the system's
    /// (PROC_USER_INIT_INO, include/linux/proc_ns.h, 6.1 to 7.3).
    pub fn user() -> Option<Self> {
        Self::read("user", 0xeffffffd)
    }

    /// The PID namespace (PROC_PID_INIT_INO).
    pub fn pid() -> Option<Self> {
        Self::read("pid", 0xeffffffc)
    }

    fn read(kind: &str, initial: u32) -> Option<Self> {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
        Some(Self {
            link: link.to_string_lossy().into_owned(),
            initial: format!("{kind}:[{initial}]"),
        })
    }

    /// Whether it is the initial one.
    pub fn is_initial(&self) -> bool {
        self.link == self.initial
    }

    /// The link and what it would be.
    pub fn evidence(&self) -> String {
        let Self { link, initial } = self;
        format!("{link}, the system's own is {initial} (/proc/self/ns)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_its_bit() {
        // Of root on a machine that takes CAP_SYS_RESOURCE away.
        let root = Privileges::new(0x1ff_feff_ffff);
        assert!(root.has(Capability::SysRawio) && root.has(Capability::Bpf));
        assert!(!Privileges::new(0x1ff_fefd_ffff).has(Capability::SysRawio));
        assert_eq!(
            root.evidence(),
            "CapEff: 000001fffeffffff (/proc/self/status)"
        );
    }
}
