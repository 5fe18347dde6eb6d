//! BTF and /proc -> the [`KernelLayout`] that the programs need.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::Result;
use v2p_common::layout::KernelLayout;

use super::btf::Btf;
use crate::exit::Failure;

/// Where the kernel shows its types.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Looks everything up.
///
/// # Errors
/// Exit code 3 where the kernel has no BTF.
pub fn learn() -> Result<KernelLayout> {
    let blob = fs::read(BTF_PATH).map_err(|e| {
        Failure::unsupported(format!("{BTF_PATH}: {e}")).hint(
            "v2p needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (every current distribution has it), and /sys mounted",
        )
    })?;
    let unusable = |e: anyhow::Error| Failure::unsupported(format!("{BTF_PATH}: {e:#}"));
    let btf = Btf::parse(&blob).map_err(unusable)?;
    let ns = fs::metadata("/proc/self/ns/pid")
        .map_err(|e| Failure::unsupported(format!("/proc/self/ns/pid: {e}")).hint("mount /proc"))?;
    let offset = |structure, member| btf.member_offset(structure, member).map_err(unusable);
    Ok(KernelLayout {
        mm_pgd: offset("mm_struct", "pgd")?,
        task_mm: offset("task_struct", "mm")?,
        task_min_flt: offset("task_struct", "min_flt")?,
        task_maj_flt: offset("task_struct", "maj_flt")?,
        pid_ns_dev: kernel_dev(ns.dev()),
        pid_ns_ino: ns.ino(),
    })
}

/// A device number as the kernel holds it (include/linux/kdev_t.h, MKDEV), which is what
/// bpf_get_ns_current_pid_tgid compares; stat reports another encoding of it.
fn kernel_dev(st_dev: u64) -> u64 {
    u64::from(rustix::fs::major(st_dev)) << 20 | u64::from(rustix::fs::minor(st_dev))
}
