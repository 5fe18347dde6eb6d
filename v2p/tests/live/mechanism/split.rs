//! Huge pages that are taken apart.

use std::{fs, io};

use libtest_mimic::Trial;
use v2p::{
    common::Pfn,
    process::{FrameFlags, frame_flags},
};

use super::{
    huge::{AREA, MADV_COLLAPSE, MADV_NOHUGEPAGE, thp},
    scene::{Scene, Told},
};
use crate::{
    Again, Done,
    machine::debugfs,
    memory::{FILE_BASE, HUGE, HUGE_BASE},
    target::{PAGE, Target},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_huge_page_split_is_no_move", split_is_no_move),
        trial("mechanism_folio_split_is_no_move", folio_split_is_no_move),
        trial(
            "mechanism_folio_split_to_the_zero_page",
            folio_split_to_the_zero_page,
        ),
        trial("mechanism_split_of_shared_memory", split_of_shared_memory),
    ]
}

fn split_is_no_move() -> Done {
    if let Err(skipped) = thp() {
        return skipped;
    }
    let mut given = u64::MAX;
    let mut scene = Scene::new(&[AREA], |target| given = given.min(target.tell("thp", 0)));
    if given == 0 {
        return Done::Skipped("the kernel gave no huge page".to_owned());
    }
    scene.act(|target| target.must(libc::SYS_mprotect, &[HUGE_BASE, PAGE, 1]));
    let told = scene.end();
    told.none().by_event("huge page split");
    Done::Passed
}

/// A huge page whose folio the kernel took apart on demand: the frame that it began with, and what was told.
fn split_folio(prepare: impl Fn(&mut Target)) -> Result<(Pfn, Vec<Option<Pfn>>, Told), Done> {
    thp()?;
    let file = debugfs("split_huge_pages").map_err(Done::Skipped)?;
    let mut given = u64::MAX;
    let scene = Scene::new(&[AREA], |target| {
        given = given.min(target.tell("thp", 0));
        prepare(target);
        // Or khugepaged might put it together again.
        target.must(libc::SYS_madvise, &[HUGE_BASE, HUGE, MADV_NOHUGEPAGE]);
    });
    if given == 0 {
        return Err(Done::Skipped("the kernel gave no huge page".to_owned()));
    }
    let first = scene.target.word(HUGE_BASE).pfn().unwrap();
    let is_whole = || frame_flags(first).unwrap().has(FrameFlags::THP);
    assert!(is_whole(), "{first}");
    let (pid, end) = (scene.target.pid(), HUGE_BASE + HUGE);
    match fs::write(&file, format!("{pid},{HUGE_BASE:#x},{end:#x}")) {
        // Under lockdown nobody writes to debugfs.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Done::Skipped(format!("{}: {e}", file.display())));
        }
        written => written.unwrap(),
    }
    if is_whole() {
        std::panic::panic_any(Again("somebody else held the huge page".to_owned()));
    }
    let frames = (0..512).map(|i| scene.target.word(HUGE_BASE + i * PAGE).pfn());
    let frames = frames.collect();
    Ok((first, frames, scene.end()))
}

/// Other than where one entry of a table becomes many: every page is unmapped and mapped again, by the hooks that tell of a migration.
fn folio_split_is_no_move() -> Done {
    let (first, frames, told) = match split_folio(|target| target.fill(HUGE_BASE, 512)) {
        Ok(found) => found,
        Err(skipped) => return skipped,
    };
    let as_before = (first.0..)
        .zip(&frames)
        .all(|(pfn, frame)| *frame == Some(Pfn(pfn)));
    assert!(as_before, "{frames:?}");
    told.none().by_event("folio split");
    Done::Passed
}

/// Of a huge page that is split, what has nothing but zeros is replaced by the zero page from 6.12 on, of which no event tells
/// (try_to_map_unused_to_zeropage, mm/migrate.c).
fn folio_split_to_the_zero_page() -> Done {
    let (first, frames, told) = match split_folio(|_| {}) {
        Ok(found) => found,
        Err(skipped) => return skipped,
    };
    assert_eq!(frames.first(), Some(&Some(first)), "it has been written");
    let rest = (HUGE_BASE + PAGE, 511);
    if frames.get(1) == Some(&Some(Pfn(first.0 + 1))) {
        told.none();
        return Done::Skipped("this kernel keeps what is zero".to_owned());
    }
    told.only(rest, &["unknown"]);
    assert!(
        told.moves.iter().all(|m| m["to"]["state"] == "zero"),
        "{:#?}",
        told.moves
    );
    told.in_part("folio split to the zero page");
    Done::Passed
}

/// A hole in the middle of a file's huge page: the pages beside it are taken out too, and stay in the page cache. Nobody
/// reclaimed them.
fn split_of_shared_memory() -> Done {
    const PUNCH_HOLE_KEEP_SIZE: u64 = 2 | 1;
    const HOLE: std::ops::Range<u64> = 128..144;
    if let Err(skipped) = thp() {
        return skipped;
    }
    let (area, mut file, mut done) = ((FILE_BASE, 512), 0, 0);
    let mut scene = Scene::new(&[area], |target| {
        file = target.shared_memory(512);
        target.fill(FILE_BASE, 512);
        let one = target.call(libc::SYS_madvise, &[FILE_BASE, HUGE, MADV_COLLAPSE]);
        done = if done == 0 { one } else { done };
    });
    if done != 0 {
        return Done::Skipped(format!(
            "madvise(MADV_COLLAPSE) of shared memory: error {}",
            -done
        ));
    }
    let hole = (HOLE.start * PAGE, (HOLE.end - HOLE.start) * PAGE);
    scene.act(|target| {
        target.must(
            libc::SYS_fallocate,
            &[file, PUNCH_HOLE_KEEP_SIZE, hole.0, hole.1],
        )
    });
    let told = scene.end();
    for page in 0..512 {
        let causes = told.causes_of(FILE_BASE + page * PAGE);
        let is_right = match causes {
            [one] => one == "unknown" || HOLE.contains(&page) && one == "discard",
            _ => false,
        };
        assert!(is_right, "{page}: {causes:?}");
    }
    told.proven("split of shared memory");
    Done::Passed
}
