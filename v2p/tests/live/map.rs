//! `v2p map`: the picture says what a translation says.

use std::{collections::BTreeMap, fs, path::PathBuf};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    Done, harness,
    target::{PAGE, Target, va},
    translate::{runs, translate},
    trial,
    trouble::{after, hide_small},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_map_counts_what_a_translation_counts", same_counts),
        trial("a_map_of_one_page_has_one_dot", one_dot),
        trial("a_map_of_what_is_absent_is_an_answer_of_no", absent),
        trial("a_map_since_an_earlier_moment_tells_what_moved", since),
        trial("a_map_is_written_whole_or_not_at_all", whole),
        trial("a_map_on_stdout_is_the_picture_alone", on_stdout),
        trial("a_map_since_nonsense_says_so", since_nonsense),
    ]
}

/// A file of this test's own, gone after it.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("v2p-{}-{name}", std::process::id())))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.0);
    }
}

/// Draws; gives the record and the exit code.
fn map(target: &Target, place: &Place, more: &[&str]) -> (Value, Option<i32>) {
    let pid = target.pid().to_string();
    let arguments = ["map", "--json", "--pid", &pid, "-o", place.path()];
    let output = harness::run(&[&arguments, more].concat());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (harness::last_json(&output), output.status.code())
}

fn on_stdout() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    let output = harness::run(&["map", "--pid", &pid, "-o", "/proc/self/fd/1"]);
    assert!(output.status.success(), "{output:?}");
    let picture = String::from_utf8(output.stdout).unwrap();
    roxmltree::Document::parse(&picture).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("resident"), "{said}");
    Done::Passed
}

/// Of every page that is present, its frame.
fn frames(records: &[Value]) -> BTreeMap<u64, u64> {
    let mut frames = BTreeMap::new();
    for run in runs(records) {
        let first = harness::address(&run["va"]) / PAGE;
        for i in 0..run["pages"].as_u64().unwrap() {
            if run["state"] == "present" {
                frames.insert(first + i, run["pfn"].as_u64().unwrap() + i);
            }
        }
    }
    frames
}

fn stretches(frames: &BTreeMap<u64, u64>) -> u64 {
    let mut last = None;
    let mut stretches = 0;
    for (page, pfn) in frames {
        stretches += u64::from(last != Some((page - 1, pfn.wrapping_sub(1))));
        last = Some((*page, *pfn));
    }
    stretches
}

fn same_counts() -> Done {
    let mut target = Target::start();
    for i in [0, 1, 2, 9, 10, 40] {
        target.tell("write", i);
    }
    target.tell("read", 20);
    let huge = target.tell("thp", 0);
    let (records, _) = translate(&target, &[]);
    let (truth, frames) = (records.last().unwrap(), frames(&records));
    for name in ["map.svg", "map.png"] {
        let place = Place::new(name);
        let (record, code) = map(&target, &place, &[]);
        assert_eq!(code, Some(0));
        for key in [
            "route", "pages", "present", "swapped", "zero", "device", "absent", "hidden",
        ] {
            assert_eq!(record[key], truth[key], "{key}: {record}");
        }
        assert_eq!(record["runs"], stretches(&frames), "{record}");
        assert_eq!(
            frames.len() as u64,
            record["present"].as_u64().unwrap(),
            "{record}"
        );
        let size = fs::metadata(&place.0).unwrap().len();
        assert!(size <= 2_000_000, "{size} bytes");
        if name == "map.svg" {
            assert_picture(&fs::read_to_string(&place.0).unwrap(), &record, huge != 0);
        }
    }
    Done::Passed
}

/// The picture's own numbers are the record's, for programs and for people.
fn assert_picture(svg: &str, record: &Value, has_huge: bool) {
    let document = roxmltree::Document::parse(svg).unwrap();
    let root = document.root_element();
    let metadata = root.children().find(|n| n.has_tag_name("metadata"));
    let own: Value = serde_json::from_str(metadata.unwrap().text().unwrap()).unwrap();
    assert_eq!(&own, record);
    let texts: Vec<_> = root
        .children()
        .filter(|n| n.has_tag_name("text"))
        .map(|n| n.text().unwrap())
        .collect();
    let after = |name: &str| {
        let at = texts.iter().position(|text| *text == name);
        let at = at.unwrap_or_else(|| panic!("no {name:?} in {texts:?}"));
        texts[at + 1].replace(',', "")
    };
    for (name, key) in [
        ("resident", "present"),
        ("pages asked about", "pages"),
        ("stretches of frames in a row", "runs"),
    ] {
        // The first `resident` is the head of the column.
        let number = match name {
            "resident" => {
                let at = texts.iter().rposition(|text| *text == name).unwrap();
                texts[at + 1].replace(',', "")
            }
            name => after(name),
        };
        assert_eq!(number, record[key].to_string(), "{name}");
    }
    let huge = texts
        .iter()
        .any(|text| text.starts_with("huge pages of 2 MiB"));
    assert_eq!(huge, has_huge && record["route"] != "pagemap", "{texts:?}");
}

