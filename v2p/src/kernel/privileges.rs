//! What this process may do.

use anyhow::{Context as _, Result};

use crate::exit::Failure;

/// A capability, by its bit (include/uapi/linux/capability.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Capability {
    /// Opens /dev/mem.
    SysRawio = 17,
    /// Shows PFNs; loads tracing programs on kernels before 5.8.
    SysAdmin = 21,
    /// Tracing programs that read kernel memory; perf events of others.
    Perfmon = 38,
    /// Loads programs and maps.
    Bpf = 39,
}

impl Capability {
    /// The kernel's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SysRawio => "CAP_SYS_RAWIO",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
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
    /// Where /proc is not mounted.
    pub fn read() -> Result<Self> {
        let status = procfs::process::Process::myself()
            .and_then(|p| p.status())
            .context("/proc/self/status")?;
        Ok(Self {
            effective: status.capeff,
        })
    }

    /// Whether `capability` is effective.
    pub const fn has(self, capability: Capability) -> bool {
        self.effective >> capability as u32 & 1 != 0
    }

    /// What tracing and translating need, or exit code 3.
    ///
    /// # Errors
    /// Names the capability that is missing.
    pub fn require_tracing(self) -> Result<()> {
        for (capability, why) in [
            (
                Capability::SysAdmin,
                "the kernel hides page frame numbers without it",
            ),
            (Capability::Bpf, "eBPF programs cannot be loaded without it"),
            (
                Capability::Perfmon,
                "eBPF programs may not read kernel memory without it",
            ),
        ] {
            if !self.has(capability) {
                let what = format!("{} is missing: {why}", capability.name());
                return Err(Failure::unsupported(what)
                    .hint("run it as root: sudo v2p ...")
                    .into());
            }
        }
        Ok(())
    }
}
