//! `v2p doctor`: each cause is made on purpose, and must be the one that is named, with the errno that the trial gives.

mod address;
pub(crate) mod container;
mod hints;
mod own;
mod page;
mod path;
mod tracing;

use std::{fs, io, os::unix::process::CommandExt as _, sync::OnceLock};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    Done,
    harness::{self, expected_devmem},
    trial,
};

pub(crate) use hints::assert_same_hint;

pub(crate) fn trials() -> Vec<Trial> {
    path::trials()
        .into_iter()
        .chain(own::trials())
        .chain(container::trials())
        .chain(tracing::trials())
        .chain(page::trials())
        .chain(hints::trials())
        .collect()
}

/// Those that a kernel or its command line makes a difference to; the others are about who asks.
pub(crate) fn trials_of_a_boot() -> Vec<Trial> {
    let own = vec![
        trial("the_doctor_agrees_with_the_kernel", agrees),
        trial("the_doctor_names_pat", pat),
        trial("under_confidentiality_the_doctor_names_it", confidentiality),
        trial("the_doctor_agrees_with_what_it_watches", watches),
        trial("the_doctor_s_text_ends_with_the_mend", text),
    ];
    own.into_iter()
        .chain(address::trials())
        .chain(tracing::trials_of_a_boot())
        .collect()
}

/// What the doctor said.
pub(crate) struct Report {
    lines: Vec<Value>,
    code: Option<i32>,
}

impl Report {
    pub(crate) fn of(output: &std::process::Output) -> Self {
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
        // Where the kernel's functions were heard, they name that one too.
        for way in verdict["ways"].as_array().unwrap() {
            assert!(
                way["watched"].is_null() || way["watched"] == way["check"],
                "{verdict:#}"
            );
        }
    }

    /// Whether functions take programs here.
    fn hears(&self) -> bool {
        let fentry = self.check("bpf-fentry");
        let evidence = fentry["evidence"].as_str().unwrap();
        fentry["status"] != "unknown" && !evidence.contains("of a fexit program: ")
    }

    /// What the kernel's function answered to that call of ours, where it was called.
    fn said(&self, call: &str, function: &str) -> Option<i64> {
        let watched = self.verdict()["watched"].as_array().unwrap();
        let mut said = watched.iter();
        let said = said.find(|said| said["call"] == call && said["function"] == function)?;
        Some(said["answer"].as_i64().unwrap())
    }

    /// Where functions take programs, that is what was seen.
    #[track_caller]
    fn assert_watched(&self, call: &str, function: &str, answer: i64) {
        if self.hears() {
            let said = self.said(call, function);
            let fentry = self.check("bpf-fentry");
            let verdict = self.verdict();
            assert_eq!(
                said,
                Some(answer),
                "{call}, {function}: {verdict:#} {fentry}"
            );
        }
    }
}

const EPERM: i64 = -(libc::EPERM as i64);
const EFAULT: i64 = -(libc::EFAULT as i64);

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
    doctor_of_after(&[], before)
}

/// The same, of something else than a page of its own.
fn doctor_of_after(
    arguments: &[&str],
    before: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> Report {
    let mut command = harness::v2p();
    command.args(["doctor", "--json"]).args(arguments);
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
            if is_opened || is_booted_with("nopat") {
                assert_eq!(report.way("mmap")["met"], "allowed", "{verdict:#}");
            }
        }
        Some("strict-devmem") => report.assert_denied("strict-devmem", "EPERM"),
        Some("lockdown" | "confidentiality") => report.assert_denied("lockdown", "EPERM"),
        Some(other) => panic!("{other}"),
        None => assert_eq!(verdict["agrees"], true, "{verdict:#}"),
    }
    Done::Passed
}

