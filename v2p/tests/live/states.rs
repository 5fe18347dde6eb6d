//! Each state that a page can be in, and each size, made on purpose and told by every route that can tell it.

use std::fs;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    Done,
    harness::{self, address, last_json},
    machine::{Setting, only_in_guests, swap_on_zram},
    memory::{DEVICE_BASE, FILE, FILE_BASE, GIGANTIC, GIGANTIC_BASE, HUGE, HUGE_BASE},
    target::{PAGE, Target, va},
    translate::{runs, translate},
    trial,
    who::assert_was_its,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_transparent_huge_page_is_one_leaf", a_huge_page),
        trial(
            "a_split_huge_page_has_entries_of_its_own",
            a_split_huge_page,
        ),
        trial("the_huge_zero_page_is_told", the_huge_zero_page),
        trial("a_hugetlb_page_is_one_leaf", a_hugetlb_page),
        trial("a_page_of_a_gigabyte_is_one_leaf", a_gigantic_page),
        trial("a_swapped_page_has_its_device_and_slot", a_swapped_page),
        trial("a_guard_region_is_told", a_guard_region),
        trial("a_poisoned_page_is_told", a_poisoned_page),
        trial("a_poisoned_hugetlb_page_is_told", a_poisoned_hugetlb_page),
        trial(
            "what_the_kernel_maps_itself_is_no_page",
            what_the_kernel_maps,
        ),
        trial("memory_of_a_device_is_no_page", memory_of_a_device),
        trial("vsyscall_is_told_by_the_walk_alone", vsyscall),
        trial("a_name_is_as_in_maps_and_harmless", a_name),
    ]
}

/// Asserts of `len` bytes of huge page at `start` that one leaf of `size` bytes maps each. (6.1 gives the pages inside a
/// huge one fewer flags than its first, so they may be two runs.)
fn assert_leaves(target: &Target, start: u64, len: u64, size: u64, flag: &str) {
    let is_split = size == 4096;
    for route in ["pagemap", "walk", "both"] {
        let range = format!("{start:#x}+{len}");
        let (records, _) = translate(target, &["--route", route, &range]);
        let runs = runs(&records);
        let (verdict, size) = match route {
            "pagemap" => ("single", Value::Null),
            "walk" => ("single", Value::from(size)),
            _ => ("agree", Value::from(size)),
        };
        for run in &runs {
            assert_eq!(
                (
                    &run["page_size"],
                    run["verdict"].as_str(),
                    run["state"].as_str()
                ),
                (&size, Some(verdict), Some("present")),
                "{route}: {run}"
            );
        }
        let flags = runs[0]["flags"].as_array().unwrap();
        assert!(flags.contains(&flag.into()), "{route}: {}", runs[0]);
        let aligned = if is_split { HUGE } else { len };
        assert_eq!(runs[0]["pfn"].as_u64().unwrap() % (aligned / 4096), 0);
        assert_eq!(records.last().unwrap()["present"], len / 4096, "{route}");
        // The first page of a huge one has flags that the others have not, which are not shown: they cut nothing. (One that is split has a page of
        // other rights, and so several mappings.)
        let whole = if is_split { &[] } else { runs.as_slice() };
        for pair in whole.windows(2) {
            assert_ne!(pair[0]["flags"], pair[1]["flags"], "{route}: {pair:?}");
        }
    }
}

fn a_huge_page() -> Done {
    let mut target = Target::start();
    if target.tell("thp", 0) == 0 {
        return Done::Skipped("this kernel gave no transparent huge page".to_owned());
    }
    assert_leaves(&target, HUGE_BASE, HUGE, HUGE, "thp");
    Done::Passed
}

fn a_split_huge_page() -> Done {
    let mut target = Target::start();
    if target.tell("thp-split", 0) == 0 {
        return Done::Skipped("this kernel gave no transparent huge page".to_owned());
    }
    assert_leaves(&target, HUGE_BASE, HUGE, 4096, "thp");
    Done::Passed
}

fn the_huge_zero_page() -> Done {
    let mut target = Target::start();
    if target.tell("thp-zero", 0) == 0 {
        return Done::Skipped("this kernel gave no transparent huge page".to_owned());
    }
    let (records, _) = translate(&target, &[&format!("{HUGE_BASE:#x}+2M")]);
    let (run, end) = (runs(&records)[0], records.last().unwrap());
    if run["page_size"] != HUGE {
        return Done::Skipped(format!("this kernel gave small zero pages: {run}"));
    }
    assert_eq!(
        (&end["zero"], &end["disagree"]),
        (&512.into(), &0.into()),
        "{end}"
    );
    assert_eq!(
        (&run["state"], &run["verdict"]),
        (&"zero".into(), &"agree".into())
    );
    for route in ["pagemap", "walk"] {
        let (records, _) = translate(&target, &["--route", route, &format!("{HUGE_BASE:#x}+2M")]);
        assert_eq!(records.last().unwrap()["zero"], 512, "{route}");
    }
    Done::Passed
}

