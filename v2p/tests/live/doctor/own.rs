//! A machine's own kernel that was built without /dev/mem, as many are.

use std::{fs, io, path::Path};

use libtest_mimic::Trial;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use super::{plain, skipped};
use crate::{
    Done,
    harness::{self, expected_devmem},
    trial,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "the_doctor_names_what_is_missing_here",
        names_the_driver,
    )]
}

fn names_the_driver() -> Done {
    if expected_devmem().is_some() || Path::new("/dev/mem").exists() {
        return skipped("this kernel has /dev/mem");
    }
    let report = plain();
    report.assert_denied("config-devmem", "ENOENT");
    assert_eq!(report.check("devmem-node")["status"], "denies");
    // securityfs need not be mounted for this; here it is, to see that what was read there is so.
    let lockdown = report.check("lockdown");
    let word = |field: &str| lockdown[field].as_str().unwrap();
    match securityfs("lockdown") {
        Ok(line) => {
            let mode = line.split(['[', ']']).nth(1).unwrap();
            let (status, what) = match mode {
                "none" => ("ok", "not locked down".to_owned()),
                mode => ("denies", format!("the kernel is locked down ({mode})")),
            };
            assert_eq!((word("status"), word("what")), (status, what.as_str()));
            assert!(word("evidence").starts_with(&line), "{lockdown}: {line}");
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => assert_eq!(word("status"), "ok"),
        Err(e) => panic!("securityfs: {e}"),
    }
    // A watch tries to hook functions on its own: what the kernel refuses to it the doctor says.
    let pid = std::process::id().to_string();
    let output = harness::run(&["watch", "--pid", &pid, "--for", "0", "--json"]);
    let start = output.stdout.split(|b| *b == b'\n').next().unwrap();
    let start: Value = serde_json::from_slice(start).unwrap();
    let missing = start["missing"].as_array().unwrap().iter();
    let refused = "try_to_unmap_one: Operation not permitted";
    let mut missing = missing.filter_map(Value::as_str);
    let is_refused = missing.any(|one| one.starts_with(refused));
    let fentry = report.check("bpf-fentry");
    assert_eq!(
        fentry["status"] == "limits",
        is_refused,
        "{fentry}: {start}"
    );
    if is_refused {
        assert!(!report.hears(), "{fentry}");
        let evidence = fentry["evidence"].as_str().unwrap();
        assert!(evidence.contains("of a fexit program: EPERM"), "{fentry}");
    }
    Done::Passed
}

/// A file of securityfs, by a mount of the test's own.
fn securityfs(name: &str) -> io::Result<String> {
    let place = std::env::temp_dir().join("v2p-test-securityfs");
    fs::create_dir_all(&place)?;
    mount(c"none", &place, c"securityfs", MountFlags::RDONLY, None)?;
    let text = fs::read_to_string(place.join(name));
    unmount(&place, UnmountFlags::empty())?;
    fs::remove_dir(&place)?;
    text.map(|text| text.trim().to_owned())
}
