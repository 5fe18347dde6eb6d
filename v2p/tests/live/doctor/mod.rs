//! `v2p doctor`: each cause is made on purpose, and must be the one that is named, with the errno that the trial gives.

mod address;
mod path;

use std::{fs, io, os::unix::process::CommandExt as _, path::Path, sync::OnceLock};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    Done,
    harness::{self, expected_devmem},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    let own = vec![
        trial("the_doctor_agrees_with_the_kernel", agrees),
        trial("under_confidentiality_the_doctor_names_it", confidentiality),
        trial("the_doctor_names_what_is_missing_here", names_the_driver),
        trial("the_doctor_watches_or_says_why_not", watches),
        trial("the_doctor_s_text_ends_with_the_mend", text),
    ];
    own.into_iter()
        .chain(path::trials())
        .chain(address::trials())
        .collect()
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
