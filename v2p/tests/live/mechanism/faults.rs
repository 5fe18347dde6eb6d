//! Faults: first touch, the zero page, copy-on-write.

use libtest_mimic::Trial;

use super::scene::{Scene, Told};
use crate::{
    Again, Done,
    machine::Setting,
    memory::FILE_BASE,
    target::{BASE, PAGE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_first_touch_by_a_read", first_touch_by_a_read),
        trial("mechanism_first_touch_by_a_write", first_touch_by_a_write),
        trial("mechanism_zero_page_replaced", zero_page_replaced),
        trial("mechanism_cow_in_the_parent", cow_in_the_parent),
        trial("mechanism_cow_in_the_child", cow_in_the_child),
        trial("mechanism_cow_of_a_file_page", cow_of_a_file_page),
        trial("mechanism_fault_around", fault_around),
        trial("mechanism_fault_around_and_gone", fault_around_and_gone),
        trial("mechanism_fault_around_and_back", fault_around_and_back),
        trial("mechanism_large_folio_fault", large_folio_fault),
        trial("mechanism_populate", populate),
        trial("mechanism_mlock", mlock),
    ]
}

fn first_touch_by_a_read() -> Done {
    let mut scene = Scene::new(&[ALL], |_| {});
    scene.act(|target| target.tell("read", 3));
    let told = scene.end();
    told.only((va(3), 1), &["first-touch"])
        .by("first-touch", told.pid);
    told.by_event("first touch, read");
    Done::Passed
}

fn first_touch_by_a_write() -> Done {
    let mut scene = Scene::new(&[ALL], |_| {});
    scene.act(|target| target.tell("write", 3));
    let told = scene.end();
    told.only((va(3), 1), &["first-touch"])
        .by("first-touch", told.pid);
    told.by_event("first touch, write");
    Done::Passed
}

fn zero_page_replaced() -> Done {
    let mut scene = Scene::new(&[ALL], |target| _ = target.tell("read", 3));
    scene.act(|target| target.tell("write", 3));
    let told = scene.end();
    told.only((va(3), 1), &["zero-fill"])
        .by("zero-fill", told.pid);
    told.by_event("zero page replaced");
    Done::Passed
}

fn cow_in_the_parent() -> Done {
    let mut scene = Scene::new(&[ALL], |target| {
        target.tell("write", 3);
        target.fork();
    });
    scene.act(|target| target.tell("write", 3));
    let told = scene.end();
    told.only((va(3), 1), &["cow"]).by("cow", told.pid);
    told.by_event("copy-on-write, parent");
    Done::Passed
}

fn cow_in_the_child() -> Done {
    let write = |target: &mut Target| _ = target.tell("write", 3);
    let mut scene = Scene::of(&[ALL], write, Target::fork);
    // Only the target has a child.
    scene.target.have_child_write(va(3));
    let told = scene.end();
    told.only((va(3), 1), &["cow"]).by("cow", told.pid);
    told.by_event("copy-on-write, child");
    Done::Passed
}

fn cow_of_a_file_page() -> Done {
    let mut scene = Scene::new(&[(FILE_BASE, 1)], |target| target.private_file(1));
    scene.act(|target| {
        target.touch(FILE_BASE);
        target.fill(FILE_BASE, 1);
    });
    let told = scene.end();
    told.only((FILE_BASE, 1), &["first-touch", "cow"])
        .by("cow", told.pid);
    told.by_event("copy-on-write, private file page");
    Done::Passed
}

/// A file's pages where there is a page table already: without, some kernels (6.18) leave fault-around out, and map what lies in one folio
/// with the page.
fn file_with_a_table(target: &mut Target, pages: u64) {
    const READ: u64 = 1;
    const ANONYMOUS_PRIVATE_FIXED: u64 = 0x20 | 0x2 | 0x10;
    target.private_file(pages);
    let beside = FILE_BASE + (1 << 20);
    let arguments = [beside, PAGE, READ, ANONYMOUS_PRIVATE_FIXED, u64::MAX, 0];
    target.must(libc::SYS_mmap, &arguments);
    target.touch(beside);
}

/// Without hooks on functions a fault that perf left out, or whose thread changed its CPU, is not looked around.
fn heard(told: &Told) {
    if !told.functions && told.neighbours && told.moves.iter().any(|m| m["proof"] != "event") {
        std::panic::panic_any(Again("a fault came unheard".to_owned()));
    }
}

