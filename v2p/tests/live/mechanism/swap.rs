//! Swap-out and swap-in.

use std::{ffi::CString, thread, time::Duration};

use libtest_mimic::Trial;

use super::{scene::Scene, tid};
use crate::{
    Done,
    machine::swap_on_zram,
    target::{BASE, PAGES, Target, va},
    trial,
};

const ALL: (u64, u64) = (BASE, PAGES);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_swap_out", swap_out),
        trial("mechanism_swap_in", swap_in),
        trial("mechanism_swap_in_from_the_cache", swap_in_from_the_cache),
        trial("mechanism_swap_out_and_in_at_once", out_and_in),
        trial("mechanism_swapoff", swapoff),
    ]
}

fn written(target: &mut Target) {
    target.fill(BASE, 8);
}

fn swap_out() -> Done {
    if let Err(reason) = swap_on_zram() {
        return Done::Skipped(reason);
    }
    let mut scene = Scene::new(&[ALL], written);
    scene.act(|target| target.must_page_out(va(4)));
    thread::sleep(Duration::from_millis(100));
    let told = scene.end();
    told.only((va(4), 1), &["swap-out"])
        .by("swap-out", told.pid);
    told.proven("swap-out");
    Done::Passed
}

fn swap_in() -> Done {
    if let Err(reason) = swap_on_zram() {
        return Done::Skipped(reason);
    }
    let mut scene = Scene::showing_faults(&[ALL], |target| {
        written(target);
        target.must_page_out(va(4));
    });
    scene.act(|target| target.tell("write", 4));
    let told = scene.end();
    told.only((va(4), 1), &["swap-in"]).by("swap-in", told.pid);
    told.one_fault(va(4), true);
    told.by_event("swap-in");
    Done::Passed
}

/// The child, which has the same page in swap, brings it into memory; the parent finds it there.
fn swap_in_from_the_cache() -> Done {
    if let Err(reason) = swap_on_zram() {
        return Done::Skipped(reason);
    }
    let mut scene = Scene::showing_faults(&[ALL], |target| {
        written(target);
        target.must_page_out(va(4));
        target.fork();
    });
    scene.act(|target| target.have_child_write(va(4)));
    scene.act(|target| target.touch(va(4)));
    let told = scene.end();
    told.only((va(4), 1), &["swap-in"]).by("swap-in", told.pid);
    told.one_fault(va(4), false);
    told.by_event("swap-in, from the swap cache");
    Done::Passed
}

fn out_and_in() -> Done {
    if let Err(reason) = swap_on_zram() {
        return Done::Skipped(reason);
    }
    let mut scene = Scene::new(&[ALL], written);
    scene.act(|target| {
        target.must_page_out(va(4));
        target.tell("write", 4);
    });
    let told = scene.end();
    if told.functions {
        told.only((va(4), 1), &["swap-out", "swap-in"]);
    }
    told.proven("swap-out and in at once");
    Done::Passed
}

fn swapoff() -> Done {
    if let Err(reason) = swap_on_zram() {
        return Done::Skipped(reason);
    }
    let scene = Scene::new(&[ALL], |target| {
        written(target);
        target.must_page_out(va(4));
    });
    let path = CString::new("/dev/zram0").unwrap();
    // SAFETY: a path that ends in NUL.
    let off = unsafe { libc::swapoff(path.as_ptr()) };
    assert_eq!(off, 0, "{}", std::io::Error::last_os_error());
    let told = scene.end();
    // SAFETY: as above; the device has its header still.
    let on = unsafe { libc::swapon(path.as_ptr(), 0) };
    assert_eq!(on, 0, "{}", std::io::Error::last_os_error());
    told.only((va(4), 1), &["swap-in"]).by("swap-in", tid());
    told.proven("swapoff");
    Done::Passed
}
