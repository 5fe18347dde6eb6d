//! Causes on the way to an open /dev/mem: privileges, namespaces, the node, the device cgroup.

use std::{ffi::CStr, fs, io, os::unix::process::CommandExt as _, path::PathBuf};

use libtest_mimic::Trial;
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change, unmount},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};
use serde_json::Value;

use super::{DOES_NOT_OPEN, Report, doctor_after, opens, skipped};
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
        trial("the_doctor_names_a_device_cgroup", device_cgroup),
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
    let mut command = harness::v2p();
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

/// In a mount namespace of its own, puts an empty file system on /dev.
fn empty_dev(flags: MountFlags) -> io::Result<()> {
    // SAFETY: as in `user_namespace`.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(mount(c"none", c"/dev", c"tmpfs", flags, None)?)
}

fn make_node(mode: u32, minor: u32) -> io::Result<()> {
    let place: &CStr = c"/dev/mem";
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
fn doctor_with_mode(mode: u32) -> Report {
    doctor_after(move || {
        empty_dev(MountFlags::empty())?;
        make_node(mode, 1)?;
        remove_capability_from_bounding_set(CapabilitySet::DAC_READ_SEARCH)?;
        Ok(remove_capability_from_bounding_set(
            CapabilitySet::DAC_OVERRIDE,
        )?)
    })
}

fn mode_for_reading() -> Done {
    let report = doctor_with_mode(0o400);
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

fn file_mode() -> Done {
    let report = doctor_with_mode(0);
    report.assert_denied("devmem-node", "EACCES");
    let evidence = report.check("devmem-node")["evidence"].as_str().unwrap();
    assert!(evidence.contains("mode 0000"), "{evidence}");
    Done::Passed
}

/// The device controller of cgroup v1, mounted where nobody else looks, with one group that may not use /dev/mem.
struct DeviceGroup {
    root: PathBuf,
}

impl DeviceGroup {
    fn new() -> io::Result<Self> {
        let root = std::env::temp_dir().join("v2p-test-devices");
        fs::create_dir_all(&root)?;
        mount(c"none", &root, c"cgroup", MountFlags::empty(), c"devices")?;
        let made = Self { root };
        fs::create_dir_all(made.group())?;
        fs::write(made.group().join("devices.deny"), "c 1:1 rwm")?;
        Ok(made)
    }

    fn group(&self) -> PathBuf {
        self.root.join("v2p-test")
    }
}

impl Drop for DeviceGroup {
    fn drop(&mut self) {
        // What is left of a failure shows in the next run, which fails at the mount.
        let _ = fs::remove_dir(self.group());
        let _ = unmount(&self.root, rustix::mount::UnmountFlags::empty());
        let _ = fs::remove_dir(&self.root);
    }
}

fn device_cgroup() -> Done {
    if expected_devmem().is_none() {
        return skipped(DOES_NOT_OPEN);
    }
    let group = match DeviceGroup::new() {
        Ok(group) => group,
        Err(e) => return Done::Skipped(format!("no device controller of cgroup v1: {e}")),
    };
    let tasks = fs::OpenOptions::new()
        .write(true)
        .open(group.group().join("tasks"))
        .unwrap();
    let report = doctor_after(move || {
        rustix::io::write(&tasks, b"0")?;
        Ok(())
    });
    report.assert_denied("container", "EPERM");
    let what = report.check("container")["what"].as_str().unwrap();
    assert!(what.starts_with("a device cgroup"), "{what}");
    Done::Passed
}
