//! Pages that go: discarded, unmapped, moved to another address; and the ends of an address space.

use libtest_mimic::Trial;

use super::scene::{Scene, Told};
use crate::{
    Done,
    memory::FILE_BASE,
    target::{BASE, PAGE, PAGES, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);
/// Where pages go that are remapped.
const ELSEWHERE: u64 = 0x6700_0000_0000;
const MAP_PRIVATE_ANONYMOUS_FIXED: u64 = 0x2 | 0x20 | 0x10;
const MREMAP_MAYMOVE_FIXED: u64 = 3;
const MREMAP_DONTUNMAP: u64 = 4;
const MADV_DONTNEED: u64 = 4;
const MADV_FREE: u64 = 8;
const MADV_DONTNEED_LOCKED: u64 = 24;
const FALLOC_PUNCH_HOLE_KEEP_SIZE: u64 = 3;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_madv_dontneed", madv_dontneed),
        trial(
            "mechanism_discarded_and_touched_again",
            discarded_and_touched_again,
        ),
        trial("mechanism_madv_dontneed_locked", madv_dontneed_locked),
        trial("mechanism_madv_free_and_reclaim", madv_free),
        trial("mechanism_munmap", munmap),
        trial("mechanism_mmap_over_it", mmap_over_it),
        trial("mechanism_mremap", mremap),
        trial("mechanism_mremap_dontunmap", mremap_dontunmap),
        trial("mechanism_truncate", truncate),
        trial("mechanism_hole_punched", hole_punched),
        trial("mechanism_file_page_reclaimed", file_page_reclaimed),
        trial("mechanism_fork_is_no_move", fork_is_no_move),
        trial("mechanism_exec", exec),
        trial("mechanism_exit", exit),
    ]
}

fn written(pages: u64) -> Scene {
    Scene::new(&[ALL], |target| target.fill(BASE, pages))
}

fn madv_dontneed() -> Done {
    let mut scene = written(16);
    scene.act(|target| target.must(libc::SYS_madvise, &[va(4), 8 * PAGE, MADV_DONTNEED]));
    let told = scene.end();
    told.only((va(4), 8), &["discard"]).by("discard", told.pid);
    told.by_event("MADV_DONTNEED");
    Done::Passed
}

fn discarded_and_touched_again() -> Done {
    came_back(written(16));
    came_back(Scene::showing_faults(&[ALL], |target| {
        target.fill(BASE, 16)
    }));
    Done::Passed
}

fn came_back(mut scene: Scene) {
    scene.act(|target| {
        target.must(libc::SYS_madvise, &[va(4), 4 * PAGE, MADV_DONTNEED]);
        target.fill(va(4), 4);
        // At once, some come back in the frames that they had.
        target.churn(va(8), 7, 5);
    });
    let told = scene.end();
    let (goes, comes) = ("discard", "first-touch");
    let times = [goes, comes, goes, comes, goes, comes, goes, comes, goes];
    told.just((va(4), 4), &[goes, comes])
        .just((va(8), 7), &times)
        .by(goes, told.pid);
    told.by_event("MADV_DONTNEED and touched again");
}

fn madv_dontneed_locked() -> Done {
    let mut scene = Scene::new(&[ALL], |target| {
        target.must(libc::SYS_mlock, &[va(4), 4 * PAGE]);
    });
    scene.act(|target| target.must(libc::SYS_madvise, &[va(4), 4 * PAGE, MADV_DONTNEED_LOCKED]));
    let told = scene.end();
    told.only((va(4), 4), &["discard"]).by("discard", told.pid);
    told.by_event("MADV_DONTNEED_LOCKED");
    Done::Passed
}

fn madv_free() -> Done {
    let mut scene = written(8);
    scene.act(|target| {
        target.must(libc::SYS_madvise, &[va(4), PAGE, MADV_FREE]);
        target.page_out(va(4))
    });
    let told = scene.end();
    if told.causes_of(va(4)).is_empty() {
        return Done::Skipped("the kernel kept the page".to_owned());
    }
    let cause = if told.functions { "discard" } else { "unknown" };
    told.only((va(4), 1), &[cause]).by("discard", told.pid);
    told.proven("MADV_FREE and reclaim");
    Done::Passed
}

