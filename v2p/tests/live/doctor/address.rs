//! Causes at an address: RAM, low memory, devices, nothing; and pages of other processes.

use std::fs;

use libtest_mimic::Trial;
use serde_json::Value;

use super::{DOES_NOT_OPEN, doctor, is_booted_with, is_expected, opens, skipped};
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
        trial("the_doctor_names_a_secret_page", secret_page),
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
