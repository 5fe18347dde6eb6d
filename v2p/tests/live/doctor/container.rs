//! Causes that a container brings: device cgroups of both versions, and namespaces with a masked /dev.

use std::{
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
};

use libtest_mimic::Trial;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{
    DOES_NOT_OPEN, EPERM, Report, doctor_after, is_expected,
    path::{empty_dev, make_node, make_node_at},
    skipped,
};
use crate::{Done, harness::expected_devmem, trial};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("the_doctor_names_a_device_cgroup", device_cgroup),
        trial(
            "the_doctor_names_a_device_cgroup_of_v2",
            device_cgroup_of_v2,
        ),
        trial("the_doctor_names_a_container", container),
    ]
}

/// A cgroup of our own, in a hierarchy that is mounted where nobody else looks.
pub(super) struct Group {
    root: PathBuf,
}

impl Group {
    /// `kind`: `cgroup` with its controller, or `cgroup2`.
    pub(super) fn new(kind: &CStr, controller: &CStr) -> io::Result<Self> {
        let name = controller.to_string_lossy();
        let root = std::env::temp_dir().join(format!("v2p-test-{name}"));
        fs::create_dir_all(&root)?;
        mount(c"none", &root, kind, MountFlags::empty(), controller)?;
        let made = Self { root };
        fs::create_dir_all(made.place(""))?;
        Ok(made)
    }

    pub(super) fn place(&self, file: &str) -> PathBuf {
        self.root.join("v2p-test").join(file)
    }

    pub(super) fn root(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// The file that takes who shall be in it.
    pub(super) fn members(&self) -> File {
        let file = self.place("cgroup.procs");
        OpenOptions::new().write(true).open(file).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is left of a failure shows in the next run, which fails at the mount.
        let _ = fs::remove_dir(self.place(""));
        let _ = unmount(&self.root, UnmountFlags::empty());
        let _ = fs::remove_dir(&self.root);
    }
}

/// Who writes 0 there moves itself.
pub(super) fn enter(members: &File) -> io::Result<()> {
    rustix::io::write(members, b"0")?;
    Ok(())
}

fn assert_device_cgroup(report: &Report) {
    report.assert_denied("container", "EPERM");
    let what = report.check("container")["what"].as_str().unwrap();
    assert!(what.starts_with("a device cgroup"), "{what}");
    report.assert_watched("open", "devcgroup_check_permission", EPERM);
}

fn device_cgroup() -> Done {
    if expected_devmem().is_none() {
        return skipped(DOES_NOT_OPEN);
    }
    let group = match Group::new(c"cgroup", c"devices") {
        Ok(group) => group,
        Err(e) => return Done::Skipped(format!("no device controller of cgroup v1: {e}")),
    };
    fs::write(group.place("devices.deny"), "c 1:1 rwm").unwrap();
    let members = group.members();
    assert_device_cgroup(&doctor_after(move || enter(&members)));
    Done::Passed
}

/// A program for a device cgroup: 0 for /dev/mem (c 1:1), 1 for all others; struct bpf_cgroup_dev_ctx has the major number at 4,
/// the minor at 8 (include/uapi/linux/bpf.h).
const NOT_DEV_MEM: [Instruction; 8] = [
    Instruction::new(0x61, 0x12, 4, 0),
    Instruction::new(0x55, 0x02, 4, 1),
    Instruction::new(0x61, 0x12, 8, 0),
    Instruction::new(0x55, 0x02, 2, 1),
    Instruction::new(0xb7, 0x00, 0, 0),
    Instruction::new(0x95, 0x00, 0, 0),
    Instruction::new(0xb7, 0x00, 0, 1),
    Instruction::new(0x95, 0x00, 0, 0),
];

/// struct bpf_insn.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, registers: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers,
            offset,
            immediate,
        }
    }
}

