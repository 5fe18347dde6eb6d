//! The checks of open(2) on /dev/mem: pure.
//!
//! The path first (node, file mode, device cgroup: fs/namei.c inode_permission), then the driver of the minor number
//! (drivers/char/mem.c memory_open), then open_port: CAP_SYS_RAWIO, then lockdown; 6.1 to 7.3.

use super::{
    check::{Check, Effect, Errno, Id, Stage},
    explain::NOT_OURS,
    facts::{Device, Facts, Node},
};
use crate::kernel::{
    config::{Config, Setting},
    layout::BTF_PATH,
    privileges::{Capability, MOUNT_PROC},
};

pub(super) const AS_ROOT: &str = "run it as root: sudo v2p ...";
pub(super) const ON_THE_HOST: &str =
    "run it as root on the host, outside containers and user namespaces";

/// All of them, in the kernel's order; but where there is no node, why there is none comes first. Something else in its
/// place v2p does not open at all; and a nodev mount is asked before the file mode (may_open, fs/namei.c, 6.1 to 7.3).
pub fn checks(facts: &Facts) -> Vec<Check> {
    let (root, container) = (root(facts), container(facts));
    let (node, config) = (node(facts), config(facts));
    let mut checks = match facts.node {
        Node::Absent(_) => vec![config, node, root, container],
        Node::Other(_) | Node::Device(Device { nodev: true, .. }) => {
            vec![node, root, container, config]
        }
        _ => vec![root, container, node, config],
    };
    checks.extend([rawio(facts), lockdown(facts)]);
    checks
}

/// The error of the path for reading, or else for writing.
fn path_error(device: &Device) -> Option<(Stage, Errno)> {
    match (device.read, device.write) {
        (Err(errno), _) => Some((Stage::Open, errno)),
        (_, Err(errno)) => Some((Stage::OpenForWriting, errno)),
        _ => None,
    }
}

/// generic_permission, fs/namei.c: reading and writing a device then depend on no mode.
fn passes_file_modes(facts: &Facts) -> bool {
    let privileges = facts.user.privileges;
    facts.user.inner_namespace().is_none()
        && privileges.is_some_and(|p| p.has(Capability::DacOverride))
}

fn root(facts: &Facts) -> Check {
    let evidence = format!("effective user {}", facts.user.euid);
    if facts.user.euid == 0 {
        return Check::ok(Id::Root, "root", evidence);
    }
    let denied = match &facts.node {
        Node::Device(device) => path_error(device).filter(|(_, e)| e.0 == libc::EACCES),
        _ => None,
    };
    match denied {
        Some((stage, errno))
            if facts.user.inner_namespace().is_none() && !passes_file_modes(facts) =>
        {
            let what = "not root: the file mode of /dev/mem keeps us out";
            Check::denies(Id::Root, what, evidence)
                .mend(AS_ROOT)
                .fails(stage, errno.0)
        }
        _ => Check::limits(Id::Root, "not root", evidence).mend(AS_ROOT),
    }
}

fn container(facts: &Facts) -> Check {
    let error = match &facts.node {
        Node::Device(device) => path_error(device),
        _ => None,
    };
    if let Some(ns) = facts.user.inner_namespace() {
        let (stage, errno) = error.unwrap_or((Stage::Open, Errno(libc::EPERM)));
        let what = "a user namespace: capabilities in it count for nothing outside";
        return Check::denies(Id::Container, what, ns.evidence())
            .mend(ON_THE_HOST)
            .fails(stage, errno.0);
    }
    if let Some((stage, errno)) = error.filter(|(_, e)| e.0 == libc::EPERM) {
        let what = "a device cgroup, or else a security module, keeps us from /dev/mem; its file mode does not";
        return Check::denies(Id::Container, what, format!("access(/dev/mem): {errno}"))
            .mend("allow it: DeviceAllow=/dev/mem rw (systemd), --device /dev/mem (docker)")
            .fails(stage, errno.0);
    }
    if facts.user.privileges.is_none() && facts.user.namespace.is_none() {
        let what = "cannot tell our namespaces";
        return Check::unknown(Id::Container, what, "no /proc/self/ns").mend(MOUNT_PROC);
    }
    let mut marks = facts.container.clone();
    let own_pids = facts.pid_namespace.as_ref().filter(|ns| !ns.is_initial());
    marks.extend(own_pids.map(|ns| ns.evidence()));
    let namespaces = facts
        .user
        .namespace
        .as_ref()
        .map_or_else(|| "/proc/self/ns".to_owned(), |ns| ns.link.clone());
    match (own_pids, marks.is_empty()) {
        (_, true) => Check::ok(Id::Container, "no container", namespaces),
        (None, false) => {
            let what = "the system's own namespaces, though there are marks of a container";
            let evidence = format!("{}; {namespaces}", marks.join(", "));
            Check::ok(Id::Container, what, evidence)
        }
        (Some(_), false) => {
            let what = "a container: other processes and devices may be hidden";
            Check::limits(Id::Container, what, marks.join(", ")).mend(ON_THE_HOST)
        }
    }
}

