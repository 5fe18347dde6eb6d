//! A page that is pinned stays where it is, whatever the kernel would like to do; one that is locked only does not.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use v2p::{
    common::{PAGE_SIZE, VirtAddr},
    guard::Pin,
    inject,
    page::OwnPage,
    process::Pagemap,
    record::Verdict,
};

use super::{Scene, is_open};
use crate::{
    Done, harness,
    harness::last_json,
    machine::{self, Setting},
    trial,
};

const DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("write_to_a_pinned_page_says_so_and_lands", lands),
        trial("a_pinned_page_is_not_moved_by_move_pages", by_move_pages),
        trial("a_pinned_page_is_not_moved_by_compaction", by_compaction),
        trial("without_io_uring_it_is_not_called_pinned", without_io_uring),
    ]
}

fn pin(page: &OwnPage) -> Result<Pin, Done> {
    let one_page = usize::try_from(PAGE_SIZE).unwrap();
    Pin::new(page.va(), one_page).map_err(Done::Skipped)
}

fn frame(va: VirtAddr) -> u64 {
    Pagemap::of_self()
        .unwrap()
        .word(va)
        .unwrap()
        .unwrap()
        .pfn()
        .unwrap()
        .0
}

fn lands() -> Done {
    let page = OwnPage::new().unwrap();
    let va = page.va().0;
    let mut scene = Scene::of(std::process::id(), va..va + PAGE_SIZE);
    if let Err(why) = scene.guard.pin(VirtAddr(va), 4096) {
        return Done::Skipped(why);
    }
    let said = scene.write(va + 100, b"pinned");
    assert!(said.pinned, "{said:#?}");
    if is_open() {
        assert_eq!(said.verdict, Verdict::Landed, "{said:#?}");
        assert_eq!(page.read(100, 6), b"pinned");
    } else {
        assert_eq!(said.verdict, Verdict::Denied, "{said:#?}");
        assert_eq!(page.read(100, 6), [0; 6]);
    }
    scene.guard.unpin();
    assert!(!scene.write(va + 100, b"pinned").pinned);
    Done::Passed
}

/// move_pages(2) of one page to `node`; gives the page's status: the node that it is on, or an error.
fn move_to(va: VirtAddr, node: libc::c_int) -> libc::c_int {
    const MPOL_MF_MOVE: libc::c_int = 1 << 1;
    let (pages, nodes, mut status) = ([va.0], [node], [-1]);
    // SAFETY: arrays of one element each, as the count says.
    let r = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            1usize,
            pages.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    assert!(r >= 0, "{}", std::io::Error::last_os_error());
    status[0]
}

fn by_move_pages() -> Done {
    if machine::two_nodes().is_err() {
        return Done::Skipped("there is one node".to_owned());
    }
    let (pinned, locked) = (OwnPage::new().unwrap(), OwnPage::new().unwrap());
    let held = match pin(&pinned) {
        Ok(pin) => pin,
        Err(skipped) => return skipped,
    };
    let before = [&pinned, &locked].map(|page| frame(page.va()));
    let mut moved = false;
    for node in [0, 1] {
        for page in [&pinned, &locked] {
            move_to(page.va(), node);
        }
        assert_eq!(frame(pinned.va()), before[0]);
        moved |= frame(locked.va()) != before[1];
    }
    assert!(moved, "one of the nodes was another one");
    // The same page, let go: else the test could not fail. The kernel takes the ring down on the side.
    drop(held);
    let start = Instant::now();
    let moves = |node| {
        move_to(pinned.va(), node);
        frame(pinned.va()) != before[0]
    };
    while ![0, 1].map(moves).contains(&true) {
        assert!(start.elapsed() < harness::PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    Done::Passed
}

fn by_compaction() -> Done {
    if let Err(why) = machine::only_in_guests("compacts all memory again and again") {
        return Done::Skipped(why);
    }
    let (page, _ballast) = inject::page_to_move().unwrap();
    let held = match pin(&page) {
        Ok(pin) => pin,
        Err(skipped) => return skipped,
    };
    let before = frame(page.va());
    for _ in 0..3 {
        fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
        assert_eq!(frame(page.va()), before);
    }
    drop(held);
    // The same page, let go: else the test could not fail.
    match inject::move_by_compaction(std::process::id(), page.va()) {
        Ok(()) => Done::Passed,
        Err(e) => Done::Skipped(e.to_string()),
    }
}

fn without_io_uring() -> Done {
    if let Err(why) = machine::only_in_guests("takes io_uring away from all") {
        return Done::Skipped(why);
    }
    let Some(_disabled) = Setting::change(DISABLED, "2") else {
        return Done::Skipped("this kernel cannot turn io_uring off".to_owned());
    };
    let demo = last_json(&harness::run(&["demo", "--json"]));
    assert_eq!(demo["write"]["pinned"], false, "{demo:#}");
    let why = demo["write"]["not_pinned"].as_str().unwrap();
    assert!(why.contains("kernel.io_uring_disabled is 2"), "{why}");
    Done::Passed
}
