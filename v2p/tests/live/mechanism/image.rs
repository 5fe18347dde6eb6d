//! What is done to a program's image: its stack's way to its place at exec, and a breakpoint put into its text.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs, io,
    os::fd::{FromRawFd as _, OwnedFd},
};

use libtest_mimic::Trial;
use v2p::{
    common::{VirtAddr, pagemap::PagemapState},
    process::{Pagemap, maps},
};

use super::{scene::Scene, tid};
use crate::{
    Done,
    harness::{Watching, address},
    memory::FILE_BASE,
    target::{PAGE, Target},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mechanism_exec_stack", exec_stack),
        trial("mechanism_uprobe", uprobe),
        trial("mechanism_uprobe_taken_off", uprobe_off),
    ]
}

/// The kernel puts a new program's arguments into a stack at one place and moves it to another, both before the address space is the
/// process's own (setup_arg_pages, fs/exec.c): the pages are the executed program's where they come to lie.
fn exec_stack() -> Done {
    let mut target = Target::start();
    let watching = Watching::start(&["--pid", &target.pid().to_string()]);
    target.execute();
    // After "ready" it touches its stack once more, to wait for an order; and all that counts is what was so while it was watched.
    target.tell("read", 0);
    let mappings = maps::mappings(target.pid()).unwrap();
    let stack = mappings.iter().find(|m| m.name == "[stack]").unwrap();
    let mut words = Vec::new();
    let (start, end) = (VirtAddr(stack.start), VirtAddr(stack.end));
    let pagemap = Pagemap::of(target.pid()).unwrap();
    assert!(
        pagemap
            .words(start, end, |va, word| words.push((va, word)))
            .unwrap()
    );
    let (records, _) = watching.interrupt();
    let at_exec = records.iter().filter(|r| r["type"] == "move");
    let mut told: BTreeMap<u64, (Vec<&str>, u64)> = BTreeMap::new();
    let mut proofs = BTreeSet::new();
    for one in at_exec {
        for i in 0..one["pages"].as_u64().unwrap() {
            let va = address(&one["va"]) + i * PAGE;
            if (stack.start..stack.end).contains(&va) && one["to"]["pfn"].is_u64() {
                let page = told.entry(va).or_default();
                proofs.insert(one["proof"].as_str().unwrap());
                page.0.push(one["cause"].as_str().unwrap());
                page.1 = one["to"]["pfn"].as_u64().unwrap() + i;
            }
        }
    }
    let mut present = 0;
    for (va, word) in words {
        if let PagemapState::Present(pfn) = word.state() {
            present += 1;
            let (causes, last) = told.get(&va.0).unwrap_or_else(|| panic!("{:#x}", va.0));
            assert_eq!(*last, pfn.0, "{:#x}", va.0);
            assert!(matches!(causes[0], "exec" | "first-touch"), "{causes:?}");
        }
    }
    assert!(present > 0);
    assert!(
        told.values().any(|(causes, _)| causes[0] == "exec"),
        "{told:?}"
    );
    let proofs: Vec<_> = proofs.into_iter().collect();
    println!("matrix: exec, its stack: {}", proofs.join(", "));
    Done::Passed
}

/// Never called: the place of a breakpoint.
#[inline(never)]
extern "C" fn probed(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

/// Where [`probed`] lies in the file of this program.
fn offset_of_probed() -> u64 {
    let place = probed as *const () as u64;
    let text = fs::read_to_string("/proc/self/maps").unwrap();
    let number = |word: &str| u64::from_str_radix(word, 16).unwrap();
    text.lines()
        .find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (start, end) = words[0].split_once('-').unwrap();
            let inside = (number(start)..number(end)).contains(&place);
            inside.then(|| place - number(start) + number(words[2]))
        })
        .unwrap()
}

/// A breakpoint in the program of `pid`, as long as the descriptor is open (perf_event_open(2), its dynamic PMU `uprobe`).
fn breakpoint(pid: u32, path: &str, offset: u64) -> io::Result<OwnedFd> {
    /// `struct perf_event_attr` of include/uapi/linux/perf_event.h, up to `config2` (its second published size).
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        size: u32,
        config: u64,
        sample_period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup: u32,
        bp_type: u32,
        path: u64,
        offset: u64,
    }
    let kind = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")?;
    let path = CString::new(path).unwrap();
    let attr = Attr {
        kind: kind.trim().parse().unwrap(),
        size: u32::try_from(size_of::<Attr>()).unwrap(),
        path: path.as_ptr() as u64,
        offset,
        ..Attr::default()
    };
    // SAFETY: an attribute of the size that it says, and a path that ends in NUL.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            i32::try_from(pid).unwrap(),
            -1,
            -1,
            8u64, // PERF_FLAG_FD_CLOEXEC of include/uapi/linux/perf_event.h: else the watch would hold it too.
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) })
}

/// Maps the page of this program that holds [`probed`] into `target`, at [`FILE_BASE`], and touches it.
fn map_probed(target: &mut Target, program: &str, offset: u64) {
    const PRIVATE_FIXED: u64 = 0x2 | 0x10;
    const READ_EXECUTE: u64 = 1 | 4;
    let fd = target.open(program);
    let page = offset / PAGE * PAGE;
    let arguments = [FILE_BASE, PAGE, READ_EXECUTE, PRIVATE_FIXED, fd, page];
    target.must(libc::SYS_mmap, &arguments);
    target.touch(FILE_BASE);
}

/// The path of this program.
fn this_program() -> String {
    let program = std::env::current_exe().unwrap();
    program.into_os_string().into_string().unwrap()
}

fn uprobe() -> Done {
    let (program, offset) = (this_program(), offset_of_probed());
    let scene = Scene::new(&[(FILE_BASE, 1)], |target| {
        map_probed(target, &program, offset);
    });
    let before = scene.target.word(FILE_BASE);
    let _probe = match breakpoint(scene.target.pid(), &program, offset) {
        Ok(probe) => probe,
        Err(e) => return Done::Skipped(format!("a breakpoint in a program: {e}")),
    };
    assert_ne!(scene.target.word(FILE_BASE), before, "the page is a copy");
    let told = scene.end();
    if told.functions {
        told.only((FILE_BASE, 1), &["cow"]).by("cow", tid());
    } else {
        told.only((FILE_BASE, 1), &["unknown"]);
    }
    told.proven("uprobe");
    Done::Passed
}

/// The copy may go with the last breakpoint in it; then the next touch brings the file's page back.
fn uprobe_off() -> Done {
    let (program, offset) = (this_program(), offset_of_probed());
    let mut probes = Vec::new();
    let mut scene = Scene::new(&[(FILE_BASE, 1)], |target| {
        map_probed(target, &program, offset);
        probes.push(breakpoint(target.pid(), &program, offset));
    });
    if let Some(Err(e)) = probes.iter().find(|probe| probe.is_err()) {
        return Done::Skipped(format!("a breakpoint in a program: {e}"));
    }
    let copy = scene.target.word(FILE_BASE);
    drop(probes);
    let left = scene.target.word(FILE_BASE);
    scene.target.touch(FILE_BASE);
    let told = scene.end();
    if left == copy {
        told.none();
        return Done::Skipped("this kernel leaves the copy where it is".to_owned());
    }
    if told.functions {
        // Who looks for a breakpoint once more, or the touch, brings the file's page.
        told.only((FILE_BASE, 1), &["discard", "first-touch"]);
    }
    told.proven("uprobe taken off");
    Done::Passed
}