fn fault_around() -> Done {
    let area = (FILE_BASE, 16);
    let mut scene = Scene::new(&[area], |target| file_with_a_table(target, 16));
    scene.act(|target| target.touch(FILE_BASE + 3 * PAGE));
    let told = scene.end();
    // How many neighbours come along is the kernel's business (fault_around_bytes); that none is missing has been seen.
    told.just((FILE_BASE + 3 * PAGE, 1), &["first-touch"]);
    assert!(told.moves.iter().all(|m| m["cause"] == "first-touch"));
    heard(&told);
    told.told_as("fault-around", told.neighbours);
    Done::Passed
}

/// Neighbours that are discarded and come back, mostly in the frames that they had, which no reading of the tables can tell.
fn fault_around_and_back() -> Done {
    const MADV_DONTNEED: u64 = 4;
    let (pages, touched) = (16, FILE_BASE + 3 * PAGE);
    let area = (FILE_BASE, pages);
    let there = |target: &Target| -> Vec<bool> {
        let is_there = |i| target.word(FILE_BASE + i * PAGE).pfn().is_some();
        (0..pages).map(is_there).collect()
    };
    let mut scene = Scene::new(&[area], |target| {
        file_with_a_table(target, pages);
        target.touch(touched);
    });
    let before = there(&scene.target);
    scene.act(|target| {
        target.must(libc::SYS_madvise, &[FILE_BASE, pages * PAGE, MADV_DONTNEED]);
        target.touch(touched);
    });
    let after = there(&scene.target);
    let told = scene.end();
    if !told.neighbours {
        return Done::Skipped("what came along is but read of, where no hook tells it".to_owned());
    }
    heard(&told);
    for (i, is_there) in (0..).zip(before.iter().zip(&after)) {
        let causes: &[&str] = match is_there {
            (true, true) => &["discard", "first-touch"],
            (true, false) => &["discard"],
            (false, true) => &["first-touch"],
            (false, false) => &[],
        };
        told.just((FILE_BASE + i * PAGE, 1), causes);
    }
    told.by("discard", told.pid).by("first-touch", told.pid);
    told.by_event("fault-around, discarded and read again");
    Done::Passed
}

/// Neighbours that go before anybody could read of them, and one that is written to first.
fn fault_around_and_gone() -> Done {
    let (pages, touched, written) = (16, 3, 4);
    let area = (FILE_BASE, pages);
    let mut scene = Scene::new(&[area], |target| file_with_a_table(target, pages));
    let there = scene.act(|target| {
        target.touch(FILE_BASE + touched * PAGE);
        let there = (0..pages).filter(|i| target.word(FILE_BASE + i * PAGE).pfn().is_some());
        let there: Vec<u64> = there.collect();
        target.fill(FILE_BASE + written * PAGE, 1);
        target.must(libc::SYS_munmap, &[FILE_BASE, pages * PAGE]);
        there
    });
    let told = scene.end();
    if !told.neighbours {
        return Done::Skipped("what came along is but read of, where no hook tells it".to_owned());
    }
    heard(&told);
    for page in 0..pages {
        let causes: &[&str] = match (there.contains(&page), page == written) {
            (true, true) => &["first-touch", "cow", "unmap"],
            (true, false) | (false, true) => &["first-touch", "unmap"],
            (false, false) => &[],
        };
        told.just((FILE_BASE + page * PAGE, 1), causes);
    }
    told.by("first-touch", told.pid);
    told.by_event("fault-around, gone");
    Done::Passed
}

fn large_folio_fault() -> Done {
    let size = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled";
    let Some(_large) = Setting::change(size, "always") else {
        return Done::Skipped("this kernel has no large folios for anonymous memory".to_owned());
    };
    let mut scene = Scene::new(&[ALL], |_| {});
    scene.act(|target| target.tell("write", 17));
    let told = scene.end();
    if told.moves.len() < 2 && told.moves.iter().all(|m| m["pages"] == 1) {
        return Done::Skipped("the kernel gave a single page".to_owned());
    }
    told.only((va(16), 16), &["first-touch"]);
    told.in_part("first touch, large folio");
    Done::Passed
}

fn populate() -> Done {
    const POPULATE_WRITE: u64 = 23;
    let mut scene = Scene::new(&[ALL], |_| {});
    let done =
        scene.act(|target| target.call(libc::SYS_madvise, &[va(4), 8 * PAGE, POPULATE_WRITE]));
    assert_eq!(done, 0);
    let told = scene.end();
    told.only((va(4), 8), &["first-touch"])
        .by("first-touch", told.pid);
    told.proven("populate");
    Done::Passed
}

fn mlock() -> Done {
    let mut scene = Scene::new(&[ALL], |_| {});
    let done = scene.act(|target| target.call(libc::SYS_mlock, &[va(4), 8 * PAGE]));
    assert_eq!(done, 0);
    let told = scene.end();
    told.only((va(4), 8), &["first-touch"])
        .by("first-touch", told.pid);
    told.proven("mlock");
    Done::Passed
}