fn a_hugetlb_page() -> Done {
    let Some(_pool) = Setting::change("/proc/sys/vm/nr_hugepages", "4") else {
        return Done::Skipped("this kernel has no hugetlb".to_owned());
    };
    // Ends before the pool is put back.
    let mut target = Target::start();
    if target.tell("hugetlb", 0) == 0 {
        return Done::Skipped("this kernel gave no hugetlb page".to_owned());
    }
    assert_leaves(&target, HUGE_BASE, HUGE, HUGE, "huge");
    Done::Passed
}

/// The lab boots a guest of each kernel with one such page (`GUESTS` in xtask/src/guests.rs).
fn a_gigantic_page() -> Done {
    let pool = "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages";
    let free = fs::read_to_string(pool).unwrap_or_default();
    if free.trim().parse().unwrap_or(0) == 0 {
        return Done::Skipped(
            "there is no free page of 1G: boot with hugepagesz=1G hugepages=1".to_owned(),
        );
    }
    let mut target = Target::start();
    assert_eq!(target.tell("gigantic", 0), 1);
    assert_leaves(&target, GIGANTIC_BASE, GIGANTIC, GIGANTIC, "huge");
    let inside = format!("{:#x}", GIGANTIC_BASE + GIGANTIC / 2 + 0x123);
    let (records, code) = translate(&target, &["--levels", &inside]);
    let last = records.iter().rfind(|r| r["type"] == "level").unwrap();
    assert_eq!((&last["level"], code), (&"pud".into(), Some(0)), "{last}");
    assert_eq!(
        address(&last["pa"]) + GIGANTIC / 2,
        address(&runs(&records)[0]["pa"])
    );
    Done::Passed
}

fn a_swapped_page() -> Done {
    if let Err(why) = swap_on_zram() {
        return Done::Skipped(why);
    }
    let mut target = Target::start();
    target.tell("write", 4);
    assert_eq!(target.tell("pageout", 4), 1);
    for route in ["pagemap", "walk", "both"] {
        let (records, code) = translate(&target, &["--route", route, &format!("{:#x}", va(4))]);
        let run = runs(&records)[0];
        assert_eq!(
            (&run["state"], code),
            (&Value::from("swapped"), Some(1)),
            "{route}: {run}"
        );
        assert_eq!(run["swap"]["device"], 0, "{route}: {run}");
        assert!(run["swap"]["offset"].as_u64() > Some(0), "{route}: {run}");
        assert_eq!(run["pfn"], Value::Null, "{route}: {run}");
    }
    Done::Passed
}

/// What every route says of the one page at `va`.
fn assert_state(target: &Target, va: u64, state: &str) {
    for route in ["pagemap", "walk", "both"] {
        let (records, code) = translate(target, &["--route", route, &format!("{va:#x}")]);
        let run = runs(&records)[0];
        assert_eq!(
            (run["state"].as_str(), code),
            (Some(state), Some(1)),
            "{route}: {run}"
        );
        assert_ne!(run["verdict"], "disagree", "{route}: {run}");
    }
}

fn a_guard_region() -> Done {
    let mut target = Target::start();
    target.tell("write", 4);
    if target.tell("guard", 4) == 0 {
        return Done::Skipped("this kernel has no guard regions (6.13)".to_owned());
    }
    // Before 6.18 pagemap has no bit for it, but the marker is there.
    assert_state(&target, va(4), "guard");
    Done::Passed
}

fn a_poisoned_page() -> Done {
    if let Err(why) = only_in_guests("takes a frame away from the kernel") {
        return Done::Skipped(why);
    }
    let mut target = Target::start();
    let pfn = target.tell("write", 4);
    if target.tell("poison", 4) == 0 {
        return Done::Skipped("this kernel cannot poison pages (CONFIG_MEMORY_FAILURE)".to_owned());
    }
    assert_state(&target, va(4), "poisoned");
    assert_was_its(&target, pfn, va(4), "until it was poisoned");
    Done::Passed
}

fn a_poisoned_hugetlb_page() -> Done {
    if let Err(why) = only_in_guests("takes frames away from the kernel") {
        return Done::Skipped(why);
    }
    let Some(_pool) = Setting::change("/proc/sys/vm/nr_hugepages", "4") else {
        return Done::Skipped("this kernel has no hugetlb".to_owned());
    };
    // The mark is on the first frame only for a while.
    for bad in [0, 7] {
        let mut target = Target::start();
        let pooled = target.tell("hugetlb", 0) != 0;
        let page = HUGE_BASE + bad * PAGE;
        let pfn = target.word(page).pfn();
        if !pooled || target.tell("poison-huge", bad) == 0 {
            return Done::Skipped("this kernel cannot poison hugetlb pages".to_owned());
        }
        all_of_it_is_poisoned(&target);
        // The frames of the other pages are free again (dissolve_free_hugetlb_folio in mm/hugetlb.c, 6.12), and soon another's.
        assert_was_its(
            &target,
            pfn.unwrap().0,
            page,
            "in a huge page that was poisoned",
        );
    }
    Done::Passed
}

