//! `v2p doctor`: each cause is made on purpose, and must be the one that is named, with the errno that the trial gives.

use std::{
    ffi::CStr,
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use libtest_mimic::Trial;
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change, unmount},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};
use serde_json::Value;

use crate::{
    Done,
    harness::{self, expected_devmem},
    secret::SecretPage,
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_doctor_agrees_with_the_kernel", agrees),
        trial("under_confidentiality_the_doctor_names_it", confidentiality),
        trial("the_doctor_names_what_is_missing_here", names_the_driver),
        trial("the_doctor_names_cap_sys_rawio", cap_sys_rawio),
        trial("the_doctor_names_cap_sys_admin", cap_sys_admin),
        trial("the_doctor_names_root", not_root),
        trial("the_doctor_names_a_user_namespace", user_namespace),
        trial("the_doctor_names_a_missing_node", missing_node),
        trial("the_doctor_names_a_node_without_a_driver", no_driver),
        trial("the_doctor_names_a_masked_node", masked_node),
        trial("the_doctor_names_a_nodev_mount", nodev),
        trial("the_doctor_names_the_file_mode", file_mode),
        trial("the_doctor_names_a_device_cgroup", device_cgroup),
        trial("the_doctor_names_low_memory", low_memory),
        trial("the_doctor_names_the_end_of_memory", past_memory),
        trial("the_doctor_names_a_claimed_device", claimed_device),
        trial("the_doctor_names_a_secret_page", secret_page),
        trial("the_doctor_looks_at_a_page_of_another", another_process),
        trial("the_doctor_watches_or_says_why_not", watches),
        trial("the_doctor_s_text_ends_with_the_mend", text),
    ]
}

struct Report {
    lines: Vec<Value>,
    code: Option<i32>,
}

impl Report {
    fn of(output: &std::process::Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!text.is_empty(), "{errors}");
        let line = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        Self {
            lines: text.lines().map(line).collect(),
            code: output.status.code(),
        }
    }

    fn check(&self, id: &str) -> &Value {
        let found = self.lines.iter().find(|line| line["id"] == id);
        found.unwrap_or_else(|| panic!("no check {id}: {:#?}", self.lines))
    }

    fn verdict(&self) -> &Value {
        self.lines.last().unwrap()
    }

    fn way(&self, access: &str) -> &Value {
        let ways = self.verdict()["ways"].as_array().unwrap();
        ways.iter().find(|way| way["access"] == access).unwrap()
    }

    /// It is denied, by this check, as predicted, with this errno.
    #[track_caller]
    fn assert_denied(&self, id: &str, errno: impl Into<Value>) {
        let verdict = self.verdict();
        assert_eq!(verdict["first"], id, "{verdict:#}");
        assert_eq!(verdict["errno"], errno.into(), "{verdict:#}");
        assert_ne!(verdict["agrees"], false, "{verdict:#}");
        assert_eq!(verdict["read"], "denied", "{verdict:#}");
        assert_eq!(self.code, Some(1), "{verdict:#}");
        let check = self.check(id);
        for field in ["what", "evidence", "mend"] {
            assert!(!check[field].as_str().unwrap().is_empty(), "{check}");
        }
    }
}

fn doctor(arguments: &[&str]) -> Report {
    Report::of(&harness::run(&[&["doctor", "--json"], arguments].concat()))
}

/// Of a page of its own, with nothing changed: asked once, since it takes a second or two in a guest.
fn plain() -> &'static Report {
    static PLAIN: OnceLock<Report> = OnceLock::new();
    PLAIN.get_or_init(|| doctor(&[]))
}