/// bpf(2): its command and the words of its attribute.
fn bpf(command: i32, words: &[u32]) -> io::Result<i32> {
    // SAFETY: the attribute is as long as it is said to be, and what it points to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of_val(words)) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps who is in `group` from /dev/mem, as container runtimes do it with cgroup v2.
fn deny_dev_mem(group: &Group) -> io::Result<OwnedFd> {
    const PROG_LOAD: i32 = 5;
    const PROG_ATTACH: i32 = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of a pointer"
    )]
    let halves = |address: u64| [address as u32, (address >> 32) as u32];
    let [low, high] = halves(NOT_DEV_MEM.as_ptr() as u64);
    let [licence, licence_high] = halves(c"GPL".as_ptr() as u64);
    let count = u32::try_from(NOT_DEV_MEM.len()).unwrap();
    let words = [
        TYPE_CGROUP_DEVICE,
        count,
        low,
        high,
        licence,
        licence_high,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: a new descriptor, which nobody else has.
    let program = unsafe { OwnedFd::from_raw_fd(bpf(PROG_LOAD, &words)?) };
    let folder = File::open(group.place(""))?;
    let number = |fd: i32| u32::try_from(fd).unwrap();
    let (to, what) = (number(folder.as_raw_fd()), number(program.as_raw_fd()));
    bpf(PROG_ATTACH, &[to, what, ATTACH_CGROUP_DEVICE, 0])?;
    Ok(program)
}

fn device_cgroup_of_v2() -> Done {
    let group = match Group::new(c"cgroup2", c"") {
        Ok(group) => group,
        Err(e) => return Done::Skipped(format!("no cgroup v2: {e}")),
    };
    let _program = match deny_dev_mem(&group) {
        Ok(program) => program,
        Err(e) => return Done::Skipped(format!("no programs for device cgroups: {e}")),
    };
    let members = group.members();
    let has_node = expected_devmem().is_some();
    let report = doctor_after(move || {
        if !has_node {
            // There is no driver behind it, but that is asked later.
            empty_dev(MountFlags::empty())?;
            make_node(0o600, 1)?;
        }
        enter(&members)
    });
    assert_device_cgroup(&report);
    Done::Passed
}

/// Goes on as the first process of a PID namespace, while who we were waits for it and ends as it does.
pub(crate) fn own_pids() -> io::Result<()> {
    // SAFETY: between fork and exec, where there is one thread and nothing is shared yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
    // SAFETY: as above; what follows in the parent are system calls.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(()),
        child => {
            let mut status = 0;
            // SAFETY: nothing of this process is used any more; `status` is a place of its own.
            unsafe {
                // The pipe that tells std of a failed exec is among these.
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
                libc::waitpid(child, &raw mut status, 0);
                libc::_exit(libc::WEXITSTATUS(status));
            }
        }
    }
}

fn container() -> Done {
    let report = doctor_after(|| {
        empty_dev(MountFlags::empty())?;
        make_node_at(c"/dev/null", 0o666, 3)?;
        own_pids()?;
        mount(c"none", c"/proc", c"proc", MountFlags::empty(), None)?;
        // As runtimes mask it; this machine may not have it.
        let _ = rustix::mount::mount_bind(c"/dev/null", c"/proc/kcore");
        Ok(())
    });
    let container = report.check("container");
    assert_eq!(container["status"], "limits", "{container}");
    let evidence = container["evidence"].as_str().unwrap();
    assert!(evidence.contains("pid:["), "{evidence}");
    let first = match report.check("config-devmem")["status"].as_str() {
        Some("denies") => "config-devmem",
        _ => "devmem-node",
    };
    report.assert_denied(first, "ENOENT");
    let kcore = report.check("kcore");
    assert_eq!(kcore["status"], "limits", "{kcore}");
    if fs::exists("/proc/kcore").unwrap() {
        let mend = kcore["mend"].as_str().unwrap();
        assert!(mend.contains("a container masks it"), "{kcore}");
    }
    // Its own PID namespace takes nothing from the tracer.
    if !is_expected("confidentiality") {
        let tracepoints = report.check("bpf-tracepoint");
        assert_eq!(tracepoints["status"], "ok", "{tracepoints}");
    }
    Done::Passed
}