/// What other tools meet that map RAM, where the kernel was built to let them: 6.1 and 6.12.
fn pat() -> Done {
    if !is_expected("open") || is_opened(plain()) {
        return skipped("this kernel was not built without STRICT_DEVMEM");
    }
    if is_booted_with("nopat") {
        return skipped("PAT is off");
    }
    let report = plain();
    let mmap = report.way("mmap");
    assert_eq!(mmap["met_errno"], "EINVAL", "{mmap}");
    assert_eq!(mmap["check"], "pat", "{mmap}");
    assert_eq!(mmap["agrees"], true, "{mmap}");
    report.assert_watched("mmap", "phys_mem_access_prot_allowed", 0);
    let mend = report.check("pat")["mend"].as_str().unwrap();
    assert!(mend.contains("nopat"), "{mend}");
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

/// What the kernel's functions answered to each call of ours, in full where functions take programs.
fn watches() -> Done {
    let report = plain();
    let watched = report.verdict()["watched"].as_array().unwrap();
    if !report.hears() {
        assert!(watched.is_empty(), "{watched:#?}");
        return Done::Passed;
    }
    let answer = |call: &str, function: &str| {
        let said = report.said(call, function);
        said.unwrap_or_else(|| panic!("{call}, {function}: {watched:#?}"))
    };
    let was_called = |function: &str| watched.iter().any(|said| said["function"] == function);
    match expected_devmem().as_deref() {
        Some("open") => {
            for function in ["open_port", "security_locked_down", "memory_open"] {
                assert_eq!(answer("open", function), 0, "{function}");
            }
            // 64 bytes each, all of them copied.
            assert_eq!(answer("pread", "read_mem"), 64);
            assert_eq!(answer("pwrite", "write_mem"), 64);
            for call in ["pread", "pwrite"] {
                assert_eq!(answer(call, "valid_phys_addr_range"), 1, "{call}");
            }
        }
        Some("strict-devmem") => {
            assert_eq!(answer("open", "open_port"), 0);
            for (call, function) in [("pread", "read_mem"), ("pwrite", "write_mem")] {
                assert_eq!(answer(call, "devmem_is_allowed"), 0, "{call}");
                assert_eq!(answer(call, function), EPERM, "{call}");
            }
            assert_eq!(answer("mmap", "devmem_is_allowed"), 0);
            // RAM is refused before anybody asks for claims.
            assert!(!was_called("iomem_is_exclusive"), "{watched:#?}");
        }
        Some("lockdown") => {
            assert_eq!(answer("open", "security_locked_down"), EPERM);
            assert_eq!(answer("open", "open_port"), EPERM);
            assert!(!was_called("read_mem") && !was_called("write_mem"));
        }
        other => panic!("{other:?}: {watched:#?}"),
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
    // A kernel that does not do what its configuration says is told loudly, once for each way; another is not.
    let disagree = "DISAGREES with the prediction: denied by strict-devmem: EPERM";
    let ways = match is_opened(json) {
        true => 3,
        false => 0,
    };
    assert_eq!(text.matches(disagree).count(), ways, "{text}");
    assert_eq!(text.matches("DISAGREES").count(), ways, "{text}");
    if let (Some("open"), 0) = (expected_devmem().as_deref(), ways) {
        assert!(
            text.contains("\n  read   allowed, as predicted\n"),
            "{text}"
        );
    }
    let nothing = "watched\n  nothing: functions take no programs here (bpf-fentry); the evidence is from files and calls\n";
    assert_eq!(text.contains(nothing), !json.hears(), "{text}");
    // What a watch loses is told under what it lacks.
    for id in ["bpf-tracepoint", "bpf-fentry"] {
        for lost in json.check(id)["lost"].as_array().into_iter().flatten() {
            for field in ["what", "then"] {
                assert!(
                    text.contains(lost[field].as_str().unwrap()),
                    "{lost}: {text}"
                );
            }
        }
    }
    let note = text.contains("\n  note     what was tried counts");
    assert_eq!(note, verdict["agrees"] == false, "{text}");
    let last = text.lines().last().unwrap();
    match verdict["first"].as_str() {
        Some(first) => {
            let mend = json.check(first)["mend"].as_str().unwrap();
            assert_eq!(last.trim_start(), format!("mend     {mend}"));
        }
        None if note => assert!(last.starts_with("  note "), "{text}"),
        None => assert!(last.starts_with("verdict: "), "{text}"),
    }
    assert!(!text.contains('\x1b'), "no colours in a pipe");
    Done::Passed
}
