//! What v2p says to what cannot be: one table for all commands of who asks, where, with which arguments; and the exit code and the
//! words that belong to it. Whatever it is: one line, at most one hint, and nothing left behind.

mod case;

use std::{io, process::Stdio};

use libtest_mimic::Trial;
use rustix::process::{Pid, WaitIdOptions};

use self::case::Ran;
use crate::{
    Done, TIMES, harness, leavings,
    target::{Target, va},
    trial, trial_for_all,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial_for_all("every_bad_input_is_one_line_with_its_exit_code", bad_input),
        trial("without_cap_sys_admin_frames_are_hidden", hidden_frames),
        trial("a_reader_that_goes_away_ends_it_quietly", closed_stdout),
    ]
}

/// Who asks | where | with which arguments | the exit code, or those that kernels differ in | what is said: a part of the first line of
/// stderr (`+`: when something was said on stdout already); after `>` of stdout; `-`: nothing on stderr; `?`: it is not looked at.
/// @PID is a target, @THREAD one of its threads, @ZOMBIE one that has ended and @GONE one that is no more; @PAGE is an address of the
/// target's, @OUT a file where the place has it; kthreadd has number 2 on every kernel.
/// Who and where: see [`case`].
const TABLES: [&str; 9] = [
    include_str!("common.txt"),
    include_str!("demo.txt"),
    include_str!("watch.txt"),
    include_str!("top.txt"),
    include_str!("translate.txt"),
    include_str!("map.txt"),
    include_str!("who.txt"),
    include_str!("write.txt"),
    include_str!("doctor.txt"),
];

/// A row of the table.
struct Row<'a> {
    who: &'a str,
    place: &'a str,
    arguments: Vec<String>,
    codes: Vec<i32>,
    says: String,
    /// As it stands in the table.
    line: &'a str,
}

impl<'a> Row<'a> {
    fn of(line: &'a str, names: &[(&str, String)]) -> Self {
        let fields: Vec<_> = line.splitn(5, '|').map(str::trim).collect();
        let [who, place, arguments, code, says] = fields[..] else {
            panic!("{line}");
        };
        let fill = |text: &str| {
            let fill = |text: String, (name, value): &(&str, String)| text.replace(name, value);
            names.iter().fold(text.to_owned(), fill)
        };
        Self {
            who,
            place,
            arguments: words(arguments).iter().map(|word| fill(word)).collect(),
            codes: code.split(' ').map(|code| code.parse().unwrap()).collect(),
            says: fill(says),
            line,
        }
    }

    /// Whether anybody can try it: he is nobody, and is kept away from nothing that is there for root alone.
    fn wants_no_root(&self) -> bool {
        self.who == "nobody" && self.place != "hidepid" && !self.line.contains('@')
    }

    /// What is wrong with how it ended.
    fn judge(&self, ran: &Ran) -> Result<(), String> {
        let output = &ran.output;
        let ended = output.status.code();
        let (said, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let held = |is_so: bool, what: &str| match is_so {
            true => Ok(()),
            false => Err(format!("{what}: {:?}\n{errors}{said:.200}", output.status)),
        };
        held(
            ended.is_some_and(|code| self.codes.contains(&code)),
            "exit code",
        )?;
        held(!errors.contains("panicked"), "a panic")?;
        held(ran.left.is_empty(), &format!("left behind: {:?}", ran.left))?;
        match self.says.as_str() {
            "?" => Ok(()),
            "-" => held(errors.is_empty(), "it is quiet"),
            says => match says.strip_prefix("> ") {
                Some(says) => {
                    held(errors.is_empty(), "it is no error")?;
                    held(said.contains(says), "what is said")
                }
                None => {
                    let begun = says.strip_prefix("+ ");
                    let says = begun.unwrap_or(says);
                    let mut lines = errors.lines();
                    let first = lines.next().unwrap_or_default();
                    held(first.starts_with("v2p: "), "a line of v2p's")?;
                    held(first.contains(says), "what is said")?;
                    let rest: Vec<_> = lines.collect();
                    held(rest.len() <= 1, "one line, and one hint")?;
                    held(rest.iter().all(|l| l.starts_with("hint: ")), "a hint")?;
                    held(said.is_empty() || begun.is_some(), "an answer")
                }
            },
        }
    }
}

/// The words of a command line; what stands in quotes is one, also where it is empty.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None, false);
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// Without root, the rows that want none.
fn bad_input() -> Done {
    let is_root = rustix::process::geteuid().is_root();
    let target = Target::start();
    let zombie = zombie();
    let names = [
        ("@PID", target.pid().to_string()),
        ("@THREAD", target.a_thread().to_string()),
        ("@ZOMBIE", zombie.pid().to_string()),
        ("@GONE", Target::start().pid().to_string()),
        ("@PAGE", format!("{:#x}", va(0))),
        ("@OUT", format!("{}/out", case::ROOM)),
    ];
    let pins = leavings::pins();
    let lines = TABLES.iter().flat_map(|table| table.lines());
    let rows: Vec<_> = lines.map(|line| Row::of(line, &names)).collect();
    assert!(rows.len() > 200, "{}", rows.len());
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| is_root || row.wants_no_root()) {
        let arguments: Vec<_> = row.arguments.iter().map(String::as_str).collect();
        // A hook that the kernel skipped by chance is told by a line more.
        let is_skipped = |ran: &Ran| {
            let errors = String::from_utf8_lossy(&ran.output.stderr);
            errors.contains(harness::SKIPPED)
        };
        let mut ran = case::run(row.who, row.place, &arguments);
        for _ in 1..TIMES {
            if !ran.as_ref().is_ok_and(is_skipped) {
                break;
            }
            ran = case::run(row.who, row.place, &arguments);
        }
        let judged = match ran {
            Ok(ran) => row.judge(&ran),
            Err(e) => Err(format!("it cannot be tried: {e}")),
        };
        wrong.extend(judged.err().map(|why| format!("{}\n    {why}", row.line)));
    }
    assert!(
        wrong.is_empty(),
        "{} rows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(leavings::pins(), pins);
    Done::Passed
}

/// A target that has ended, and that nobody has waited for.
fn zombie() -> Target {
    let mut target = Target::start();
    target.end_unreaped();
    let pid = Pid::from_raw(i32::try_from(target.pid()).unwrap());
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(pid.unwrap()), ended).unwrap();
    target
}

