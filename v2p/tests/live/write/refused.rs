//! What must not be written: each kind of page is made, and refused by its name, and what it holds is as it was. Refusals come
//! before /dev/mem is opened, so all kernels show them. A kind that a kernel cannot make is skipped with its reason.

use std::{
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use v2p::{
    common::{Pfn, VirtAddr},
    guard::{Job, undisturbed},
    process::{FrameFlags, frame_flags},
    record::{Verdict, Write},
};

use super::{Scene, inside, is_open};
use crate::{
    Done,
    machine::{self, Setting, only_in_guests},
    memory::{DEVICE_BASE, FILE_BASE, HUGE_BASE},
    secret::SecretPage,
    target::{PAGE, PAGES, Target, va},
    trial,
};

const NEW: [u8; 8] = *b"8 bytes!";
const MADV_FREE: u64 = 8;
const MADV_MERGEABLE: u64 = 12;
const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const HUGE: u64 = 2 << 20;
/// A page of a file is known for one when it is on the LRU lists, which a CPU puts it on with others, 15 or 31 at a time
/// (PAGEVEC_SIZE, include/linux/pagevec.h): of so many the first are there. Until then it is refused by another name.
const BATCH: u64 = 64;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("write_refuses_where_there_is_no_frame", no_frame),
        trial("write_refuses_the_zero_page", zero_page),
        trial(
            "write_refuses_a_length_that_goes_on_into_a_page_in_another_state",
            length,
        ),
        trial(
            "write_refuses_a_file_s_page_and_not_the_private_copy_of_one",
            file,
        ),
        trial("write_refuses_memory_that_is_mapped_shared", shared_mapping),
        trial("write_refuses_a_read_only_mapping_unless_forced", read_only),
        trial(
            "write_refuses_a_page_that_was_given_to_be_freed",
            lazily_freed,
        ),
        trial("write_refuses_a_device", device),
        trial("write_refuses_a_guard_region", guard_region),
        trial("write_refuses_a_page_that_is_bad", bad),
        trial(
            "write_refuses_a_hugetlb_page_that_is_bad_anywhere",
            bad_anywhere,
        ),
        trial("write_refuses_a_page_that_a_child_has_too", shared),
        trial("write_refuses_the_huge_zero_page", huge_zero),
        trial("write_lands_inside_a_huge_page", || huge("thp")),
        trial("write_lands_inside_a_huge_page_in_small_entries", || {
            huge("thp-split")
        }),
        trial("write_lands_inside_a_hugetlb_page", || huge("hugetlb")),
        trial(
            "write_refuses_a_page_of_memfd_secret_and_the_kernel_lives",
            secret,
        ),
        trial("write_refuses_a_page_in_swap", swapped),
        trial(
            "write_refuses_a_clean_page_that_swap_has_a_copy_of",
            clean_in_swap,
        ),
        trial("write_refuses_a_page_that_ksm_has_merged", merged),
    ]
}

/// Refused, by that name; nothing was written.
fn assert_refused(said: &Write, id: &'static str) {
    assert_eq!(
        (said.verdict, said.refused),
        (Verdict::Refused, Some(id)),
        "{said:#?}"
    );
    assert_eq!((said.written, said.window_ns), (0, None), "{said:#?}");
    assert!(!said.why.as_ref().unwrap().is_empty());
}

/// Landed where /dev/mem opens, else denied: not refused.
fn assert_not_refused(said: &Write) {
    let expected = if is_open() {
        Verdict::Landed
    } else {
        Verdict::Denied
    };
    assert_eq!(said.verdict, expected, "{said:#?}");
}

/// A target that has written to its first `pages` pages, and a guard on it.
fn scene(pages: u64) -> (Target, Scene) {
    let mut target = Target::start();
    (0..pages).for_each(|i| _ = target.tell("write", i));
    let scene = Scene::on(&target);
    (target, scene)
}

fn flags(target: &Target, i: u64) -> FrameFlags {
    frame_flags(Pfn(target.frame(i))).unwrap()
}

fn no_frame() -> Done {
    let (_target, mut scene) = scene(1);
    assert_not_refused(&scene.write(inside(0), &NEW));
    assert_refused(&scene.write(inside(40), &NEW), "absent");
    // Not there at all; the kernel's half begins beyond it.
    assert_refused(&scene.write(va(PAGES), &NEW), "not-mapped");
    assert_refused(&scene.write(0x10, &NEW), "not-mapped");
    assert_refused(&scene.write(0x7fff_ffff_fff8, &NEW), "not-mapped");
    Done::Passed
}

fn zero_page() -> Done {
    let (mut target, mut scene) = scene(1);
    target.touch(va(41));
    assert_refused(&scene.write(inside(41), &NEW), "zero-page");
    Done::Passed
}

fn length() -> Done {
    let (mut target, mut scene) = scene(20);
    let before = target.peek(va(20) - 8);
    assert_refused(&scene.write(va(20) - 4, &NEW), "absent");
    assert_eq!(target.peek(va(20) - 8), before);
    let long = vec![1; usize::try_from(PAGE).unwrap()];
    assert_refused(&scene.write(va(PAGES) - 8, &long), "absent");
    Done::Passed
}

