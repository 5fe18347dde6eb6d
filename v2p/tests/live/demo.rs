//! `v2p demo` on a running kernel.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    Again, Done,
    harness::{self, UNMOVED, expected_devmem, last_json},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_demo_lands_where_dev_mem_opens", the_demo_lands),
        trial(
            "the_demo_names_the_check_that_denies",
            the_demo_names_the_check,
        ),
        trial("a_shorter_text_leaves_the_rest_as_it_was", a_shorter_text),
        trial("an_injected_move_is_never_called_landed", an_injected_move),
        trial(
            "the_text_tells_the_same_as_the_json",
            the_text_tells_the_same,
        ),
    ]
}

fn demo(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = harness::run(&[&["demo", "--json"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains(UNMOVED) {
        std::panic::panic_any(Again(errors.into_owned()));
    }
    (last_json(&output), output.status.code())
}

/// All routes name one frame, whether or not the write was allowed.
fn assert_translated(demo: &Value) {
    let routes = &demo["routes"];
    assert!(routes["pagemap"].as_u64() > Some(255), "{demo:#}");
    assert_eq!(routes["pagemap"], routes["walk"], "{demo:#}");
    assert_eq!(routes["content"], true, "{demo:#}");
    let pfn = demo["pfn"].as_u64().unwrap();
    assert_eq!(harness::address(&demo["pa"]), pfn * 4096);
}

fn is_open() -> bool {
    expected_devmem().as_deref() == Some("open")
}

fn the_demo_lands() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    let (demo, code) = demo(&[]);
    assert_translated(&demo);
    assert_eq!(demo["write"]["verdict"], "landed", "{demo:#}");
    assert_eq!(demo["before"], "Hello, World!");
    assert_eq!(demo["after"], "Hello, Linux!");
    assert_eq!(demo["write"]["moves"], Value::Array(Vec::new()));
    assert_eq!(demo["write"]["lost"], 0);
    assert!(demo["write"]["window_ns"].as_u64() > Some(0));
    assert_eq!(code, Some(0));
    Done::Passed
}

fn the_demo_names_the_check() -> Done {
    if is_open() {
        return Done::Skipped("/dev/mem opens on this kernel".to_owned());
    }
    let (demo, code) = demo(&[]);
    assert_translated(&demo);
    let write = &demo["write"];
    assert_eq!(write["verdict"], "denied", "{demo:#}");
    assert_eq!(demo["after"], "Hello, World!");
    assert_eq!(write["window_ns"], Value::Null);
    assert_eq!(code, Some(1));
    let check = write["denied"]["check"].as_str().unwrap();
    match expected_devmem() {
        Some(expected) => assert_eq!(check, expected, "{demo:#}"),
        // Which one it is here is not known beforehand; that there is evidence and a mend is.
        None => assert!(!write["denied"]["evidence"].as_str().unwrap().is_empty()),
    }
    Done::Passed
}

fn a_shorter_text() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    let (demo, code) = demo(&["--text", "Howdy"]);
    assert_eq!(demo["after"], "Howdy, World!");
    assert_eq!(demo["write"]["len"], 5);
    assert_eq!(code, Some(0));
    Done::Passed
}

/// As often as the lab says.
fn an_injected_move() -> Done {
    let runs = std::env::var("V2P_INJECT_RUNS").map_or(2, |n| n.parse().unwrap());
    for run in 0..runs {
        let (demo, code) = demo(&["--inject-move"]);
        let verdict = demo["write"]["verdict"].as_str().unwrap();
        assert_eq!(code, Some(1), "run {run}: {demo:#}");
        if !is_open() {
            assert_eq!(verdict, "denied");
            continue;
        }
        assert!(
            ["moved", "strayed"].contains(&verdict),
            "run {run}: {demo:#}"
        );
        assert_eq!(demo["after"], "Hello, World!", "run {run}: {demo:#}");
        let moves = demo["write"]["moves"].as_array().unwrap();
        let (first, last) = (&moves[0], &moves[moves.len() - 1]);
        assert_eq!(first["from"]["pfn"], demo["pfn"], "run {run}: {demo:#}");
        assert_ne!(last["to"]["pfn"], demo["pfn"], "run {run}: {demo:#}");
        assert!(
            moves
                .iter()
                .all(|m| m["proof"] == "event" && m["cause"] == "migration")
        );
    }
    Done::Passed
}

fn the_text_tells_the_same() -> Done {
    let output = harness::run(&["demo"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (verdict, after) = if is_open() {
        ("landed", "Linux")
    } else {
        ("denied", "World")
    };
    assert!(text.ends_with(&format!("\nverdict: {verdict}\n")), "{text}");
    assert!(
        text.contains(&format!(
            "\"Hello, {after}!\", read through its virtual address"
        )),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "no colours in a pipe");
    Done::Passed
}
