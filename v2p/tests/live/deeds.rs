//! The target's side: does what a test spells out, a system call at a time.

use std::{
    io::{Read as _, Write as _},
    os::fd::IntoRawFd as _,
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous},
    pipe::pipe,
    thread::{CpuSet, sched_getaffinity},
};

use v2p::{
    common::{Pfn, VirtAddr, pagemap::PagemapWord},
    process::Pagemap,
};

use crate::{
    kin,
    machine::OnCpu,
    memory::{FILE_BASE, to_node},
    target::{COUNT, PAGE, write_to},
};

/// Where a target has a page for the arguments of system calls.
pub(crate) const SCRATCH: u64 = 0x6600_0000_0000;

const MADV_DONTNEED: u64 = 4;

/// How to reach the child: orders, and what it says when one is done.
static CHILD: Mutex<Option<(std::fs::File, std::fs::File)>> = Mutex::new(None);

/// Obeys, where the command is one of these.
pub(crate) fn obey(command: &str, rest: &str) -> Option<u64> {
    let words: Vec<u64> = rest
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    Some(match (command, words.as_slice()) {
        ("call", [number, arguments @ ..]) => call(*number, arguments),
        ("scratch", words) => scratch(words),
        ("fill", [start, pages]) => {
            (0..*pages).for_each(|i| write_to(start + i * PAGE));
            1
        }
        // A page of zeros comes and goes, of 2 MiB where the kernel gives such.
        ("flicker", [start, len, times]) => {
            for _ in 0..*times {
                // SAFETY: inside a mapping of ours that lives as long as the process.
                unsafe { ptr::read_volatile(*start as *const u8) };
                call(
                    libc::SYS_madvise.cast_unsigned(),
                    &[*start, *len, MADV_DONTNEED],
                );
            }
            1
        }
        ("churn", [start, pages, times]) => {
            for _ in 0..*times {
                (0..*pages).for_each(|i| write_to(start + i * PAGE));
                let arguments = [*start, pages * PAGE, MADV_DONTNEED];
                call(libc::SYS_madvise.cast_unsigned(), &arguments);
            }
            1
        }
        ("discard", [start, pages, times]) => {
            for _ in 0..*times {
                let arguments = [*start, pages * PAGE, MADV_DONTNEED];
                call(libc::SYS_madvise.cast_unsigned(), &arguments);
            }
            1
        }
        ("shuttle", [start, seconds]) => shuttle(*start, *seconds),
        ("touch", [start]) => {
            // SAFETY: the test has mapped it.
            unsafe { ptr::read_volatile(*start as *const u8) };
            1
        }
        // SAFETY: the test has mapped it.
        ("peek", [va]) => unsafe { ptr::read_volatile(*va as *const u64) },
        ("private-file", [pages]) => private_file(*pages),
        ("shared-memory", [pages]) => shared_memory(*pages),
        ("page-out", [va]) => until_gone(*va),
        ("spin", [va, pfn, seconds]) => spin(*va, *pfn, *seconds),
        ("scuffle", [va, pages, seconds]) => scuffle(*va, *pages, *seconds),
        ("crowd", [threads, micros]) => crowd(*threads, *micros),
        ("fork", _) => fork(false),
        ("fork-twice", _) => fork(true),
        ("bury", _) => bury(),
        ("child", [va]) => have_child_write(*va),
        (command, words) => return kin::obey(command, words),
    })
}

/// So many threads that do nothing, and one that executes this program anew after so many microseconds.
fn crowd(threads: u64, micros: u64) -> u64 {
    use std::os::unix::process::CommandExt as _;
    for _ in 0..threads {
        thread::spawn(|| {
            loop {
                thread::park();
            }
        });
    }
    thread::spawn(move || {
        thread::sleep(Duration::from_micros(micros));
        let error = std::process::Command::new(std::env::current_exe().unwrap()).exec();
        panic!("exec: {error}");
    });
    threads
}

fn call(number: u64, arguments: &[u64]) -> u64 {
    let argument = |i: usize| arguments.get(i).copied().unwrap_or(0);
    let number = libc::c_long::try_from(number).unwrap();
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(argument);
    // SAFETY: the test takes care that it does nothing to memory that this program lives in.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    let result = match result {
        -1 => i64::from(-std::io::Error::last_os_error().raw_os_error().unwrap()),
        result => result,
    };
    result.cast_unsigned()
}

/// Moves the pages from node 0 to node 1 and back for so long; gives how many came where they were not before.
fn shuttle(start: u64, seconds: u64) -> u64 {
    let places: [u64; COUNT] = std::array::from_fn(|i| start + i as u64 * PAGE);
    let mut were = to_node(&places, None).expect("move_pages");
    let (mut moved, mut node) = (0, 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        node ^= 1;
        let are = to_node(&places, Some(node)).unwrap_or(were);
        for (was, is) in were.iter_mut().zip(are) {
            // A page that could not be taken just now (an error) is where it was.
            if is >= 0 {
                moved += u64::from(is != *was);
                *was = is;
            }
        }
    }
    moved
}

