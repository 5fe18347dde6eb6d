//! What the checks of /dev/mem are made from, gathered in one place: reading, no judging.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::Result;
use rustix::{
    fs::{Access, AtFlags, CWD, StatVfsMountFlags},
    io::Errno as RawErrno,
};
use v2p_common::PhysAddr;

use super::check::Errno;
use crate::kernel::{
    config::Config,
    iomem::Iomem,
    layout::{self, Learnt},
    lockdown::Lockdown,
    node::{DEVMEM, what_else},
    privileges::{Namespace, Privileges},
    zones,
};

/// What lies at /dev/mem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// Nothing that we can see.
    Absent(Errno),
    /// Something else than the memory device.
    Other(String),
    /// The memory device.
    Device(Device),
}

/// The node of the memory device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Its file system is mounted so that device nodes do not open.
    pub nodev: bool,
    /// Whether the path lets us read: file mode and device cgroup (access(2), which asks the driver nothing).
    pub read: Result<(), Errno>,
    /// Whether it lets us write.
    pub write: Result<(), Errno>,
}

/// Who we are.
#[derive(Clone, Debug)]
pub struct User {
    /// The effective user.
    pub euid: u32,
    /// Its capabilities; none where /proc does not tell.
    pub privileges: Option<Privileges>,
    /// The user namespace.
    pub namespace: Option<Namespace>,
}

impl User {
    /// Reads it; what cannot be read is none.
    pub fn read() -> Self {
        Self {
            euid: rustix::process::geteuid().as_raw(),
            privileges: Privileges::read().ok(),
            namespace: Namespace::user(),
        }
    }

    /// The user namespace, where it is not the system's own: then privileges count for nothing outside it.
    pub fn inner_namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref().filter(|ns| !ns.is_initial())
    }
}

/// All that is known before anything is tried.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Who we are.
    pub user: User,
    /// The PID namespace.
    pub pid_namespace: Option<Namespace>,
    /// Other marks of a container, as evidence.
    pub container: Vec<String>,
    /// What the kernel was built with.
    pub config: Option<Config>,
    /// The kernel's command line; empty where /proc does not show it.
    pub cmdline: String,
    /// How far it is locked down.
    pub lockdown: Option<Lockdown>,
    /// What lies at /dev/mem.
    pub node: Node,
    /// Whether the kernel has this function, from its BTF.
    pub has_read_mem: Option<bool>,
    /// Whether PAT keeps mmap(2) from RAM where the kernel was built without STRICT_DEVMEM.
    pub pat_asks: Option<bool>,
    /// The physical address space; none where it is hidden or cannot be read.
    pub iomem: Option<Iomem>,
    /// Bits of a physical address that the processor has.
    pub physical_bits: Option<u32>,
    /// Whether the processor has PAT.
    pub has_pat: Option<bool>,
    /// Pages that drivers brought with their devices, of persistent memory for one (ZONE_DEVICE).
    pub device_pages: u64,
}

impl Facts {
    /// Reads everything; what cannot be read is none.
    pub fn gather() -> Self {
        Self::gather_with_types().0
    }

    /// The same, and what is learnt of the kernel's types for eBPF programs: they are read once for both.
    pub fn gather_with_types() -> (Self, Result<Learnt>) {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let learnt = layout::with_types(|btf| {
            let has = |name| btf.arguments_of_function(name).is_some();
            let asks = pat_asks(has("mmap_mem"), has("pfnmap_setup_cachemode"));
            (has("read_mem"), asks, layout::learn_of(btf))
        });
        let (has_read_mem, pat_asks, learnt) = match learnt {
            Ok((read, asks, learnt)) => (Some(read), asks, learnt),
            Err(e) => (None, None, Err(e)),
        };
        let config = Config::of_this_kernel();
        let facts = Self {
            user: User::read(),
            pid_namespace: Namespace::pid(),
            container: container(),
            cmdline: fs::read_to_string("/proc/cmdline").unwrap_or_default(),
            lockdown: Lockdown::read(config.as_ref()),
            config,
            node: node(Path::new(DEVMEM)),
            has_read_mem,
            pat_asks,
            iomem: Iomem::read().ok().flatten(),
            physical_bits: physical_bits(&cpuinfo),
            has_pat: has_pat(&cpuinfo),
            device_pages: device_pages(&fs::read_to_string(zones::PATH).unwrap_or_default()),
        };
        (facts, learnt)
    }

    /// Whether `word` stands on the kernel's command line.
    pub fn is_booted_with(&self, word: &str) -> bool {
        self.cmdline.split_whitespace().any(|other| other == word)
    }
}

/// How the kernel's direct map has an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectMapped {
    /// Not at all.
    No,
    /// To be read alone: the kernel's own text and constants.
    ReadOnly,
    /// As other memory.
    Yes,
}

