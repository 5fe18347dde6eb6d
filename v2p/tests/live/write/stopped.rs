//! A process that is held still: all of its threads stand while it lasts, and run on whatever becomes of v2p.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use v2p::{guard::Stopped, process::Process};

use super::{inside, is_open};
use crate::{
    Done, harness,
    harness::{PATIENCE, last_json},
    target::{KIND, Target},
    trial,
};

/// Names the process to stop, for [`stop_and_wait`].
const WHOM: &str = "V2P_LIVE_STOP";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_stopped_process_runs_on_when_v2p_is_killed", killed),
        trial("write_to_a_stopped_process_lands_and_it_runs_on", lands),
        trial(
            "a_process_that_executes_a_program_is_stopped_too",
            amid_exec,
        ),
        trial(
            "a_process_that_a_signal_stopped_is_held_and_stays_so",
            suspended,
        ),
        trial("a_process_that_is_traced_already_is_not_stopped", traced),
    ]
}

/// The side that is killed: stops the process, says so, and waits.
pub(crate) fn stop_and_wait() {
    let pid = std::env::var(WHOM).unwrap().parse().unwrap();
    let stopped = Stopped::stop(&Process::open(pid).unwrap());
    println!(
        "{}",
        if stopped.is_ok() {
            "stopped"
        } else {
            "refused"
        }
    );
    thread::sleep(PATIENCE);
}

/// The states of its threads; of those that end meanwhile, none.
fn states(target: &Target) -> String {
    let threads = fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap();
    let state = |path: std::path::PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        stat.rsplit_once(") ").unwrap().1.chars().next()
    };
    threads
        .filter_map(|thread| state(thread.unwrap().path()))
        .collect()
}

fn killed() -> Done {
    let mut target = Target::start();
    let mut stopper = Command::new(std::env::current_exe().unwrap())
        .env(KIND, "stopper")
        .env(WHOM, target.pid().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(stopper.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let during = states(&target);
    stopper.kill().unwrap();
    stopper.wait().unwrap();
    assert_eq!(line, "stopped\n");
    assert!(
        during.len() >= 2 && during.chars().all(|c| c == 't'),
        "{during}"
    );
    let start = Instant::now();
    while states(&target).contains('t') && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    // It does what it is told.
    target.tell("write", 3);
    assert_ne!(target.frame(3), 0);
    target.end();
    Done::Passed
}

fn lands() -> Done {
    if !is_open() {
        return Done::Skipped("/dev/mem is denied on this kernel".to_owned());
    }
    let mut target = Target::start();
    target.tell("write", 0);
    let pid = target.pid().to_string();
    let address = format!("{:#x}", inside(0));
    let output = harness::run(&[
        "write",
        "--json",
        "--stop",
        "--pid",
        &pid,
        &address,
        "--hex",
        "0102030405060708",
    ]);
    let said = last_json(&output);
    assert_eq!(
        (&said["verdict"], &said["stopped"]),
        (&"landed".into(), &true.into()),
        "{said:#}"
    );
    assert!(!states(&target).contains('t'));
    assert_eq!(target.peek(inside(0)), 0x0807_0605_0403_0201);
    target.end();
    Done::Passed
}

/// The exec waits for the threads that are held, and who holds them for the exec.
fn amid_exec() -> Done {
    for round in 0..16 {
        let mut target = Target::start();
        let process = Process::open(target.pid()).unwrap();
        target.execute_in_a_crowd(100, round * 600);
        let (sender, stopped) = channel();
        let held = thread::spawn(move || {
            let held = Stopped::stop(&process).map(|_held| ());
            sender.send(held.map_err(|e| format!("{e:#}"))).unwrap();
        });
        let said = stopped.recv_timeout(PATIENCE / 2);
        let said = said.unwrap_or_else(|e| panic!("round {round}: {e}: {}", states(&target)));
        assert_eq!(said, Ok(()), "round {round}");
        held.join().unwrap();
        assert!(!states(&target).contains('t'));
        target.kill();
    }
    Done::Passed
}

fn suspended() -> Done {
    let target = Target::start();
    let pid = libc::pid_t::try_from(target.pid()).unwrap();
    // SAFETY: signals to our own child.
    let signal = |number| assert_eq!(unsafe { libc::kill(pid, number) }, 0);
    let are_all = |state| {
        let start = Instant::now();
        while !states(&target).chars().all(|c| c == state) && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        states(&target).chars().all(|c| c == state)
    };
    signal(libc::SIGSTOP);
    assert!(are_all('T'), "{}", states(&target));
    let held = Stopped::stop(&Process::open(target.pid()).unwrap()).unwrap();
    assert!(are_all('t'), "{}", states(&target));
    drop(held);
    assert!(are_all('T'), "{}", states(&target));
    signal(libc::SIGCONT);
    target.end();
    Done::Passed
}

fn traced() -> Done {
    let target = Target::start();
    let process = Process::open(target.pid()).unwrap();
    let held = Stopped::stop(&process).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .env(KIND, "stop-once")
        .env(WHOM, target.pid().to_string())
        .output()
        .unwrap();
    drop(held);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("may not be traced")
            && said.contains(&format!("process {} traces it", std::process::id())),
        "{said}"
    );
    assert!(!states(&target).contains('t'));
    target.end();
    Done::Passed
}

/// Tries to stop the process, and says what came of it.
pub(crate) fn stop_once() {
    let pid = std::env::var(WHOM).unwrap().parse().unwrap();
    match Stopped::stop(&Process::open(pid).unwrap()) {
        Ok(_) => println!("stopped"),
        Err(e) => println!("{}", v2p::exit::message(&e)),
    }
}
