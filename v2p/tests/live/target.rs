//! A process to be watched: does to its memory what it is told, and tells the truth about it from its own
//! pagemap.

use std::{
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    ptr,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use v2p::{
    common::{VirtAddr, pagemap::PagemapState},
    inject,
    process::Pagemap,
};

/// Set: this program is a target.
pub(crate) const KIND: &str = "V2P_LIVE_TARGET";
/// Where every target has its pages, so that two of them have them at the same addresses.
pub(crate) const BASE: u64 = 0x6000_0000_0000;
/// Where it has a huge page, once it was told to.
pub(crate) const HUGE_BASE: u64 = 0x6100_0000_0000;
/// 6.13 and later (include/uapi/asm-generic/mman-common.h).
const MADV_GUARD_INSTALL: libc::c_int = 102;
const MADV_HWPOISON: libc::c_int = 100;
const MADV_PAGEOUT: libc::c_int = 21;
/// How many it has.
pub(crate) const PAGES: u64 = 64;
const PAGE: u64 = 4096;

/// The address of page `i`.
pub(crate) fn va(i: u64) -> u64 {
    BASE + i * PAGE
}

/// The target's side: obeys lines on stdin until there are no more.
pub(crate) fn run(_kind: &OsStr) {
    let len = usize::try_from(PAGES * PAGE).unwrap();
    // SAFETY: a new mapping at an address that nothing has (NOREPLACE says so, or fails).
    let start = unsafe {
        mmap_anonymous(
            BASE as *mut _,
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE,
        )
    }
    .expect("mmap at the targets' address");
    assert_eq!(start as u64, BASE);
    // The clock is read from [vvar], which is mapped at the first use.
    let _ = std::time::Instant::now();
    let (worker, done) = start_worker();
    say("ready");
    for line in io::stdin().lines().map_while(Result::ok) {
        let (command, i) = line.split_once(' ').expect("COMMAND PAGE");
        let i: u64 = i.parse().expect("a page number");
        let place = va(i) as *mut u8;
        let mut answer = None;
        match command {
            // SAFETY: inside our mapping.
            "read" => _ = unsafe { ptr::read_volatile(place) },
            // SAFETY: inside our mapping.
            "write" => unsafe { ptr::write_volatile(place, 1) },
            "place" => place_movable(place),
            "thread" => in_a_new_thread(place),
            "worker" => {
                worker.send(va(i)).expect("the worker lives");
                done.recv().expect("the worker lives");
            }
            "guard" => answer = Some(advise(place, MADV_GUARD_INSTALL)),
            "poison" => answer = Some(advise(place, MADV_HWPOISON)),
            "pageout" => answer = Some(page_out(place)),
            "thp" => answer = Some(map_huge(MapFlags::PRIVATE)),
            "hugetlb" => answer = Some(map_huge(MapFlags::PRIVATE | MapFlags::HUGETLB)),
            "reserve" => answer = Some(reserve(i)),
            other => panic!("{other:?}?"),
        }
        if let Some(answer) = answer {
            say(&answer.to_string());
            continue;
        }
        say(&pfn(&Pagemap::of_self().unwrap(), i).to_string());
    }
}

/// 1: the kernel took the advice.
fn advise(place: *mut u8, advice: libc::c_int) -> u64 {
    // SAFETY: a page of the targets' mapping, which is not touched afterwards.
    u64::from(unsafe { libc::madvise(place.cast(), 4096, advice) } == 0)
}

/// 1: the page went out to swap.
fn page_out(place: *mut u8) -> u64 {
    let pagemap = Pagemap::of_self().unwrap();
    let page = VirtAddr(place as u64);
    for _ in 0..100 {
        // A page that was just written may still be in a batch of another CPU, which only this drains
        // (lru_add_drain_all in sysctl_compaction_handler, mm/compaction.c).
        let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
        advise(place, MADV_PAGEOUT);
        let word = pagemap.word(page).unwrap().unwrap();
        if matches!(word.state(), PagemapState::SwapEntry { .. }) {
            return 1;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    0
}

/// 1: there is a huge page at its place.
fn map_huge(flags: MapFlags) -> u64 {
    let (len, access) = (2 << 20, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping at an address that nothing has.
    let mapped = unsafe {
        mmap_anonymous(
            HUGE_BASE as *mut _,
            len,
            access,
            flags | MapFlags::FIXED_NOREPLACE,
        )
    };
    let Ok(start) = mapped else { return 0 };
    // SAFETY: our own mapping. For hugetlb it is an error that does not matter.
    let _ = unsafe { rustix::mm::madvise(start, len, rustix::mm::Advice::LinuxHugepage) };
    write_to(HUGE_BASE);
    // All of it is there after the first touch.
    let last = VirtAddr(HUGE_BASE + (len as u64) - 4096);
    let word = Pagemap::of_self().unwrap().word(last).unwrap().unwrap();
    u64::from(word.pfn().is_some())
}

/// Reserves a TiB and writes `pages` pages all over it; gives its address.
fn reserve(pages: u64) -> u64 {
    const LEN: u64 = 1 << 40;
    let (len, access) = (
        usize::try_from(LEN).unwrap(),
        ProtFlags::READ | ProtFlags::WRITE,
    );
    // SAFETY: a new mapping touches nothing that exists.
    let mapped = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            len,
            access,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    };
    let start = mapped.expect("a TiB of addresses");
    // SAFETY: our own mapping; huge pages would be more than are counted.
    let _ = unsafe { rustix::mm::madvise(start, len, rustix::mm::Advice::LinuxNoHugepage) };
    (0..pages).for_each(|i| write_to(start as u64 + i * (LEN / pages) / 4096 * 4096));
    start as u64
}

fn write_to(address: u64) {
    // SAFETY: inside a mapping of ours that lives as long as the process.
    unsafe { ptr::write_volatile(address as *mut u8, 1) };
}

fn in_a_new_thread(place: *mut u8) {
    let address = place as u64;
    thread::spawn(move || write_to(address))
        .join()
        .expect("a thread writes");
}

/// A thread that is there before any watch begins: writes to the addresses that it is sent, and says so.
fn start_worker() -> (Sender<u64>, Receiver<()>) {
    let (worker, orders) = channel();
    let (said, done) = channel();
    thread::spawn(move || {
        for address in orders {
            write_to(address);
            said.send(()).expect("the target lives");
        }
    });
    (worker, done)
}

/// Puts a page at `place` that compaction will move, by moving its mapping there.
fn place_movable(place: *mut u8) {
    let (page, ballast) = inject::page_to_move().expect("a page to move");
    // It makes the page movable as long as this process lives.
    std::mem::forget(ballast);
    let flags = rustix::mm::MremapFlags::MAYMOVE;
    // SAFETY: both are pages of our own; what was at `place` goes, and nothing refers to it.
    unsafe { rustix::mm::mremap_fixed(page.into_raw(), 4096, 4096, flags, place.cast()) }
        .expect("mremap");
}

fn say(line: &str) {
    println!("{line}");
    io::stdout().flush().unwrap();
}

/// The frame of page `i`; 0: none.
fn pfn(pagemap: &Pagemap, i: u64) -> u64 {
    let word = pagemap.word(VirtAddr(va(i))).unwrap().unwrap();
    word.pfn().map_or(0, |pfn| pfn.0)
}

/// The test's side.
pub(crate) struct Target {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Target {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(KIND, "memory")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the target runs");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut target = Self {
            child,
            commands,
            answers,
        };
        assert_eq!(target.answer(), "ready");
        target
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One of its threads that is not the main one.
    pub(crate) fn a_thread(&self) -> u32 {
        let mut threads = std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            });
        threads.find(|tid| *tid != self.pid()).expect("a worker")
    }

    /// Has `command` done to page `i`; gives the frame that the page then has, 0 for none.
    pub(crate) fn tell(&mut self, command: &str, i: u64) -> u64 {
        let commands = self.commands.as_mut().expect("not ended yet");
        writeln!(commands, "{command} {i}").unwrap();
        self.answer().parse().unwrap()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Moves its page `i`, from outside; gives the frame that the page then has.
    pub(crate) fn move_page(&self, i: u64) -> u64 {
        inject::move_page(self.pid(), VirtAddr(va(i))).expect("the page moves");
        pfn(&Pagemap::of(self.pid()).unwrap(), i)
    }

    /// Has it end by itself, and leaves it a zombie until the test is over.
    pub(crate) fn end_unreaped(&mut self) {
        self.commands = None;
    }

    /// Has it end by itself.
    pub(crate) fn end(mut self) {
        self.commands = None;
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