fn one_dot() -> Done {
    let mut target = Target::start();
    target.tell("write", 3);
    let place = Place::new("dot.svg");
    let (record, code) = map(&target, &place, &[&format!("{:#x}", va(3))]);
    assert_eq!((&record["present"], code), (&Value::from(1), Some(0)));
    let svg = fs::read_to_string(&place.0).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let dots: Vec<_> = document
        .descendants()
        .filter(|n| n.has_tag_name("path"))
        .filter(|n| n.descendants().any(|n| n.text() == Some("(anonymous)")))
        .map(|n| n.attribute("d").unwrap().to_owned())
        .collect();
    assert_eq!(dots.len(), 1, "{dots:?}");
    assert_eq!(dots[0].matches('h').count(), 1, "{dots:?}");
    Done::Passed
}

fn absent() -> Done {
    let target = Target::start();
    let place = Place::new("absent.svg");
    let (record, code) = map(&target, &place, &[&format!("{:#x}", va(3))]);
    assert_eq!((&record["present"], code), (&Value::from(0), Some(1)));
    assert!(place.0.exists(), "that nothing is there is a picture too");
    Done::Passed
}

fn since() -> Done {
    let mut target = Target::start();
    for i in 0..20 {
        target.tell("write", i);
    }
    let pid = target.pid().to_string();
    let earlier = Place::new("old.jsonl");
    let before = harness::run(&["translate", "--json", "--pid", &pid]).stdout;
    fs::write(&earlier.0, &before).unwrap();
    let before: Vec<Value> = String::from_utf8(before)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Some go, some of them come back in whatever frame there is, and one is new.
    target.must(libc::SYS_madvise, &[va(0), 10 * PAGE, 4]);
    for i in [1, 2, 3, 4, 30] {
        target.tell("write", i);
    }
    target.must(libc::SYS_munmap, &[va(15), 2 * PAGE]);
    let place = Place::new("since.svg");
    let (record, code) = map(&target, &place, &["--diff", earlier.path()]);
    assert_eq!(code, Some(0));
    let (after, _) = translate(&target, &[]);
    let (before, after) = (frames(&before), frames(&after));
    let count = |test: &dyn Fn(&u64, &u64) -> bool| {
        after.iter().filter(|(page, pfn)| test(page, pfn)).count()
    };
    let changes = &record["changes"];
    for (key, expected) in [
        ("stayed", count(&|page, pfn| before.get(page) == Some(pfn))),
        (
            "moved",
            count(&|page, pfn| before.get(page).is_some_and(|old| old != pfn)),
        ),
        ("came", count(&|page, _| !before.contains_key(page))),
        (
            "left",
            before
                .keys()
                .filter(|page| !after.contains_key(page))
                .count(),
        ),
    ] {
        assert_eq!(changes[key], expected as u64, "{key}: {record}");
    }
    assert!(
        changes["left"].as_u64() >= Some(8) && changes["came"].as_u64() >= Some(1),
        "{record}"
    );
    let svg = fs::read_to_string(&place.0).unwrap();
    assert!(
        svg.contains("moved to here"),
        "the legend names the colours"
    );
    roxmltree::Document::parse(&svg).unwrap();
    Done::Passed
}

fn whole() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    let arguments = ["map", "--route", "pagemap", "--pid", &pid, "-o"];
    let said = |output: &std::process::Output| {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(output.stdout.is_empty());
        errors
    };
    // A file system of one page there, in which the picture has no room.
    let full = after(
        &[&arguments[..], &["/sys/kernel/btf/map.svg"]].concat(),
        || hide_small(c"/sys/kernel/btf"),
    );
    assert_eq!(
        said(&full),
        "v2p: map: cannot write /sys/kernel/btf/map.svg: No space left on device (os error 28)\n\
         hint: make room, or name a file elsewhere\n"
    );
    let place = Place::new("kept.svg");
    fs::write(&place.0, "kept").unwrap();
    let gone = harness::run(&["map", "--pid", "4194304", "-o", place.path()]);
    assert_ne!(gone.status.code(), Some(0));
    assert_eq!(fs::read_to_string(&place.0).unwrap(), "kept");
    for (path, says) in [
        ("/nowhere/map.svg", "No such file"),
        ("map.pdf", "a map is an .svg or a .png"),
        ("/dev/full", "No space left"),
    ] {
        let output = harness::run(&[&arguments[..], &[path]].concat());
        let errors = said(&output);
        assert!(
            errors.starts_with("v2p: map: ") && errors.contains(says),
            "{errors}"
        );
    }
    Done::Passed
}

fn since_nonsense() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    let (place, earlier) = (Place::new("no.svg"), Place::new("nonsense.jsonl"));
    for (text, says) in [("", "cut off"), ("{}\n", "line 1"), ("\u{0}\n", "line 1")] {
        fs::write(&earlier.0, text).unwrap();
        let arguments = ["map", "--pid", &pid, "-o", place.path(), "--diff"];
        let output = harness::run(&[&arguments[..], &[earlier.path()]].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(
            errors.contains(says) && errors.lines().count() == 2,
            "{errors}"
        );
        assert!(!place.0.exists());
    }
    Done::Passed
}