fn munmap() -> Done {
    let mut scene = written(16);
    scene.act(|target| target.must(libc::SYS_munmap, &[va(4), 8 * PAGE]));
    let told = scene.end();
    told.only((va(4), 8), &["unmap"]).by("unmap", told.pid);
    told.by_event("munmap");
    Done::Passed
}

fn mmap_over_it() -> Done {
    let mut scene = written(16);
    let arguments = [va(4), 4 * PAGE, 3, MAP_PRIVATE_ANONYMOUS_FIXED, u64::MAX, 0];
    scene.act(|target| target.must(libc::SYS_mmap, &arguments));
    let told = scene.end();
    told.only((va(4), 4), &["unmap"]).by("unmap", told.pid);
    told.by_event("MAP_FIXED over it");
    Done::Passed
}

fn mremap() -> Done {
    remapped(MREMAP_MAYMOVE_FIXED).by_event("mremap");
    Done::Passed
}

/// The pages go, and their addresses stay mapped.
fn mremap_dontunmap() -> Done {
    let told = remapped(MREMAP_MAYMOVE_FIXED | MREMAP_DONTUNMAP);
    told.by_event("MREMAP_DONTUNMAP");
    Done::Passed
}

fn remapped(flags: u64) -> Told {
    let there = (ELSEWHERE, 4);
    let mut scene = Scene::new(&[ALL, there], |target| target.fill(BASE, 16));
    let arguments = [va(4), 4 * PAGE, 4 * PAGE, flags, ELSEWHERE];
    scene.act(|target| target.must(libc::SYS_mremap, &arguments));
    let told = scene.end();
    told.just((va(4), 4), &["remap"])
        .just(there, &["remap"])
        .by("remap", told.pid);
    assert_eq!(
        told.moves.iter().filter(|m| m["cause"] != "remap").count(),
        0
    );
    told
}

fn truncate() -> Done {
    let area = (FILE_BASE, 4);
    let mut file = 0;
    let mut scene = Scene::new(&[area], |target| {
        file = target.shared_memory(4);
        target.fill(FILE_BASE, 4);
    });
    scene.act(|target| target.must(libc::SYS_ftruncate, &[file, PAGE]));
    let told = scene.end();
    told.only(
        (FILE_BASE + PAGE, 3),
        if told.functions {
            &["discard"]
        } else {
            &["unknown"]
        },
    )
    .by("discard", told.pid);
    told.proven("truncation");
    Done::Passed
}

fn hole_punched() -> Done {
    let area = (FILE_BASE, 4);
    let mut file = 0;
    let mut scene = Scene::new(&[area], |target| {
        file = target.shared_memory(4);
        target.fill(FILE_BASE, 4);
    });
    let arguments = [file, FALLOC_PUNCH_HOLE_KEEP_SIZE, PAGE, 2 * PAGE];
    scene.act(|target| target.must(libc::SYS_fallocate, &arguments));
    let told = scene.end();
    told.only(
        (FILE_BASE + PAGE, 2),
        if told.functions {
            &["discard"]
        } else {
            &["unknown"]
        },
    )
    .by("discard", told.pid);
    told.proven("hole punching");
    Done::Passed
}

fn file_page_reclaimed() -> Done {
    let mut scene = Scene::new(&[(FILE_BASE, 1)], |target| {
        target.private_file(1);
        target.touch(FILE_BASE);
    });
    scene.act(|target| target.page_out(FILE_BASE));
    let told = scene.end();
    if told.causes_of(FILE_BASE).is_empty() {
        return Done::Skipped("the file system of this machine keeps its pages".to_owned());
    }
    let cause = if told.functions { "reclaim" } else { "unknown" };
    told.only((FILE_BASE, 1), &[cause]).by("reclaim", told.pid);
    told.proven("file page reclaimed");
    Done::Passed
}

fn fork_is_no_move() -> Done {
    let mut scene = written(8);
    scene.act(|target| target.fork());
    let told = scene.end();
    told.none().by_event("fork");
    Done::Passed
}

fn exec() -> Done {
    let mut scene = written(8);
    scene.act(|target| target.execute());
    let told = scene.end();
    // The program that it executes is a target again, which has the same mapping, and has touched nothing of it.
    told.only((BASE, 8), &["exec"]).by("exec", told.pid);
    told.by_event("exec");
    Done::Passed
}

fn exit() -> Done {
    let scene = written(8);
    let told = scene.end_with_target();
    told.only((BASE, 8), &["exit"]);
    told.by_event("exit");
    Done::Passed
}
