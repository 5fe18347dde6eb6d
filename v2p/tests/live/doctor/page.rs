//! Pages of other processes, there or not; and what may move them.

use libtest_mimic::Trial;
use serde_json::Value;

use super::{Report, doctor, is_expected, opens, skipped};
use crate::{
    Done,
    machine::{Setting, only_in_guests, swap_on_zram},
    target::{Target, va},
    trial,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("the_doctor_tells_of_a_page_that_is_not_there", absent),
        trial("the_doctor_tells_of_a_guard_region", guard),
        trial("the_doctor_tells_of_a_poisoned_page", poisoned),
        trial("the_doctor_tells_of_a_swapped_page", swapped),
        trial("the_doctor_tells_of_a_page_that_a_child_shares", shared),
        trial("the_doctor_sees_a_mover_start_and_stop", movers),
    ]
}

fn of_page(target: &Target, i: u64) -> Report {
    let pid = target.pid().to_string();
    doctor(&["--pid", &pid, "--addr", &format!("{:#x}", va(i))])
}

/// No page is there: all checks are told all the same, with the state, and nothing is allowed.
#[track_caller]
fn assert_not_there(report: &Report, state: &str) {
    let page = &report.check("movable")["page"];
    assert_eq!(page["state"], state, "{page}");
    assert_eq!(page["holds"].as_array().unwrap().len(), 1, "{page}");
    for field in ["flags", "mapcount"] {
        assert_eq!(page[field], Value::Null, "{page}");
    }
    let verdict = report.verdict();
    assert_eq!(
        (&verdict["read"], &verdict["write"], report.code),
        (&"denied".into(), &"denied".into(), Some(1)),
        "{verdict:#}"
    );
    assert_eq!(verdict["pa"], Value::Null);
    // What can be tried is open(2) alone.
    if opens() {
        assert_eq!(verdict["tried"], false, "{verdict:#}");
    }
    // The frame is not hidden: there is none.
    assert_eq!(report.check("cap-sys-admin")["status"], "ok");
    if is_expected("strict-devmem") {
        assert_eq!(verdict["first"], "strict-devmem", "{verdict:#}");
    }
}

fn absent() -> Done {
    let target = Target::start();
    assert_not_there(&of_page(&target, 5), "absent");
    Done::Passed
}

fn guard() -> Done {
    let mut target = Target::start();
    target.tell("write", 4);
    if target.tell("guard", 4) == 0 {
        return skipped("this kernel has no guard regions (6.13)");
    }
    assert_not_there(&of_page(&target, 4), "guard");
    Done::Passed
}

fn poisoned() -> Done {
    if let Err(why) = only_in_guests("takes a frame away from the kernel") {
        return Done::Skipped(why);
    }
    let mut target = Target::start();
    target.tell("write", 4);
    if target.tell("poison", 4) == 0 {
        return skipped("this kernel cannot poison pages (CONFIG_MEMORY_FAILURE)");
    }
    assert_not_there(&of_page(&target, 4), "poisoned");
    Done::Passed
}

fn swapped() -> Done {
    if let Err(why) = swap_on_zram() {
        return Done::Skipped(why);
    }
    let mut target = Target::start();
    target.tell("write", 4);
    assert_eq!(target.tell("pageout", 4), 1);
    let report = of_page(&target, 4);
    assert_not_there(&report, "swapped");
    assert_eq!(mover(&report, "swap")["may"], true);
    Done::Passed
}

fn shared() -> Done {
    let mut target = Target::start();
    target.tell("write", 4);
    let page = |target: &Target| of_page(target, 4).check("movable")["page"].clone();
    assert_eq!(page(&target)["mapcount"], 1);
    target.fork();
    let both = page(&target);
    assert_eq!(
        (&both["state"], &both["mapcount"]),
        (&"present".into(), &2.into())
    );
    let holds = both["holds"].as_array().unwrap().iter();
    let mut holds = holds.filter_map(Value::as_str);
    assert!(
        holds.any(|one| one.starts_with("mapped more than once")),
        "{both}"
    );
    Done::Passed
}

fn mover<'a>(report: &'a Report, name: &str) -> &'a Value {
    let check = report.check("movable");
    let mut movers = check["movers"].as_array().unwrap().iter();
    let found = movers.find(|mover| mover["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {check}"))
}

/// Switches of the kernel that are thrown, and put back: each with what it is off and on by.
const SWITCHES: [(&str, &str, [&str; 2]); 4] = [
    ("KSM", "/sys/kernel/mm/ksm/run", ["0", "1"]),
    (
        "NUMA balancing",
        "/proc/sys/kernel/numa_balancing",
        ["0", "1"],
    ),
    (
        "proactive compaction",
        "/proc/sys/vm/compaction_proactiveness",
        ["0", "20"],
    ),
    (
        "khugepaged",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        ["never", "madvise"],
    ),
];

fn movers() -> Done {
    if let Err(why) = only_in_guests("changes what moves pages of the whole machine") {
        return Done::Skipped(why);
    }
    for (i, may) in [false, true].into_iter().enumerate() {
        let thrown = SWITCHES.map(|(name, path, values)| (name, Setting::change(path, values[i])));
        let report = doctor(&[]);
        let what = report.check("movable")["what"].as_str().unwrap();
        let (_, names) = what.split_once(": ").unwrap();
        let mut seen = 0;
        for (name, _) in thrown.iter().filter(|(_, back)| back.is_some()) {
            let found = mover(&report, name);
            assert_eq!(found["may"], may, "{found}");
            assert_eq!(names.split(", ").any(|one| one == *name), may, "{what}");
            seen += 1;
        }
        assert!(seen >= 3, "{seen}");
    }
    Done::Passed
}
