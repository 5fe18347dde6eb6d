//! A process to be watched: does to its memory what it is told, and tells the truth about it from its own
//! pagemap.

use std::{
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, Write as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    ptr,
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use v2p::{
    common::{VirtAddr, pagemap::PagemapWord},
    inject,
    process::Pagemap,
};

use crate::{
    Again, deeds, memory,
    threads::{end_this_thread, in_a_new_thread, relay, start_worker},
};

/// Set: this program is a target.
pub(crate) const KIND: &str = "V2P_LIVE_TARGET";
/// Where every target has its pages, so that two of them have them at the same addresses.
pub(crate) const BASE: u64 = 0x6000_0000_0000;
/// How many it has.
pub(crate) const PAGES: u64 = COUNT as u64;
/// The same, of a list.
pub(crate) const COUNT: usize = 64;
pub(crate) const PAGE: u64 = 4096;

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
        let (command, rest) = line.split_once(' ').expect("COMMAND PAGE");
        if let Some(answer) = deeds::obey(command, rest) {
            say(&answer.to_string());
            continue;
        }
        let i: u64 = rest.parse().expect("a page number");
        let place = va(i) as *mut u8;
        let mut answer = None;
        match command {
            // SAFETY: inside our mapping.
            "read" => _ = unsafe { ptr::read_volatile(place) },
            // SAFETY: inside our mapping.
            "write" => unsafe { ptr::write_volatile(place, 1) },
            "place" => memory::place_movable(place),
            "thread" => in_a_new_thread(place),
            "worker" => {
                worker.send(va(i)).expect("the worker lives");
                done.recv().expect("the worker lives");
            }
            "guard" => answer = Some(memory::guard(place)),
            "poison" => answer = Some(memory::poison(place)),
            "pageout" => answer = Some(memory::page_out(place)),
            "exec" => {
                let error = Command::new(std::env::current_exe().unwrap()).exec();
                panic!("exec: {error}");
            }
            "leave" => {
                say("1");
                end_this_thread();
            }
            "leave-to-a-relay" => {
                drop(worker);
                relay();
                say("1");
                end_this_thread();
            }
            other => answer = Some(memory::make(other, i)),
        }
        if let Some(answer) = answer {
            say(&answer.to_string());
            continue;
        }
        say(&pfn(&Pagemap::of_self().unwrap(), i).to_string());
    }
}

