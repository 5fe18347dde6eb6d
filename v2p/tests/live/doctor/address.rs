//! Causes at an address: RAM, low memory, devices, nothing; and pages of other processes.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use serde_json::Value;

use super::{DOES_NOT_OPEN, EFAULT, doctor, is_booted_with, is_expected, opens, skipped};
use crate::{
    Done,
    harness::{self, expected_devmem},
    secret::SecretPage,
    trial,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("the_doctor_names_low_memory", low_memory),
        trial("the_doctor_names_the_end_of_memory", past_memory),
        trial("the_doctor_names_a_claimed_device", claimed_device),
        trial("the_doctor_names_the_driver_of_a_device", driver_s_device),
        trial("the_doctor_names_a_secret_page", secret_page),
        trial("the_doctor_names_what_the_kernel_may_but_read", read_only),
        trial("the_doctor_looks_at_a_page_of_another", another_process),
    ]
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
    report.assert_watched("pread", "devmem_is_allowed", 2);
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
    report.assert_watched("pread", "valid_phys_addr_range", 0);
    // No processor that runs this has so many bits.
    let nowhere = doctor(&["--pa", "0xf000000000000"]);
    assert_eq!(nowhere.way("mmap")["met_errno"], "EINVAL");
    assert_eq!(nowhere.verdict()["agrees"], true);
    nowhere.assert_watched("mmap", "valid_mmap_phys_addr_range", 0);
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
        report.assert_watched("mmap", "iomem_is_exclusive", 1);
        report.assert_watched("mmap", "devmem_is_allowed", 0);
    }
    if let Some(pa) = bus() {
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

/// A page of a bus, which nobody claims.
pub(super) fn bus() -> Option<u64> {
    let mut iomem = iomem().into_iter();
    let bus = iomem.find(|(start, _, name)| *start > 1 << 20 && name.starts_with("PCI Bus"));
    bus.map(|(start, ..)| start)
}

/// The first page that the NVMe driver claims, with its device's name; it takes a moment after the boot.
fn nvme() -> Option<(u64, String)> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let iomem = iomem();
        let claimed = iomem.windows(2).find(|pair| pair[1].2 == "nvme");
        if let Some([(_, _, device), (pa, ..)]) = claimed {
            return Some((*pa, device.clone()));
        }
        let is_there = iomem.iter().any(|(_, _, name)| name.starts_with("0000:"));
        if !is_there || Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// A driver's claim on a BAR. Its registers are not read by v2p; that the kernel refuses just what was foretold is seen by a
/// read of the test's own, which would harm nobody: the first register tells what the device can do.
fn driver_s_device() -> Done {
    if !opens() {
        return skipped(DOES_NOT_OPEN);
    }
    let Some((pa, device)) = nvme() else {
        return skipped("no driver has an NVMe device");
    };
    let report = doctor(&["--pa", &format!("{pa:#x}")]);
    let (verdict, check) = (report.verdict(), report.check("io-strict-devmem"));
    assert_eq!(verdict["by"], "mmap", "{verdict:#}");
    if check["status"] != "ok" || is_booted_with("iomem=relaxed") {
        assert!(check["what"].as_str().unwrap().contains("nvme"), "{check}");
        let evidence = check["evidence"].as_str().unwrap();
        assert!(
            evidence.contains(": nvme (/proc/iomem"),
            "{evidence}: {device}"
        );
    }
    if is_expected("open") || is_booted_with("iomem=relaxed") {
        assert_eq!(verdict["read"], "allowed", "{verdict:#}");
        assert_ne!(verdict["agrees"], false, "{verdict:#}");
        return Done::Passed;
    }
    report.assert_denied("io-strict-devmem", "EPERM");
    assert_eq!(check["what"], "claimed by nvme");
    report.assert_watched("mmap", "iomem_is_exclusive", 1);
    assert_eq!(verdict["agrees"], true, "{verdict:#}");
    // BARs lie beyond the end of memory here or not: by that read(2) has another error than mmap(2).
    let mut register = [0; 4];
    let read = File::open("/dev/mem").unwrap().read_at(&mut register, pa);
    let met = read.unwrap_err().raw_os_error();
    let foretold = match report.way("read")["predicted_errno"].as_str().unwrap() {
        "EPERM" => libc::EPERM,
        "EFAULT" => libc::EFAULT,
        other => panic!("{other}: {verdict:#}"),
    };
    assert_eq!(met, Some(foretold), "{verdict:#}");
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
        true => {
            report.assert_denied("not-direct-mapped", "EFAULT");
            report.assert_watched("pread", "read_mem", EFAULT);
        }
        false => report.assert_denied("strict-devmem", "EPERM"),
    }
    let verdict = report.verdict();
    assert_eq!(verdict["agrees"], true, "{verdict:#}");
    assert_eq!(verdict["tried"], false, "nothing is written there");
    assert_eq!(report.check("not-direct-mapped")["status"], "denies");
    let holds = report.check("movable")["page"]["holds"].to_string();
    assert!(holds.contains("nothing moves it"), "{holds}");
    // It would be no error but an oops: foretold is a denial, without an errno.
    let write = report.way("write");
    assert_eq!(write["predicted"], "denied", "{write}");
    if is_expected("open") && report.check("strict-devmem")["status"] == "ok" {
        assert_eq!(write["check"], "not-direct-mapped", "{write}");
        assert_eq!(write["predicted_errno"], Value::Null, "{write}");
    }
    Done::Passed
}

/// The kernel's constants: a write through /dev/mem would be an oops.
fn read_only() -> Done {
    if !is_expected("open") {
        return skipped("/dev/mem does not let RAM be written here");
    }
    let lines = iomem();
    let constants = lines.iter().find(|(.., name)| name == "Kernel rodata");
    let Some((start, ..)) = constants else {
        return skipped("/proc/iomem has no line for the kernel's constants");
    };
    let report = doctor(&["--pa", &format!("{start:#x}")]);
    let verdict = report.verdict();
    assert_eq!(verdict["read"], "allowed", "{verdict:#}");
    assert_eq!(verdict["tried"], false, "nothing is written there");
    let write = report.way("write");
    assert_eq!(
        (&write["predicted"], &write["check"]),
        (&"denied".into(), &"not-direct-mapped".into()),
        "{write}"
    );
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
