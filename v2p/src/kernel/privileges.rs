//! What this process may do.

use anyhow::Result;

use crate::exit::Failure;

/// A capability, by its bit (include/uapi/linux/capability.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Capability {
    /// Opens /dev/mem.
    SysRawio = 17,
    /// Shows PFNs; and stands in for CAP_BPF and CAP_PERFMON (include/linux/capability.h, bpf_capable).
    SysAdmin = 21,
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
                Failure::unsupported(format!("/proc/self/status: {e}"))
                    .hint("mount -t proc proc /proc")
            })?;
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
    /// Where CAP_SYS_ADMIN is missing.
    pub fn require_tracing(self) -> Result<()> {
        if self.has(Capability::SysAdmin) {
            return Ok(());
        }
        let what = "CAP_SYS_ADMIN is missing: without it the kernel hides page frame numbers and loads no eBPF programs";
        Err(Failure::unsupported(what)
            .hint("run it as root: sudo v2p ...")
            .into())
    }
}