pub(crate) fn write_to(address: u64) {
    // SAFETY: inside a mapping of ours that lives as long as the process.
    unsafe { ptr::write_volatile(address as *mut u8, 1) };
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
        Self::of(Command::new(std::env::current_exe().unwrap()))
    }

    /// One that `program` makes, which is this program.
    pub(crate) fn of(mut program: Command) -> Self {
        let mut child = program
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

    /// A descriptor of it.
    pub(crate) fn pidfd(&self) -> OwnedFd {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        pidfd_open(pid, PidfdFlags::empty()).unwrap()
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

    /// Has it make a system call; gives the result, an error as a negative number.
    pub(crate) fn call(&mut self, number: libc::c_long, arguments: &[u64]) -> i64 {
        let words: Vec<_> = arguments.iter().map(u64::to_string).collect();
        self.order(&format!("call {number} {}", words.join(" ")))
            .cast_signed()
    }

    /// The same for calls that must not fail.
    pub(crate) fn must(&mut self, number: libc::c_long, arguments: &[u64]) -> u64 {
        let result = self.call(number, arguments);
        assert!(result >= 0, "system call {number}: error {}", -result);
        result.cast_unsigned()
    }

    /// Has it run on the first CPU alone.
    pub(crate) fn stay_on_first_cpu(&mut self) {
        let first = self.scratch(&[1]);
        self.must(libc::SYS_sched_setaffinity, &[0, 8, first]);
    }

    /// Has it write words into its scratch memory, from the start; gives their address.
    pub(crate) fn scratch(&mut self, words: &[u64]) -> u64 {
        let words: Vec<_> = words.iter().map(u64::to_string).collect();
        self.order(&format!("scratch {}", words.join(" ")))
    }

    /// The same for a string, which ends in NUL then.
    pub(crate) fn scratch_text(&mut self, text: &str) -> u64 {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(bytes.len() / 8 * 8 + 8, 0);
        let (words, _) = bytes.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        self.scratch(&words)
    }

    /// Has it open a file; gives the descriptor.
    pub(crate) fn open(&mut self, path: &str) -> u64 {
        let place = self.scratch_text(path);
        let at = i64::from(libc::AT_FDCWD).cast_unsigned();
        self.must(libc::SYS_openat, &[at, place, 0, 0])
    }

    /// Has it write a byte to every page.
    pub(crate) fn fill(&mut self, start: u64, pages: u64) {
        self.order(&format!("fill {start} {pages}"));
    }

    /// Has it throw pages away, so many times, whether there are any or not.
    pub(crate) fn discard(&mut self, start: u64, pages: u64, times: u64) {
        self.order(&format!("discard {start} {pages} {times}"));
    }

    /// Has it write to every page and throw all of them away, so many times.
    pub(crate) fn churn(&mut self, start: u64, pages: u64, times: u64) {
        self.order(&format!("churn {start} {pages} {times}"));
    }

    /// Has it take its pages away for so long, while another thread of it touches them.
    pub(crate) fn scuffle(&mut self, start: u64, pages: u64, seconds: u64) -> u64 {
        self.order(&format!("scuffle {start} {pages} {seconds}"))
    }

    /// Has it make a child, which shares its pages; gives its number.
    pub(crate) fn fork(&mut self) -> u32 {
        u32::try_from(self.order("fork -")).unwrap()
    }

    /// The same, of a child of its child.
    pub(crate) fn fork_twice(&mut self) -> u32 {
        u32::try_from(self.order("fork-twice -")).unwrap()
    }

    /// Has its child end.
    pub(crate) fn bury(&mut self) {
        self.order("bury -");
    }

    /// Has its child write a byte.
    pub(crate) fn have_child_write(&mut self, va: u64) {
        self.order(&format!("child {va}"));
    }

    /// Has it read a byte.
    pub(crate) fn touch(&mut self, va: u64) {
        self.order(&format!("touch {va}"));
    }

    /// A word of its memory.
    pub(crate) fn peek(&mut self, va: u64) -> u64 {
        self.order(&format!("peek {va}"))
    }

    /// Has it map `pages` pages of a file of its own at the place for files, private.
    pub(crate) fn private_file(&mut self, pages: u64) {
        self.order(&format!("private-file {pages}"));
    }

    /// Has it map `pages` pages of shared memory at the place for files; gives the descriptor.
    pub(crate) fn shared_memory(&mut self, pages: u64) -> u64 {
        self.order(&format!("shared-memory {pages}"))
    }

    /// Has it ask the kernel to reclaim a page until it is gone, or for a second.
    pub(crate) fn page_out(&mut self, va: u64) {
        self.order(&format!("page-out {va}"));
    }

    /// The same where it has to go; else the test is done again.
    pub(crate) fn must_page_out(&mut self, va: u64) {
        if self.order(&format!("page-out {va}")) == 0 {
            std::panic::panic_any(Again("the kernel kept the page".to_owned()));
        }
    }

    /// Has it use a page until it lies in another frame than `pfn`, or for some seconds.
    pub(crate) fn spin(&mut self, va: u64, pfn: u64, seconds: u64) {
        self.order(&format!("spin {va} {pfn} {seconds}"));
    }

    /// The frame of its page `i`.
    pub(crate) fn frame(&self, i: u64) -> u64 {
        pfn(&Pagemap::of(self.pid()).unwrap(), i)
    }

    /// What its pagemap says of an address.
    pub(crate) fn word(&self, va: u64) -> PagemapWord {
        let word = Pagemap::of(self.pid()).unwrap().word(VirtAddr(va));
        word.unwrap().unwrap()
    }

    pub(crate) fn order(&mut self, line: &str) -> u64 {
        let commands = self.commands.as_mut().expect("not ended yet");
        writeln!(commands, "{line}").unwrap();
        self.answer().parse().unwrap()
    }

    /// Has it move all its own pages between two nodes for so long; gives how often a page came to the other.
    pub(crate) fn shuttle(&mut self, seconds: u64) -> u64 {
        self.order(&format!("shuttle {BASE} {seconds}"))
    }

    /// Moves its page `i`, from outside; gives the frame that the page then has.
    /// What compaction moves is the kernel's to choose: where it leaves this page alone, the reason comes back.
    pub(crate) fn move_page(&self, i: u64) -> Result<u64, String> {
        inject::move_page(self.pid(), VirtAddr(va(i))).map_err(|e| e.to_string())?;
        Ok(pfn(&Pagemap::of(self.pid()).unwrap(), i))
    }

    /// Has it execute itself anew so many microseconds later, in one of so many threads.
    pub(crate) fn execute_in_a_crowd(&mut self, threads: u64, micros: u64) {
        let commands = self.commands.as_mut().expect("not ended yet");
        writeln!(commands, "crowd {threads} {micros}").unwrap();
        // The new program may be the first to say something.
        let said = self.answer();
        assert!(said == threads.to_string() || said == "ready", "{said:?}");
    }

    /// Has it execute itself anew.
    pub(crate) fn execute(&mut self) {
        writeln!(self.commands.as_mut().expect("not ended yet"), "exec 0").unwrap();
        assert_eq!(self.answer(), "ready");
    }

    /// Ends it, and waits until it has.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
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
