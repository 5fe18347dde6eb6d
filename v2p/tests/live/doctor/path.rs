//! Causes on the way to an open /dev/mem: privileges, a user namespace, the node.

use std::{ffi::CStr, io, os::unix::process::CommandExt as _};

use libtest_mimic::Trial;
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};
use serde_json::Value;

use super::{
    DOES_NOT_OPEN, EPERM, Report, address::bus, doctor_after, doctor_of_after, opens, skipped,
};
use crate::{
    Done,
    harness::{self, expected_devmem},
    trial,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("the_doctor_names_cap_sys_rawio", cap_sys_rawio),
        trial("the_doctor_names_cap_sys_admin", cap_sys_admin),
        trial("the_doctor_names_root", not_root),
        trial("the_doctor_names_a_user_namespace", user_namespace),
        trial("the_doctor_names_a_missing_node", missing_node),
        trial("the_doctor_names_a_node_without_a_driver", no_driver),
        trial("the_doctor_names_a_masked_node", masked_node),
        trial("the_doctor_names_a_nodev_mount", nodev),
        trial("the_doctor_names_the_file_mode", file_mode),
        trial(
            "the_doctor_tells_a_mode_for_reading_alone",
            mode_for_reading,
        ),
        trial(
            "the_doctor_tells_a_mode_for_reading_a_device_alone",
            mode_for_reading_a_device,
        ),
    ]
}

fn cap_sys_rawio() -> Done {
    if expected_devmem().is_none() {
        return skipped(DOES_NOT_OPEN);
    }
    let report = doctor_after(|| {
        Ok(remove_capability_from_bounding_set(
            CapabilitySet::SYS_RAWIO,
        )?)
    });
    report.assert_denied("cap-sys-rawio", "EPERM");
    // Lockdown would be asked after it.
    report.assert_watched("open", "open_port", EPERM);
    assert_eq!(report.said("open", "security_locked_down"), None);
    Done::Passed
}

fn cap_sys_admin() -> Done {
    if !opens() {
        return skipped(DOES_NOT_OPEN);
    }
    let report = doctor_after(|| {
        Ok(remove_capability_from_bounding_set(
            CapabilitySet::SYS_ADMIN,
        )?)
    });
    report.assert_denied("cap-sys-admin", Value::Null);
    let verdict = report.verdict();
    assert_eq!(
        (&verdict["pa"], &verdict["tried"]),
        (&Value::Null, &false.into())
    );
    Done::Passed
}

fn not_root() -> Done {
    if expected_devmem().is_none() {
        return skipped(DOES_NOT_OPEN);
    }
    let (mut command, _program) = harness::v2p_by_descriptor().unwrap();
    command.args(["doctor", "--json"]).uid(65534).gid(65534);
    let report = Report::of(&command.output().expect("v2p runs"));
    report.assert_denied("root", "EACCES");
    assert_eq!(report.check("beyond-memory")["status"], "ok");
    assert_eq!(report.check("cap-bpf")["status"], "denies");
    Done::Passed
}

fn user_namespace() -> Done {
    if expected_devmem().is_none() {
        return skipped(DOES_NOT_OPEN);
    }
    let report = doctor_after(|| {
        // SAFETY: between fork and exec, where there is one thread and nothing is shared yet.
        Ok(unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?)
    });
    // The file mode lets its owner in, and CAP_SYS_RAWIO is there, as far as that goes.
    report.assert_denied("container", "EPERM");
    assert_eq!(report.check("cap-sys-rawio")["status"], "denies");
    let evidence = report.check("container")["evidence"].as_str().unwrap();
    assert!(evidence.contains("user:[4026531837]"), "{evidence}");
    Done::Passed
}

/// A mount namespace of its own, whose mounts nobody else sees.
pub(super) fn own_mounts() -> io::Result<()> {
    // SAFETY: as in `user_namespace`.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change(c"/", private)?)
}

/// In one, puts an empty file system on /dev.
pub(super) fn empty_dev(flags: MountFlags) -> io::Result<()> {
    own_mounts()?;
    Ok(mount(c"none", c"/dev", c"tmpfs", flags, None)?)
}

pub(super) fn make_node(mode: u32, minor: u32) -> io::Result<()> {
    make_node_at(c"/dev/mem", mode, minor)
}