/// After `before` has changed the child.
fn doctor_after(before: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Report {
    let mut command = harness::v2p();
    command.args(["doctor", "--json"]);
    // SAFETY: `before` makes a few system calls and allocates nothing.
    unsafe { command.pre_exec(before) };
    Report::of(&command.output().expect("v2p runs"))
}

fn is_expected(what: &str) -> bool {
    expected_devmem().as_deref() == Some(what)
}

/// Whether /dev/mem is there and opens for root.
fn opens() -> bool {
    is_expected("open") || is_expected("strict-devmem")
}

const DOES_NOT_OPEN: &str = "/dev/mem does not open for root on this kernel";

fn skipped(why: &str) -> Done {
    Done::Skipped(why.to_owned())
}

/// An opened kernel: its configuration says that RAM is kept away, and it is not.
fn is_opened(report: &Report) -> bool {
    is_expected("open") && report.check("strict-devmem")["status"] == "denies"
}

fn is_booted_with(word: &str) -> bool {
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap();
    cmdline.split_whitespace().any(|other| other == word)
}

fn agrees() -> Done {
    let report = plain();
    let verdict = report.verdict();
    assert_eq!(verdict["tried"], true, "{verdict:#}");
    match expected_devmem().as_deref() {
        Some("open") => {
            assert_eq!(
                (&verdict["read"], &verdict["write"], report.code),
                (&"allowed".into(), &"allowed".into(), Some(0)),
                "{verdict:#}"
            );
            assert_eq!(verdict["first"], Value::Null);
            let is_opened = is_opened(report);
            // Of a kernel that does not do what its configuration says, that is said.
            assert_eq!(verdict["agrees"], !is_opened, "{verdict:#}");
            let mmap = report.way("mmap");
            if !is_opened && !is_booted_with("nopat") {
                assert_eq!(mmap["met_errno"], "EINVAL", "{verdict:#}");
                assert_eq!(mmap["check"], "pat");
            } else {
                assert_eq!(mmap["met"], "allowed", "{verdict:#}");
            }
        }
        Some("strict-devmem") => report.assert_denied("strict-devmem", "EPERM"),
        Some("lockdown" | "confidentiality") => report.assert_denied("lockdown", "EPERM"),
        Some(other) => panic!("{other}"),
        None => assert_eq!(verdict["agrees"], true, "{verdict:#}"),
    }
    Done::Passed
}

fn confidentiality() -> Done {
    if !is_expected("confidentiality") {
        return skipped("this kernel is not locked down to confidentiality");
    }
    let report = plain();
    report.assert_denied("lockdown", "EPERM");
    let tracepoint = report.check("bpf-tracepoint");
    assert_eq!(tracepoint["status"], "denies", "{tracepoint}");
    let mend = tracepoint["mend"].as_str().unwrap();
    assert!(mend.contains("[confidentiality]"), "{mend}");
    Done::Passed
}

fn names_the_driver() -> Done {
    if expected_devmem().is_some() || Path::new("/dev/mem").exists() {
        return skipped("this kernel has /dev/mem");
    }
    let report = plain();
    report.assert_denied("config-devmem", "ENOENT");
    assert_eq!(report.check("devmem-node")["status"], "denies");
    // securityfs need not be mounted for this.
    assert_ne!(report.check("lockdown")["status"], "unknown");
    Done::Passed
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

fn file_mode() -> Done {
    let report = doctor_after(|| {
        empty_dev(MountFlags::empty())?;
        make_node(0, 1)?;
        remove_capability_from_bounding_set(CapabilitySet::DAC_READ_SEARCH)?;
        Ok(remove_capability_from_bounding_set(
            CapabilitySet::DAC_OVERRIDE,
        )?)
    });
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

fn low_memory() -> Done {
    if !opens() {
        return skipped(DOES_NOT_OPEN);
    }
    let report = doctor(&["--pa", "0x10000"]);
    let verdict = report.verdict();
    assert_eq!(verdict["tried"], false, "nothing is written there");
    assert_eq!(verdict["agrees"], true, "{verdict:#}");
    if is_expected("open") {
        assert_eq!(verdict["read"], "allowed", "{verdict:#}");
        return Done::Passed;
    }
    report.assert_denied("low-memory", Value::Null);
    assert_eq!(verdict["write"], "dropped");
    // What the kernel hides from read it shows to mmap.
    assert_eq!(report.way("mmap")["met"], "allowed", "{verdict:#}");
    Done::Passed
}

/// The lines of /proc/iomem: start, end and name.
fn iomem() -> Vec<(u64, u64, String)> {
    let text = fs::read_to_string("/proc/iomem").unwrap();
    let parse = |line: &str| {
        let (range, name) = line.trim_start().split_once(" : ").unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |s| u64::from_str_radix(s, 16).unwrap();
        (number(start), number(end), name.to_owned())
    };
    text.lines().map(parse).collect()
}

fn past_memory() -> Done {
    if !opens() {
        return skipped(DOES_NOT_OPEN);
    }
    let iomem = iomem();
    let is_ram = |name: &str| name == "System RAM";
    let ends = iomem.iter().filter(|(_, _, name)| is_ram(name));
    let end = ends.map(|(_, end, _)| *end).max().unwrap();
    // A page that no line holds.
    let free = |page: &u64| {
        iomem
            .iter()
            .all(|(start, end, _)| *end < *page || *start > page + 0xfff)
    };
    let mut after = iomem.iter().map(|(_, last, _)| (last + 0x1000) & !0xfff);
    let Some(pa) = after.find(|page| *page > end && free(page)) else {
        return skipped("every address beyond memory has a name");
    };
    let report = doctor(&["--pa", &format!("{pa:#x}")]);
    report.assert_denied("beyond-memory", "EFAULT");
    assert_eq!(report.way("read")["met_errno"], "EFAULT");
    assert_eq!(report.verdict()["agrees"], true);
    // No processor that runs this has so many bits.
    let nowhere = doctor(&["--pa", "0xf000000000000"]);
    assert_eq!(nowhere.way("mmap")["met_errno"], "EINVAL");
    assert_eq!(nowhere.verdict()["agrees"], true);
    Done::Passed
}

fn claimed_device() -> Done {
    if !opens() {
        return skipped(DOES_NOT_OPEN);
    }
    let iomem = iomem();
    let Some((pa, ..)) = iomem.iter().find(|(_, _, name)| name.starts_with("IOAPIC")) else {
        return skipped("there is no IOAPIC");
    };
    let report = doctor(&["--pa", &format!("{pa:#x}")]);
    let (verdict, check) = (report.verdict(), report.check("io-strict-devmem"));
    assert_eq!(verdict["by"], "mmap", "{verdict:#}");
    assert_eq!(
        report.way("read")["met"],
        Value::Null,
        "registers are not read"
    );
    assert!(check["what"].as_str().unwrap().contains("IOAPIC") || is_expected("open"));
    if is_expected("open") || is_booted_with("iomem=relaxed") {
        assert_eq!(verdict["read"], "allowed", "{verdict:#}");
        assert_ne!(verdict["agrees"], false, "{verdict:#}");
    } else {
        report.assert_denied("io-strict-devmem", "EPERM");
        assert_eq!(verdict["agrees"], true);
    }
    // Nobody claims the bus.
    let bus = iomem
        .iter()
        .find(|(start, _, name)| *start > 1 << 20 && name.starts_with("PCI Bus"));
    if let Some((pa, ..)) = bus {
        let report = doctor(&["--pa", &format!("{pa:#x}")]);
        assert_eq!(
            report.verdict()["read"],
            "allowed",
            "{:#}",
            report.verdict()
        );
    }
    Done::Passed
}

fn own_pid() -> String {
    std::process::id().to_string()
}

fn secret_page() -> Done {
    if !opens() {
        return skipped(DOES_NOT_OPEN);
    }
    let page = match SecretPage::new() {
        Ok(page) => page,
        Err(e) => return Done::Skipped(format!("no memfd_secret(2) here: {e}")),
    };
    let va = format!("{:#x}", page.address());
    let report = doctor(&["--pid", &own_pid(), "--addr", &va]);
    match is_expected("open") {
        true => report.assert_denied("not-direct-mapped", "EFAULT"),
        false => report.assert_denied("strict-devmem", "EPERM"),
    }
    let verdict = report.verdict();
    assert_eq!(verdict["agrees"], true, "{verdict:#}");
    assert_eq!(verdict["tried"], false, "nothing is written there");
    assert_eq!(report.check("not-direct-mapped")["status"], "denies");
    Done::Passed
}

fn another_process() -> Done {
    let bytes = vec![7u8; 1 << 20];
    let va = format!("{:#x}", bytes.as_ptr() as u64 + 0x1000);
    let report = doctor(&["--pid", &own_pid(), "--addr", &va]);
    drop(bytes);
    let page = &report.check("movable")["page"];
    assert_eq!(page["state"], "present", "{page}");
    assert_eq!(page["pinned"], Value::Null, "nobody can know");
    assert_eq!(page["mapcount"], 1);
    let write = report.way("write");
    if opens() {
        assert_eq!(write["met"], Value::Null, "{write}");
        assert_eq!(report.verdict()["tried"], false);
    }
    match expected_devmem().as_deref() {
        Some("open") => {
            assert_eq!(report.way("read")["met"], "allowed", "{write}");
            assert_eq!(write["predicted"], "allowed", "{write}");
        }
        Some("strict-devmem") => report.assert_denied("strict-devmem", "EPERM"),
        _ => assert_eq!(report.code, Some(1)),
    }
    let none = harness::run(&["doctor", "--pid", &own_pid(), "--addr", "0x1000"]);
    assert_eq!(none.status.code(), Some(1));
    Done::Passed
}

fn watches() -> Done {
    let report = plain();
    let fentry = report.check("bpf-fentry");
    let watched = report.verdict()["watched"].as_array().unwrap();
    let answer = |call: &str, function: &str| {
        let said = watched
            .iter()
            .find(|said| said["call"] == call && said["function"] == function);
        said.map(|said| said["answer"].as_i64().unwrap())
    };
    match fentry["status"].as_str().unwrap() {
        "ok" => {
            let eperm = i64::from(-libc::EPERM);
            match expected_devmem().as_deref() {
                Some("open") => {
                    assert_eq!(answer("open", "open_port"), Some(0));
                    assert_eq!(answer("pwrite", "write_mem"), Some(64), "{watched:#?}");
                }
                Some("strict-devmem") => {
                    assert_eq!(answer("pread", "devmem_is_allowed"), Some(0));
                    assert_eq!(answer("pread", "read_mem"), Some(eperm));
                    assert_eq!(answer("pwrite", "write_mem"), Some(eperm));
                }
                Some("lockdown") => {
                    assert_eq!(answer("open", "security_locked_down"), Some(eperm));
                    assert_eq!(answer("open", "open_port"), Some(eperm));
                }
                _ => {}
            }
        }
        _ => {
            assert!(watched.is_empty(), "{watched:#?}");
            assert!(!fentry["evidence"].as_str().unwrap().is_empty());
        }
    }
    Done::Passed
}

fn text() -> Done {
    let output = harness::run(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let json = plain();
    let verdict = json.verdict();
    let words = format!(
        "\nverdict: read {}, write {}\n",
        verdict["read"].as_str().unwrap(),
        verdict["write"].as_str().unwrap()
    );
    assert!(text.contains(&words), "{text}");
    for check in json.lines.iter().filter(|line| line["type"] == "check") {
        assert!(text.contains(check["id"].as_str().unwrap()), "{text}");
    }
    let last = text.lines().last().unwrap();
    match verdict["first"].as_str() {
        Some(first) => {
            let mend = json.check(first)["mend"].as_str().unwrap();
            assert_eq!(last.trim_start(), format!("mend     {mend}"));
        }
        None => assert!(last.starts_with("verdict: ")),
    }
    assert!(!text.contains('\x1b'), "no colours in a pipe");
    Done::Passed
}