fn node(facts: &Facts) -> Check {
    let denies =
        |what: &str, evidence, mend: &str| Check::denies(Id::DevmemNode, what, evidence).mend(mend);
    let device = match &facts.node {
        Node::Absent(errno) => {
            let mend = match has_driver(facts) {
                Some((false, _)) => {
                    "none: a node without the driver would not open (config-devmem)"
                }
                _ => "mount devtmpfs on /dev, or: mknod -m 640 /dev/mem c 1 1",
            };
            let evidence = format!("stat(/dev/mem): {errno}");
            return denies("there is no /dev/mem that we can see", evidence, mend)
                .fails(Stage::Open, errno.0);
        }
        Node::Other(what) => {
            return denies(
                "what lies at /dev/mem is not the memory device: containers mask it so",
                format!("stat(/dev/mem): {what}"),
                "umount /dev/mem, or run it on the host",
            )
            .has(Stage::Open, Effect::Fails(None));
        }
        Node::Device(device) => device,
    };
    let Device { mode, uid, gid, .. } = device;
    let evidence = format!("mode {mode:04o}, owner {uid}:{gid} (stat of /dev/mem)");
    if device.nodev {
        let what = "/dev/mem lies on a file system whose device nodes do not open";
        let evidence = "nodev (statvfs of /dev/mem)".to_owned();
        return denies(what, evidence, "mount -o remount,dev /dev")
            .fails(Stage::Open, libc::EACCES);
    }
    let refused = path_error(device).filter(|(_, errno)| errno.0 != libc::EPERM);
    match refused {
        Some((stage, errno)) if passes_file_modes(facts) => denies(
            "not the file mode of /dev/mem, but a security module keeps us out",
            format!("CAP_DAC_OVERRIDE; access(/dev/mem): {errno}"),
            NOT_OURS,
        )
        .fails(stage, errno.0),
        Some((stage, errno)) => denies(
            "the file mode of /dev/mem keeps us out",
            format!("{evidence}; access(/dev/mem): {errno}"),
            "run it as root, with CAP_DAC_OVERRIDE; or chmod u+rw /dev/mem",
        )
        .fails(stage, errno.0),
        None => Check::ok(Id::DevmemNode, "/dev/mem is the memory device", evidence),
    }
}

/// Whether the kernel was built with /dev/mem, and what shows it; `None`: it cannot be told.
pub(super) fn has_driver(facts: &Facts) -> Option<(bool, String)> {
    let option = "CONFIG_DEVMEM";
    let of_function = |has: bool| {
        let word = if has { "a" } else { "no" };
        let evidence = format!("the kernel has {word} function read_mem ({BTF_PATH})");
        (has, evidence)
    };
    let of_config = |config: &Config| {
        let is_on = config.setting(option) == Setting::On;
        (is_on, config.evidence(option))
    };
    let config = facts.config.as_ref().map(of_config);
    config.or_else(|| facts.has_read_mem.map(of_function))
}

fn config(facts: &Facts) -> Check {
    let id = Id::ConfigDevmem;
    let evidence = match has_driver(facts) {
        Some((true, evidence)) => return Check::ok(id, "built with /dev/mem", evidence),
        Some((false, evidence)) => evidence,
        None => {
            let what = "cannot tell whether the kernel was built with /dev/mem";
            return Check::unknown(id, what, "no configuration and no BTF to read")
                .mend("install the kernel's config file in /boot")
                .may_fail(Stage::Open, libc::ENXIO);
        }
    };
    let errno = match facts.node {
        Node::Absent(errno) => errno.0,
        _ => libc::ENXIO,
    };
    Check::denies(id, "this kernel was built without /dev/mem", evidence)
        .mend("use a kernel with CONFIG_DEVMEM=y, or the lab: cargo xtask demo")
        .fails(Stage::Open, errno)
}

fn rawio(facts: &Facts) -> Check {
    let id = Id::CapSysRawio;
    let Some(privileges) = facts.user.privileges else {
        return Check::unknown(id, "cannot tell our capabilities", "no /proc/self/status")
            .mend(MOUNT_PROC)
            .may_fail(Stage::Open, libc::EPERM);
    };
    let evidence = privileges.evidence();
    let what = match privileges.has(Capability::SysRawio) {
        false => "CAP_SYS_RAWIO is missing",
        true if facts.user.inner_namespace().is_some() => {
            "CAP_SYS_RAWIO counts only inside this user namespace"
        }
        true => return Check::ok(id, "CAP_SYS_RAWIO", evidence),
    };
    Check::denies(id, what, format!("bit 17 of {evidence}"))
        .mend("run it as root, outside containers; docker: --cap-add SYS_RAWIO")
        .fails(Stage::Open, libc::EPERM)
}

fn lockdown(facts: &Facts) -> Check {
    let id = Id::Lockdown;
    match &facts.lockdown {
        Some(lockdown) if lockdown.mode == "none" => {
            Check::ok(id, "not locked down", lockdown.evidence.clone())
        }
        Some(lockdown) => {
            let what = format!("the kernel is locked down ({})", lockdown.mode);
            Check::denies(id, what, lockdown.evidence.clone())
                .mend(unlock(facts))
                .fails(Stage::Open, libc::EPERM)
        }
        None => {
            let what = "cannot tell whether the kernel is locked down";
            Check::unknown(id, what, "securityfs cannot be read")
                .mend("mount -t securityfs none /sys/kernel/security, as root")
                .may_fail(Stage::Open, libc::EPERM)
        }
    }
}

/// What locked the kernel down, as far as that can be told, decides what unlocks it.
fn unlock(facts: &Facts) -> String {
    let word = facts.cmdline.split_whitespace();
    if let Some(word) = word.rev().find(|word| word.starts_with("lockdown=")) {
        return format!("boot without {word}");
    }
    let forced = [
        "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY",
        "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
    ];
    let is_on = |option: &&str| {
        let config = facts.config.as_ref();
        config.is_some_and(|config| config.setting(option) == Setting::On)
    };
    match forced.into_iter().find(is_on) {
        Some(option) => format!("use a kernel built without {option}"),
        None if facts.config.is_none() => {
            "cannot tell what locked it down: lockdown=, Secure Boot, or how it was built".to_owned()
        }
        None => "boot without Secure Boot, which locks it down; where there is none, it was locked down by hand, until the next boot".to_owned(),
    }
}