/// A node of one of the memory devices: 1 is /dev/mem, 3 is /dev/null.
pub(super) fn make_node_at(place: &CStr, mode: u32, minor: u32) -> io::Result<()> {
    let device = makedev(1, minor);
    let mode = Mode::from_raw_mode(mode);
    Ok(mknodat(
        CWD,
        place,
        FileType::CharacterDevice,
        mode,
        device,
    )?)
}

fn missing_node() -> Done {
    let report = doctor_after(|| empty_dev(MountFlags::empty()));
    let id = match expected_devmem() {
        Some(_) => "devmem-node",
        None if report.check("config-devmem")["status"] == "denies" => "config-devmem",
        None => "devmem-node",
    };
    report.assert_denied(id, "ENOENT");
    Done::Passed
}

fn no_driver() -> Done {
    let report = doctor_after(|| {
        empty_dev(MountFlags::empty())?;
        make_node(0o600, 1)
    });
    if report.check("config-devmem")["status"] != "denies" {
        return skipped("this kernel has the driver");
    }
    report.assert_denied("config-devmem", "ENXIO");
    Done::Passed
}

fn masked_node() -> Done {
    let report = doctor_after(|| {
        empty_dev(MountFlags::empty())?;
        // /dev/null, as container runtimes put it there.
        make_node(0o666, 3)
    });
    report.assert_denied("devmem-node", Value::Null);
    let evidence = report.check("devmem-node")["evidence"].as_str().unwrap();
    assert!(evidence.contains("1:3"), "{evidence}");
    Done::Passed
}

fn nodev() -> Done {
    let report = doctor_after(|| {
        empty_dev(MountFlags::NODEV)?;
        make_node(0o600, 1)
    });
    report.assert_denied("devmem-node", "EACCES");
    Done::Passed
}

/// /dev/mem with this mode, which counts for root too.
fn doctor_with_mode(mode: u32, of: &[&str]) -> Report {
    doctor_of_after(of, move || {
        empty_dev(MountFlags::empty())?;
        make_node(mode, 1)?;
        remove_capability_from_bounding_set(CapabilitySet::DAC_READ_SEARCH)?;
        Ok(remove_capability_from_bounding_set(
            CapabilitySet::DAC_OVERRIDE,
        )?)
    })
}

fn mode_for_reading() -> Done {
    let report = doctor_with_mode(0o400, &[]);
    let (read, write) = (report.way("read"), report.way("write"));
    assert_eq!(
        (&write["check"], &write["met_errno"], &write["agrees"]),
        (&"devmem-node".into(), &"EACCES".into(), &true.into()),
        "{write:#}"
    );
    // Whatever reading meets here, it is past the mode.
    assert_ne!(read["met_errno"], "EACCES", "{read:#}");
    assert_eq!(report.code, Some(1));
    Done::Passed
}

/// A device is reached by mmap(2), and written only where /dev/mem opens for it.
fn mode_for_reading_a_device() -> Done {
    if !opens() {
        return skipped(DOES_NOT_OPEN);
    }
    let Some(pa) = bus() else {
        return skipped("there is no PCI bus");
    };
    let pa = format!("{pa:#x}");
    let report = doctor_with_mode(0o400, &["--pa", &pa]);
    let verdict = report.verdict();
    assert_eq!(
        (&verdict["by"], &verdict["read"], &verdict["write"]),
        (&"mmap".into(), &"allowed".into(), &"denied".into()),
        "{verdict:#}"
    );
    assert_eq!(verdict["first"], "devmem-node", "{verdict:#}");
    assert_eq!(verdict["errno"], "EACCES", "{verdict:#}");
    assert_eq!(report.code, Some(1));
    let both = doctor_with_mode(0o600, &["--pa", &pa]);
    assert_eq!(both.verdict()["write"], "allowed", "{:#}", both.verdict());
    assert_eq!(both.code, Some(0));
    Done::Passed
}

fn file_mode() -> Done {
    let report = doctor_with_mode(0, &[]);
    report.assert_denied("devmem-node", "EACCES");
    let evidence = report.check("devmem-node")["evidence"].as_str().unwrap();
    assert!(evidence.contains("mode 0000"), "{evidence}");
    Done::Passed
}
