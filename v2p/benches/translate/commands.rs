//! Whole commands, from the start of the process to its end, with frame flags, their output thrown away.

use std::{
    hint::black_box,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use v2p::{
    common::{VirtAddr, pagemap::PagemapWord},
    process::{FrameFile, Pagemap, maps},
};

use crate::{
    report::{Bar, Case, Report},
    space::{PAGE, Target},
};

/// Words in a bare read.
const PART: usize = 8192;
/// Pages of the target.
const RESIDENT: usize = 65_536;

/// v2p, as this bench was built with.
pub(crate) const V2P: &str = env!("CARGO_BIN_EXE_v2p");

/// A process of 65,536 resident pages, by the kernel's page-types and by v2p; and what of it is the kernel's alone.
pub(crate) fn whole(report: &mut Report, page_types: Option<&Path>) {
    let target = Target::start("--resident", RESIDENT);
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
    cases.push(words_alone(&target));
    let title = format!("{RESIDENT} resident pages, whole commands");
    report.group(&title, usize::from(page_types.is_some()), cases);
}

/// What of it is the kernel's: the words of pagemap and of /proc/kpageflags for the target's memory, as its frames come, by all
/// processors at once, in this process, with nothing sorted, decoded or told. Not the least that it can be: in order, fewer reads do.
fn words_alone(target: &Target) -> Case<'static> {
    let pid = target.pid().parse().unwrap();
    let mappings = maps::mappings(pid).unwrap();
    let length = |m: &&maps::Mapping| m.end - m.start;
    let start = mappings.iter().max_by_key(length).unwrap().start;
    let pagemap = Pagemap::of(pid).unwrap();
    let flags = FrameFile::flags().unwrap();
    let threads = thread::available_parallelism().unwrap().get();
    let name = format!("the words alone: bare preads, {threads} threads");
    Case::new(name, Bar::None, move || {
        let one = |number: usize| {
            let (mut words, mut frames) = (vec![0; PART], Vec::with_capacity(PART));
            for part in (number * PART..RESIDENT).step_by(threads * PART) {
                let va = VirtAddr(start + (part * PAGE) as u64);
                assert_eq!(pagemap.read_words(va, &mut words).unwrap(), PART);
                frames.clear();
                frames.extend(words.iter().map(|word| PagemapWord(*word).pfn().unwrap()));
                let mut count = 0;
                let each = |word: Option<u64>| count += usize::from(black_box(word).is_some());
                flags.of(&frames, each).unwrap();
                assert_eq!(count, PART);
            }
        };
        thread::scope(|scope| {
            for number in 1..threads {
                let one = &one;
                scope.spawn(move || one(number));
            }
            one(0);
        });
    })
}

/// A search in every process, against a walk of each.
pub(crate) fn who(report: &mut Report) {
    let pids: Vec<u32> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| maps::mappings(*pid).is_ok_and(|mappings| !mappings.is_empty()))
        .collect();
    let mut walks: Vec<Case<'_>> = pids
        .iter()
        .map(|pid| {
            let pid = pid.to_string();
            let words = [V2P, "translate", "--pid", &pid, "--route", "walk"];
            command(&pid, Bar::None, &words)
        })
        .collect();
    let sum = Case::new(
        "sum of v2p translate --pid PID --route walk",
        Bar::None,
        || {
            walks.iter_mut().for_each(|walk| (walk.work)());
        },
    );
    let who = command("v2p who pfn:1", Bar::Ratio(1.0), &[V2P, "who", "pfn:1"]);
    let title = format!("every process ({}), whole commands", pids.len());
    report.group(&title, 1, vec![sum, who]);
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
