//! Whole commands, from the start of the process to its end, with frame flags, their output thrown away.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    report::{Bar, Case, Report},
    space::Target,
};

/// v2p, as this bench was built with.
pub(crate) const V2P: &str = env!("CARGO_BIN_EXE_v2p");

/// A process of 65,536 resident pages, by the kernel's page-types and by v2p.
pub(crate) fn whole(report: &mut Report, page_types: Option<&Path>) {
    let target = Target::start("--resident", 65_536);
    let pid = target.pid();
    let mut cases = Vec::new();
    match page_types {
        Some(program) => {
            let program = program.to_str().unwrap();
            cases.push(command(
                "page-types -p PID -L",
                Bar::None,
                &[program, "-p", &pid, "-L"],
            ));
        }
        None => eprintln!("no --page-types: v2p's commands alone"),
    }
    for (options, bar) in [
        (&[][..], Bar::Ratio(0.2)),
        (&["--route", "walk"], Bar::None),
        (&["--route", "pagemap"], Bar::Ratio(0.2)),
        (&["--route", "pagemap", "--json"], Bar::None),
    ] {
        let words = [&[V2P, "translate", "--pid", &pid], options].concat();
        let name = ["v2p translate --pid PID", &options.join(" ")].join(" ");
        cases.push(command(name.trim_end(), bar, &words));
    }
    cases.push(command("v2p who pfn:1", Bar::None, &[V2P, "who", "pfn:1"]));
    let title = "65536 resident pages, whole commands";
    match page_types {
        Some(_) => report.group(title, cases),
        None => report.group_alone(title, cases),
    }
}

fn command(name: &str, bar: Bar, words: &[&str]) -> Case<'static> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    Case::new(name, bar, move || {
        let status = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        // 1 is an answer of no: who finds no process.
        assert!(matches!(status.code(), Some(0 | 1)), "{words:?}: {status}");
    })
}