fn all_of_it_is_poisoned(target: &Target) {
    // By pagemap alone it may look absent: it has no word for what of hugetlb is not present.
    for route in ["walk", "both"] {
        let (records, _) = translate(target, &["--route", route, &format!("{HUGE_BASE:#x}+2M")]);
        let end = records.last().unwrap();
        assert_eq!(
            (&end["poisoned"], &end["disagree"]),
            (&512.into(), &0.into()),
            "{route}: {end}"
        );
    }
}

fn what_the_kernel_maps() -> Done {
    let target = Target::start();
    let pid = target.pid().to_string();
    for route in ["walk", "both"] {
        let arguments = [
            "translate",
            "--json",
            "--pid",
            &pid,
            "--route",
            route,
            "[vvar]",
        ];
        let end = last_json(&harness::run(&arguments));
        // A device's page up to 6.18; from 7.x on a page like others.
        let shown = end["device"].as_u64().unwrap() + end["present"].as_u64().unwrap();
        assert!(shown > 0, "{end}");
        assert_eq!(end["disagree"], 0, "{end}");
    }
    let (records, code) = translate(&target, &["[vdso]"]);
    assert!(code == Some(0) && records.last().unwrap()["present"].as_u64() > Some(0));
    Done::Passed
}

fn memory_of_a_device() -> Done {
    let mut target = Target::start();
    let pa = target.tell("device", 0);
    if pa == 0 {
        return Done::Skipped(
            "no memory of a PCI device can be mapped here (lockdown, or none)".to_owned(),
        );
    }
    for route in ["walk", "both"] {
        let (records, code) = translate(&target, &["--route", route, &format!("{DEVICE_BASE:#x}")]);
        let run = runs(&records)[0];
        assert_eq!(
            (run["state"].as_str(), code),
            (Some("device"), Some(1)),
            "{route}: {run}"
        );
        assert_eq!(address(&run["pa"]), pa, "{route}: {run}");
        assert_eq!(run["verdict"], "single", "{route}: {run}");
    }
    Done::Passed
}

fn vsyscall() -> Done {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let Some(line) = maps.lines().find(|line| line.ends_with("[vsyscall]")) else {
        return Done::Skipped("this kernel has no [vsyscall] (vsyscall=none)".to_owned());
    };
    // With vsyscall=emulate it can be read, and is a page; with xonly nothing is mapped.
    let (state, exit) = match line.contains(" r-xp ") {
        true => ("present", 0),
        false => ("absent", 1),
    };
    let target = Target::start();
    for asked in ["[vsyscall]", "0xffffffffff600000", "0xffffffffff600123"] {
        for route in ["walk", "both"] {
            let (records, code) = translate(&target, &["--route", route, asked]);
            let run = runs(&records)[0];
            assert_eq!(
                (run["state"].as_str(), code),
                (Some(state), Some(exit)),
                "{asked}: {run}"
            );
            assert_eq!(run["verdict"], "single", "{asked}: {run}");
        }
    }
    let (records, _) = translate(&target, &["--levels", "0xffffffffff600000"]);
    assert!(
        records
            .iter()
            .any(|r| r["type"] == "level" && r["index"] == 511)
    );
    let (records, _) = translate(&target, &["--route", "both"]);
    assert_eq!(runs(&records).last().unwrap()["mapping"], "[vsyscall]");
    let (records, code) = translate(&target, &["--route", "pagemap"]);
    let end = records.last().unwrap();
    assert_eq!(
        (end["left_out"].to_string(), code),
        ("[\"[vsyscall]\"]".to_owned(), Some(0))
    );
    assert_ne!(runs(&records).last().unwrap()["mapping"], "[vsyscall]");
    let pid = target.pid().to_string();
    let output = harness::run(&[
        "translate",
        "--pid",
        &pid,
        "--route",
        "pagemap",
        "[vsyscall]",
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(
        errors.contains("where pagemap has nothing\nhint: "),
        "{errors}"
    );
    Done::Passed
}

fn a_name() -> Done {
    let mut target = Target::start();
    assert_eq!(target.tell("file", 0), 1);
    let name = format!("/tmp/{} (deleted)", FILE.replace('\n', "\\012"));
    let last_part = name.rsplit('/').next().unwrap();
    for asked in [name.as_str(), last_part] {
        let (records, code) = translate(&target, &[asked]);
        let run = runs(&records)[0];
        assert_eq!(
            (&run["mapping"], code),
            (&Value::from(name.as_str()), Some(0))
        );
        assert_eq!(
            (address(&run["va"]), &run["state"]),
            (FILE_BASE, &"present".into())
        );
    }
    let pid = target.pid().to_string();
    let output = harness::run(&["translate", "--pid", &pid, &name]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        !text.contains('\u{1b}') && text.contains("\\u{1b}[31m of two"),
        "{text}"
    );
    Done::Passed
}