/// Takes pages away for so long on the first CPU, while another thread touches them on the second; in the end all are there.
/// How often they were taken.
fn scuffle(start: u64, pages: u64, seconds: u64) -> u64 {
    let done = AtomicBool::new(false);
    let touch_all = || (0..pages).for_each(|i| write_to(start + i * PAGE));
    let len = usize::try_from(pages * PAGE).unwrap();
    let mut times = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _apart = OnCpu::stay(1);
            while !done.load(Ordering::Relaxed) {
                touch_all();
            }
            touch_all();
        });
        let _apart = OnCpu::stay(0);
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            // SAFETY: pages of ours that hold nothing.
            unsafe { madvise(start as *mut _, len, Advice::LinuxDontNeed) }.unwrap();
            times += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    times
}

fn scratch(words: &[u64]) -> u64 {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: nothing else is ever there; what was there before is no longer needed.
    unsafe { mmap_anonymous(SCRATCH as *mut _, 4096, access, flags) }.unwrap();
    for (i, word) in words.iter().enumerate() {
        // SAFETY: inside the page; tests write a handful of words.
        unsafe { ptr::write_volatile((SCRATCH as *mut u64).add(i), *word) };
    }
    SCRATCH
}

/// A file that nobody else has, mapped private at its place. It has just been written: that it is clean and can be
/// dropped takes a sync.
fn private_file(pages: u64) -> u64 {
    let path = format!("/tmp/v2p-target-{}", std::process::id());
    let len = usize::try_from(pages * PAGE).unwrap();
    std::fs::write(&path, vec![1; len]).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    std::fs::remove_file(path).unwrap();
    map_file(&file, len, MapFlags::PRIVATE);
    1
}

/// Shared memory at the place for files; its descriptor stays open.
fn shared_memory(pages: u64) -> u64 {
    let file = rustix::fs::memfd_create("target", rustix::fs::MemfdFlags::empty()).unwrap();
    let file = std::fs::File::from(file);
    file.set_len(pages * PAGE).unwrap();
    map_file(
        &file,
        usize::try_from(pages * PAGE).unwrap(),
        MapFlags::SHARED,
    );
    file.into_raw_fd().try_into().unwrap()
}

fn map_file(file: &std::fs::File, len: usize, flags: MapFlags) {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = flags | MapFlags::FIXED_NOREPLACE;
    // SAFETY: a new mapping at an address that nothing has.
    unsafe { mmap(FILE_BASE as *mut _, len, access, flags, file, 0) }.unwrap();
}

fn word(va: u64) -> PagemapWord {
    let word = Pagemap::of_self().unwrap().word(VirtAddr(va));
    word.unwrap().unwrap()
}

/// From one CPU after the other: the page may be in a batch of one of them, which only this CPU's own call drains.
fn until_gone(va: u64) -> u64 {
    const MADV_PAGEOUT: u64 = 21;
    let ours = sched_getaffinity(None).unwrap();
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| ours.is_set(*cpu))
        .collect();
    let mut gone = 0;
    for cpu in cpus.iter().cycle().take(100) {
        let _here = OnCpu::stay(*cpu);
        call(libc::SYS_madvise.cast_unsigned(), &[va, PAGE, MADV_PAGEOUT]);
        if word(va).pfn().is_none() {
            gone = 1;
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    gone
}

fn spin(va: u64, pfn: u64, seconds: u64) -> u64 {
    let start = Instant::now();
    while word(va).pfn() == Some(Pfn(pfn)) && start.elapsed().as_secs() < seconds {
        (0..1_000_000).for_each(|_| write_to(va));
    }
    1
}

/// A child that writes where it is told to, until there are no more orders. It makes system calls and writes to memory only:
/// other threads are not in it. Gives its number. `twice`: it is a child of a child, which waits for it.
fn fork(twice: bool) -> u64 {
    let (orders, our_orders) = pipe().unwrap();
    let (our_news, news) = pipe().unwrap();
    // SAFETY: see above.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child != 0 {
        let mut number = child.to_ne_bytes();
        let mut our_news = std::fs::File::from(our_news);
        if twice {
            drop((orders, news));
            our_news.read_exact(&mut number).unwrap();
        }
        *CHILD.lock().unwrap() = Some((our_orders.into(), our_news));
        return u64::try_from(i32::from_ne_bytes(number)).unwrap();
    }
    drop((our_orders, our_news));
    if twice {
        // SAFETY: see above.
        let child = unsafe { libc::fork() };
        if child != 0 {
            drop(orders);
            let _ = rustix::io::write(&news, &child.to_ne_bytes());
            // SAFETY: no status is asked for; ends this process.
            unsafe {
                libc::waitpid(child, ptr::null_mut(), 0);
                libc::_exit(0)
            }
        }
    }
    let mut va = [0; 8];
    while rustix::io::read(&orders, &mut va) == Ok(8) {
        write_to(u64::from_ne_bytes(va));
        let _ = rustix::io::write(&news, &[1]);
    }
    // SAFETY: ends this process, at once.
    unsafe { libc::_exit(0) }
}

/// The child ends, since nobody orders it about any more.
fn bury() -> u64 {
    *CHILD.lock().unwrap() = None;
    // SAFETY: no status is asked for.
    u64::from(unsafe { libc::waitpid(-1, ptr::null_mut(), 0) } > 0)
}

fn have_child_write(va: u64) -> u64 {
    let mut child = CHILD.lock().unwrap();
    let (orders, news) = child.as_mut().expect("a child");
    orders.write_all(&va.to_ne_bytes()).unwrap();
    news.read_exact(&mut [0]).unwrap();
    1
}
