//! A fault that ends badly: nothing is told of it, and what it found must not speak for a later one.

use std::{fs::File, os::fd::AsRawFd as _};

use libtest_mimic::Trial;

use crate::{
    Done,
    harness::address,
    memory::FILE_BASE,
    target::{PAGE, Target},
    trial,
    watch::watch,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "a_fault_that_ends_badly_says_nothing_of_the_next",
        refused_then_punched,
    )]
}

/// The kernel is refused a write to a page that is there. Then somebody else takes that page out of its file, and another comes in its
/// place: which is no copy, though where functions are not hooked nothing has told that the first one went.
fn refused_then_punched() -> Done {
    for more in [&[][..], &["--faults"]] {
        let mut target = Target::start();
        let file = target.shared_memory(2);
        target.fill(FILE_BASE, 2);
        let path = format!("/proc/{}/fd/{file}", target.pid());
        let file = File::options().read(true).write(true).open(path).unwrap();
        // What the program does for the first time has faults of its own.
        replace(&mut target, &file, 1);
        let old = target.word(FILE_BASE).pfn().unwrap().0;
        let watching = watch(&target, more);
        replace(&mut target, &file, 0);
        let new = target.word(FILE_BASE).pfn().unwrap().0;
        let (records, status) = watching.interrupt();
        assert!(status.success());
        let of_the_page = records
            .iter()
            .filter(|r| r["type"] == "move" && address(&r["va"]) == FILE_BASE);
        let told: Vec<_> = of_the_page.collect();
        let (first, last) = (told[0], told[told.len() - 1]);
        assert_eq!(first["from"]["pfn"], old, "{told:?}");
        assert_eq!(last["to"]["pfn"], new, "{told:?}");
        assert!(told.iter().all(|r| r["cause"] != "cow"), "{told:?}");
        // What says so where no function is hooked.
        let hooks = records[0]["hooks"].as_array().unwrap();
        let has = |name: &str| hooks.iter().any(|hook| hook == name);
        let by = match more {
            [] => "page-faults",
            _ => "page_fault_user",
        };
        assert!(has("try_to_unmap_one") || has(by), "{}", records[0]);
    }
    Done::Passed
}

/// Has page `page` of the file replaced by a new one, after a write to it that is refused.
fn replace(target: &mut Target, file: &File, page: u64) {
    let at = FILE_BASE + page * PAGE;
    let may = |bits: i32| u64::try_from(bits).unwrap();
    let (read, all) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    target.must(libc::SYS_mprotect, &[at, PAGE, may(read)]);
    let refused = target.call(libc::SYS_getrandom, &[at, 8, 0]);
    assert_eq!(refused, -i64::from(libc::EFAULT));
    target.must(libc::SYS_mprotect, &[at, PAGE, may(all)]);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (offset, len) = ((page * PAGE).cast_signed(), PAGE.cast_signed());
    // The pipe holds the old frame, or it would be the first to be given out again.
    let (_out, into) = rustix::pipe::pipe().unwrap();
    let flags = rustix::pipe::SpliceFlags::empty();
    let (mut from, page_len) = (page * PAGE, usize::try_from(PAGE).unwrap());
    rustix::pipe::splice(file, Some(&mut from), &into, None, page_len, flags).unwrap();
    // SAFETY: an open file.
    let punched = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) };
    assert_eq!(punched, 0, "{}", std::io::Error::last_os_error());
    target.fill(at, 1);
}
