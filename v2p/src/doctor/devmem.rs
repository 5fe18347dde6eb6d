//! Why /dev/mem could not be opened, read or written, in the order in which the kernel checks
//! (drivers/char/mem.c, arch/x86/mm/init.c devmem_is_allowed; 6.1 to 7.3).

use std::io;

use v2p_common::PhysAddr;

use super::Denial;
use crate::kernel::{
    config::{Config, Setting},
    lockdown::{self, Lockdown},
    privileges::{Capability, Privileges},
};

/// The name of an error that /dev/mem gives.
fn name(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::ENOENT => "ENOENT",
        libc::ENXIO => "ENXIO",
        libc::EFAULT => "EFAULT",
        libc::EINVAL => "EINVAL",
        libc::EROFS => "EROFS",
        libc::EBUSY => "EBUSY",
        _ => return None,
    })
}

/// Why open(2) of /dev/mem failed with `error`.
pub fn explain_open(error: &io::Error) -> Denial {
    let config = Config::of_this_kernel();
    let denial = |check, what: &str, evidence: String, mend: &str| Denial {
        check,
        what: what.to_owned(),
        evidence,
        mend: mend.to_owned(),
        errno: name(error),
    };
    let opening = format!("open(/dev/mem, O_RDWR): {error}");
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO) => match config {
            Some(config) if config.setting("CONFIG_DEVMEM") == Setting::Off => denial(
                "config-devmem",
                "this kernel was built without /dev/mem",
                config.evidence("CONFIG_DEVMEM"),
                "use a kernel with CONFIG_DEVMEM=y, or the lab: cargo xtask demo",
            ),
            _ => denial(
                "devmem-node",
                "there is no working /dev/mem node",
                opening,
                "mount devtmpfs on /dev, or: mknod /dev/mem c 1 1",
            ),
        },
        Some(libc::EPERM) => explain_eperm(&denial, opening),
        _ => denial(
            "devmem-node",
            "the /dev/mem node does not let us in",
            opening,
            "run it as root; look at the node's mode and at how /dev is mounted (nodev, ro)",
        ),
    }
}

fn explain_eperm(
    denial: &dyn Fn(&'static str, &str, String, &str) -> Denial,
    opening: String,
) -> Denial {
    let rawio = Privileges::read().map(|p| p.has(Capability::SysRawio));
    if matches!(rawio, Ok(false)) {
        return denial(
            "cap-sys-rawio",
            "CAP_SYS_RAWIO is missing",
            "bit 17 of CapEff in /proc/self/status is clear".to_owned(),
            "run it as root, outside containers and user namespaces",
        );
    }
    match Lockdown::read() {
        Some(Lockdown { mode, evidence }) if mode != "none" => denial(
            "lockdown",
            &format!("the kernel is locked down ({mode})"),
            evidence,
            "boot without lockdown= and without Secure Boot",
        ),
        Some(_) => denial(
            "container",
            "something outside the usual checks refuses it: a device cgroup, a user namespace or a security module",
            opening,
            "run it as root on the host",
        ),
        None => denial(
            "lockdown",
            "the kernel is locked down, or a device cgroup or security module refuses it: cannot tell which",
            format!("{opening}; {} cannot be read", lockdown::PATH),
            "mount -t securityfs none /sys/kernel/security, and try again",
        ),
    }
}

/// Why pread(2) or pwrite(2) of RAM at `pa` failed with `error`, after open(2) had worked; `None`: no
/// check of the kernel denies with that error.
pub fn explain_access(call: &str, pa: PhysAddr, error: &io::Error) -> Option<Denial> {
    let call = format!("{call}(/dev/mem) at {:#x}: {error}", pa.0);
    let (check, what, evidence, mend) = match error.raw_os_error()? {
        libc::EPERM => (
            "strict-devmem",
            "the kernel keeps /dev/mem away from RAM",
            match Config::of_this_kernel() {
                Some(config) if config.setting("CONFIG_STRICT_DEVMEM") == Setting::On => {
                    format!("{call}; {}", config.evidence("CONFIG_STRICT_DEVMEM"))
                }
                _ => call,
            },
            "use a kernel built with CONFIG_STRICT_DEVMEM=n, or the lab: cargo xtask demo",
        ),
        libc::EFAULT => (
            "not-direct-mapped",
            "the kernel's direct map does not hold this page, or it is beyond the end of memory",
            call,
            "no way round it: the page is kept out of the kernel's reach",
        ),
        _ => return None,
    };
    Some(Denial {
        check,
        what: what.to_owned(),
        evidence,
        mend: mend.to_owned(),
        errno: name(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(n: i32) -> io::Error {
        io::Error::from_raw_os_error(n)
    }

    #[test]
    fn a_refused_read_of_ram_is_strict_devmem() {
        let denial = explain_access("pread", PhysAddr(0x1000_0000), &errno(libc::EPERM)).unwrap();
        assert_eq!(
            (denial.check, denial.errno),
            ("strict-devmem", Some("EPERM"))
        );
        assert!(denial.evidence.contains("0x10000000"));
    }

    #[test]
    fn a_page_out_of_the_direct_map_is_told_from_a_refusal() {
        let denial = explain_access("pread", PhysAddr(0x1000_0000), &errno(libc::EFAULT)).unwrap();
        assert_eq!(denial.check, "not-direct-mapped");
    }

    #[test]
    fn an_error_that_no_check_makes_is_not_called_a_denial() {
        let short = io::Error::new(io::ErrorKind::WriteZero, "only 3 of 13 bytes were written");
        assert_eq!(explain_access("pwrite", PhysAddr(0x1000), &short), None);
        assert_eq!(
            explain_access("pwrite", PhysAddr(0x1000), &errno(libc::EIO)),
            None
        );
    }

    #[test]
    fn a_node_that_is_not_there_is_named_with_its_config_where_there_is_one() {
        let denial = explain_open(&errno(libc::ENOENT));
        assert!(["config-devmem", "devmem-node"].contains(&denial.check));
        assert_eq!(denial.errno, Some("ENOENT"));
    }
}