fn file() -> Done {
    let (mut target, mut scene) = scene(1);
    // Or the first stay in the batch of another.
    target.stay_on_first_cpu();
    target.private_file(BATCH + 1);
    (0..BATCH).for_each(|i| target.touch(FILE_BASE + i * PAGE));
    assert_refused(&scene.write(FILE_BASE + 8, &NEW), "file");
    let copy = FILE_BASE + BATCH * PAGE;
    target.fill(copy, 1);
    assert_not_refused(&scene.write(copy + 8, &NEW));
    Done::Passed
}

/// Anonymous as they are mapped, both are pages of a file to the kernel (shmem), which whoever has it mapped would see change.
fn shared_mapping() -> Done {
    const ANONYMOUS: u64 = 0x21;
    const FIXED_NOREPLACE: u64 = 0x10_0000;
    let (mut target, mut scene) = scene(1);
    target.stay_on_first_cpu();
    let flags = ANONYMOUS | FIXED_NOREPLACE;
    let nobody = u64::MAX;
    let len = BATCH * PAGE;
    let arguments = [FILE_BASE, len, PROT_READ | PROT_WRITE, flags, nobody, 0];
    assert_eq!(target.must(libc::SYS_mmap, &arguments), FILE_BASE);
    target.fill(FILE_BASE, BATCH);
    let before = target.peek(FILE_BASE + 8);
    assert_refused(&scene.write(FILE_BASE + 8, &NEW), "file");
    target.must(libc::SYS_munmap, &[FILE_BASE, len]);
    target.shared_memory(BATCH);
    target.fill(FILE_BASE, BATCH);
    assert_refused(&scene.write(FILE_BASE + 8, &NEW), "file");
    assert_eq!(target.peek(FILE_BASE + 8), before);
    Done::Passed
}

fn read_only() -> Done {
    let (mut target, mut scene) = scene(1);
    target.must(libc::SYS_mprotect, &[va(0), PAGE, PROT_READ]);
    assert_refused(&scene.write(inside(0), &NEW), "read-only");
    let forced = Job {
        va: VirtAddr(inside(0)),
        bytes: &NEW,
        dry_run: false,
        force_readonly: true,
    };
    assert_not_refused(&scene.job(&forced, &mut undisturbed));
    Done::Passed
}

/// The kernel does it in batches of each CPU's, of 15 or 31 pages: one page alone is still in one, many have gone through.
fn lazily_freed() -> Done {
    let mut target = Target::start();
    // Its pages are in the batches of one CPU: all but the last have gone through, else they could not be given up.
    target.stay_on_first_cpu();
    (0..PAGES).for_each(|i| _ = target.tell("write", i));
    let mut scene = Scene::on(&target);
    target.must(libc::SYS_madvise, &[va(1), PAGE, MADV_FREE]);
    assert_refused(&scene.write(inside(1), &NEW), "lazily-freed");
    // The one beside it is the process's as before.
    assert_not_refused(&scene.write(inside(0), &NEW));
    target.must(libc::SYS_madvise, &[va(0), PAGES * PAGE, MADV_FREE]);
    assert_refused(&scene.write(inside(0), &NEW), "lazily-freed");
    Done::Passed
}

fn device() -> Done {
    let (mut target, mut scene) = scene(1);
    if target.tell("device", 0) == 0 {
        return Done::Skipped("no device's memory can be mapped here".to_owned());
    }
    let forced = Job {
        va: VirtAddr(DEVICE_BASE),
        bytes: &NEW,
        dry_run: false,
        force_readonly: true,
    };
    assert_refused(&scene.job(&forced, &mut undisturbed), "device");
    Done::Passed
}

fn guard_region() -> Done {
    let (mut target, mut scene) = scene(1);
    if target.tell("guard", 0) != 1 {
        return Done::Skipped("this kernel has no guard regions".to_owned());
    }
    assert_refused(&scene.write(inside(0), &NEW), "guard");
    Done::Passed
}

fn bad() -> Done {
    if let Err(why) = only_in_guests("takes a frame away from the kernel") {
        return Done::Skipped(why);
    }
    let (mut target, mut scene) = scene(2);
    if target.tell("poison", 0) == 0 {
        return Done::Skipped("this kernel cannot poison pages (CONFIG_MEMORY_FAILURE)".to_owned());
    }
    assert_refused(&scene.write(inside(0), &NEW), "poisoned");
    assert_not_refused(&scene.write(inside(1), &NEW));
    Done::Passed
}

fn bad_anywhere() -> Done {
    if let Err(why) = only_in_guests("takes frames away from the kernel") {
        return Done::Skipped(why);
    }
    let Some(_pool) = Setting::change("/proc/sys/vm/nr_hugepages", "4") else {
        return Done::Skipped("this kernel has no hugetlb".to_owned());
    };
    let (mut target, mut scene) = scene(0);
    if target.tell("hugetlb", 0) == 0 || target.tell("poison-huge", 7) == 0 {
        return Done::Skipped("this kernel cannot poison hugetlb pages".to_owned());
    }
    for i in [0, 7, 511] {
        let place = HUGE_BASE + i * PAGE + 8;
        assert_refused(&scene.write(place, &NEW), "poisoned");
    }
    Done::Passed
}