/// The address that is asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where; none where the kernel hides it from us, or no page is there.
    pub pa: Option<PhysAddr>,
    /// The kernel hides it from us.
    pub is_hidden: bool,
    /// A page of a process, which is taken for RAM where /proc/iomem shows no addresses.
    pub is_page: bool,
    /// A page of our own, which we may write to.
    pub is_own: bool,
    /// The mapping's name, where it is a process's.
    pub mapping: Option<String>,
    /// How the direct map holds it, as an eBPF program found by reading it there.
    pub direct_mapped: Option<DirectMapped>,
    /// Whether a page of our own could be read through /dev/mem, where that was tried before.
    pub own_page_was_read: bool,
}

/// Whether PAT asks for more than STRICT_DEVMEM does before it lets mmap(2) have RAM (range_is_allowed, arch/x86/mm/pat/memtype.c, 6.1 and 6.12): by
/// commit 1b3f2bd04d90, of May 2025, it does no more. No function tells that one apart, but one that came about then (in the BTF of 6.18, not of 6.12):
/// where both are there it is not known. From 7.x on /dev/mem has no mmap_mem at all.
const fn pat_asks(has_mmap_mem: bool, has_setup_cachemode: bool) -> Option<bool> {
    match (has_mmap_mem, has_setup_cachemode) {
        (true, true) => None,
        (has_mmap_mem, _) => Some(has_mmap_mem),
    }
}

fn errno(error: RawErrno) -> Errno {
    Errno(error.raw_os_error())
}

fn node(path: &Path) -> Node {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) => return Node::Absent(Errno::of(&e).unwrap_or(Errno(libc::EIO))),
    };
    if let Some(other) = what_else(&metadata) {
        return Node::Other(other);
    }
    let may = |access| rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).map_err(errno);
    Node::Device(Device {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        nodev: rustix::fs::statvfs(path)
            .is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NODEV)),
        read: may(Access::READ_OK),
        write: may(Access::WRITE_OK),
    })
}

/// What container runtimes leave behind.
fn container() -> Vec<String> {
    let mut marks = Vec::new();
    for path in [
        "/.dockerenv",
        "/run/.containerenv",
        "/run/systemd/container",
    ] {
        if Path::new(path).exists() {
            marks.push(path.to_owned());
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let seccomp = status
        .lines()
        .find(|line| line.starts_with("Seccomp:") && !line.ends_with('0'));
    marks.extend(seccomp.map(|line| format!("{} (/proc/self/status)", line.replace('\t', " "))));
    marks
}

/// What all zones `Device` span; 0 where there is none. Not by [`zones`]: without a page of the buddy allocator's they have no
/// `start_pfn` (zoneinfo_show_print, mm/vmstat.c, 6.1 to 7.3).
pub(crate) fn device_pages(zoneinfo: &str) -> u64 {
    let zones = zoneinfo.split("\nNode ").filter(|zone| {
        let name = zone.lines().next().unwrap_or_default();
        name.ends_with("Device")
    });
    let spanned = zones.filter_map(|zone| {
        let mut lines = zone.lines().map(str::trim_start);
        let number = lines.find_map(|line| line.strip_prefix("spanned"))?;
        number.trim().parse::<u64>().ok()
    });
    spanned.fold(0, u64::saturating_add)
}

/// From `address sizes : 46 bits physical, 48 bits virtual`.
pub(crate) fn physical_bits(cpuinfo: &str) -> Option<u32> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("address sizes"))?;
    line.split_once(": ")?.1.split(' ').next()?.parse().ok()
}

/// From the flags of the first processor.
pub(crate) fn has_pat(cpuinfo: &str) -> Option<bool> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    Some(line.split_whitespace().any(|flag| flag == "pat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_tells_its_address_bits_and_pat() {
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu pat pse36\naddress sizes\t: 46 bits physical, 48 bits virtual\n";
        assert_eq!(physical_bits(cpuinfo), Some(46));
        assert_eq!(has_pat(cpuinfo), Some(true));
        assert_eq!((physical_bits(""), has_pat("")), (None, None));
    }

    #[test]
    fn pages_of_devices_are_summed_over_the_nodes() {
        let zoneinfo = "Node 0, zone   Normal\n  pages free 5\n        spanned  100\nNode 0, zone   Device\n  pages free     0\n        spanned  16384\n        present  0\nNode 1, zone   Device\n        spanned  4\n";
        assert_eq!(device_pages(zoneinfo), 16388);
        assert_eq!(device_pages("Node 0, zone   Normal\n spanned 1\n"), 0);
        assert_eq!(device_pages(""), 0);
    }

    #[test]
    fn what_is_not_the_memory_device_is_not_taken_for_it() {
        let other = |path| node(Path::new(path));
        assert!(matches!(other("/dev/null"), Node::Other(what) if what.contains("1:3")));
        assert!(matches!(other("/proc/self/status"), Node::Other(_)));
        assert_eq!(other("/nonexistent"), Node::Absent(Errno(libc::ENOENT)));
    }
}