fn hidden_frames() -> Done {
    let mut target = Target::start();
    let pfn = target.tell("write", 1);
    let pid = target.pid().to_string();
    let asked = |route: &str, range: &str| {
        let arguments = [
            "translate",
            "--json",
            "--route",
            route,
            "--pid",
            &pid,
            range,
        ];
        let output = case::run("fewer", "plain", &arguments).unwrap().output;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let end = harness::last_json(&output);
        let said = match output.status.code() {
            Some(3) => {
                "v2p: translate: pagemap withholds the frame from who has not CAP_SYS_ADMIN\nhint: run it as root, with CAP_SYS_ADMIN\n"
            }
            _ if end["route"] == "both" => {
                "v2p: translate: pagemap withholds frames from who has not CAP_SYS_ADMIN: the walk alone tells them\n"
            }
            _ => "",
        };
        assert_eq!(String::from_utf8_lossy(&output.stderr), said);
        (output.status.code(), end, text)
    };
    let (code, end, text) = asked("pagemap", &format!("{:#x}", va(1)));
    assert_eq!((code, &end["hidden"]), (Some(3), &1.into()), "{text}");
    assert!(
        !text.contains("\"pfn\"") && !text.contains("\"pa\""),
        "{text}"
    );
    let (code, end, text) = asked("pagemap", &format!("{:#x}", va(2)));
    assert_eq!((code, &end["absent"]), (Some(1), &1.into()), "{text}");
    let (code, end, text) = asked("pagemap", &format!("{:#x}+16K", va(0)));
    assert_eq!((code, &end["hidden"]), (Some(0), &1.into()), "{text}");
    assert_eq!(end["absent"], 3, "{text}");
    // CAP_BPF and CAP_PERFMON may be enough for the walk, which then is the only one that can tell.
    let (code, end, text) = asked("auto", &format!("{:#x}", va(1)));
    if end["route"] == "both" {
        assert_eq!((code, &end["present"]), (Some(0), &1.into()), "{text}");
        assert!(text.contains(&format!("\"pfn\":{pfn},")), "{text}");
        assert!(text.contains("\"verdict\":\"single\""), "{text}");
    } else {
        assert_eq!((code, &end["hidden"]), (Some(3), &1.into()), "{text}");
        assert!(end["why"].is_string(), "{end}");
    }
    Done::Passed
}

fn closed_stdout() -> Done {
    let mut target = Target::start();
    // More lines than a pipe holds, so that they meet its end.
    let start = target.tell("reserve", 1500);
    let (pid, range) = (target.pid().to_string(), format!("{start:#x}+1024G"));
    let mut child = harness::v2p()
        .args(["translate", "--each", "--json", "--pid", &pid, &range])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut stdout = io::BufReader::new(child.stdout.take().unwrap());
    io::BufRead::read_line(&mut stdout, &mut first).unwrap();
    assert!(first.starts_with("{\"type\":\"run\""), "{first}");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    Done::Passed
}