fn shared() -> Done {
    let (mut target, mut scene) = scene(1);
    target.fork();
    assert_refused(&scene.write(inside(0), &NEW), "shared");
    assert_ne!(target.peek(inside(0)), u64::from_ne_bytes(NEW));
    Done::Passed
}

fn huge_zero() -> Done {
    let (mut target, mut scene) = scene(0);
    if target.tell("thp-zero", 0) != 1 {
        return Done::Skipped("this kernel gave no huge zero page".to_owned());
    }
    assert_refused(&scene.write(HUGE_BASE + 5 * PAGE, &NEW), "huge-zero-page");
    Done::Passed
}

fn huge(kind: &str) -> Done {
    let (mut target, mut scene) = scene(0);
    let _reserved = (kind == "hugetlb")
        .then(|| Setting::change("/proc/sys/vm/nr_hugepages", "2"))
        .flatten();
    if target.tell(kind, 0) == 0 {
        return Done::Skipped(format!("this kernel gave none ({kind})"));
    }
    // Inside, and across a border of base pages.
    let place = HUGE_BASE + 8 * PAGE - 4;
    assert_not_refused(&scene.write(place, &NEW));
    if is_open() {
        assert_eq!(target.peek(place), u64::from_ne_bytes(NEW), "{kind}");
    }
    // A reservation is given back once nobody has the page.
    target.must(libc::SYS_munmap, &[HUGE_BASE, HUGE]);
    Done::Passed
}

fn secret() -> Done {
    let page = match SecretPage::new() {
        Ok(page) => page,
        Err(e) => return Done::Skipped(format!("memfd_secret: {e}")),
    };
    let start = page.address();
    let mut scene = Scene::of(std::process::id(), start..start + PAGE);
    assert_refused(&scene.write(start + 8, &NEW), "not-direct-mapped");
    // As mapped read-only, and forced: the same.
    let job = Job {
        va: VirtAddr(start),
        bytes: &NEW,
        dry_run: false,
        force_readonly: true,
    };
    assert_refused(&scene.job(&job, &mut undisturbed), "not-direct-mapped");
    Done::Passed
}

/// KSM at work, as long as these live; `None`: this kernel has none.
fn ksm() -> Option<[Option<Setting>; 4]> {
    let set = |name: &str, value| Setting::change(&format!("/sys/kernel/mm/ksm/{name}"), value);
    // 6.6 and later would skip pages that did not merge soon.
    let settings = [
        set("smart_scan", "0"),
        set("pages_to_scan", "5000"),
        set("sleep_millisecs", "10"),
        set("run", "1"),
    ];
    settings[3].is_some().then_some(settings)
}

/// A target whose first page was swapped out, or why there is none.
fn swapped_out() -> Result<(Target, Scene), Done> {
    only_in_guests("changes the machine's swap").map_err(Done::Skipped)?;
    machine::swap_on_zram().map_err(Done::Skipped)?;
    let (mut target, scene) = scene(1);
    match target.tell("pageout", 0) {
        1 => Ok((target, scene)),
        _ => Err(Done::Skipped("reclaim took nothing".to_owned())),
    }
}

fn swapped() -> Done {
    let (mut target, mut scene) = match swapped_out() {
        Ok(both) => both,
        Err(skipped) => return skipped,
    };
    assert_refused(&scene.write(inside(0), &NEW), "swapped");
    target.tell("write", 0);
    assert_not_refused(&scene.write(inside(0), &NEW));
    Done::Passed
}

fn clean_in_swap() -> Done {
    let (mut target, mut scene) = match swapped_out() {
        Ok(both) => both,
        Err(skipped) => return skipped,
    };
    // A child that has it in swap too: else the kernel gives the copy up as soon as the one who has it reads it back.
    target.fork();
    target.touch(va(0));
    if !flags(&target, 0).has(FrameFlags::SWAPCACHE) {
        return Done::Skipped("the kernel gave swap's copy up at once".to_owned());
    }
    assert_refused(&scene.write(inside(0), &NEW), "clean-in-swap");
    target.bury();
    target.tell("write", 0);
    assert_not_refused(&scene.write(inside(0), &NEW));
    Done::Passed
}

fn merged() -> Done {
    if let Err(why) = only_in_guests("merges pages") {
        return Done::Skipped(why);
    }
    let (mut target, mut scene) = scene(12);
    let Some(_at_work) = ksm() else {
        return Done::Skipped("this kernel has no KSM".to_owned());
    };
    target.must(libc::SYS_madvise, &[va(4), 4 * PAGE, MADV_MERGEABLE]);
    let start = Instant::now();
    while !(5..8).all(|i| target.frame(i) == target.frame(4)) {
        if start.elapsed() > Duration::from_secs(20) {
            return Done::Skipped("KSM did not merge them in 20 s".to_owned());
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert_refused(&scene.write(inside(5), &NEW), "ksm");
    Done::Passed
}
