//! `v2p demo`: the whole story on a page of its own.

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, Pfn, VirtAddr};

use super::write::no_signal_ends_it;
use crate::{
    carrier::Carrier,
    cli,
    doctor::tracing,
    exit::{self, Failure},
    guard::{Guard, Job, Step},
    inject,
    kernel::{self, privileges},
    page::{Nonce, OwnPage, PAGE_LEN},
    process::Process,
    record::{Hex, Record, Routes, Verdict},
    render::{DemoText, Output},
    tracer::Wanted,
    translate::Both,
};

const BEFORE: &str = "Hello, World!";

/// Runs the demo; gives the exit code.
///
/// # Errors
/// Exit code 3 where privileges or eBPF are missing, 2 for a text that does not fit.
pub async fn run(args: &cli::Demo, output: &mut Output) -> Result<u8> {
    privileges::keep_to_writing()?;
    output.answer_stands();
    check_text(&args.text).context("demo")?;
    tracing::require().context("demo")?;
    let process = Process::open(std::process::id()).context("demo")?;
    // The ballast lives as long as the page.
    let (page, _ballast) = match args.inject_move {
        true => inject::page_to_move().map(|(page, ballast)| (page, Some(ballast)))?,
        false => (OwnPage::new()?, None),
    };
    page.write(0, BEFORE.as_bytes());
    let nonce = page.put_nonce()?;
    let text = DemoText::new(output);
    text.start(&kernel::release(), process.pid, BEFORE, page.va())?;
    let pid = process.pid;

    let range = page.va().0..page.va().0 + PAGE_SIZE;
    let mut guard = Guard::new(process, range, Wanted::Migrations).context("demo")?;
    text.tracer(guard.tracer())?;
    // It may move the page: before it is looked up.
    let pinned = match args.inject_move {
        true => Err("it is to be moved on purpose".to_owned()),
        false => guard.pin(page.va(), PAGE_LEN),
    };
    let (mut both, mut found) = look(&mut guard, &page, nonce)?;
    // A page that somebody tries to move just then has no entry for a moment.
    for _ in 0..LOOKS {
        if found.proven {
            break;
        }
        (both, found) = look(&mut guard, &page, nonce)?;
    }
    text.routes(&found.routes, guard.direct_map().paging.levels)?;

    let mut disturb = |step| match (args.inject_move, step) {
        (inject, Step::LookUp) => {
            if inject {
                text.injected(inject::move_page(pid, page.va())?)?;
            }
            no_signal_ends_it();
            Ok(())
        }
        _ => Ok(()),
    };
    let job = Job {
        va: page.va(),
        bytes: args.text.as_bytes(),
        dry_run: false,
        force_readonly: false,
    };
    let mut write = guard.write(&job, &mut disturb).await.context("demo")?;
    write.not_pinned = pinned.err();
    let after = String::from_utf8_lossy(&page.read(0, BEFORE.len())).into_owned();
    text.write(&write, &after)?;

    let verdict = write.verdict;
    output.json(&Record::Demo {
        va: Hex(page.va().0),
        pfn: both.agreed().map(|pfn| pfn.0),
        pa: both.agreed().map(|pfn| Hex(pfn.base().0)),
        before: BEFORE.to_owned(),
        after,
        routes: found.routes,
        write: Box::new(write),
    })?;
    Ok(match verdict {
        Verdict::Landed if found.proven => exit::YES,
        _ => exit::NO,
    })
}

fn check_text(text: &str) -> Result<()> {
    let room = BEFORE.len();
    let what = match text.len() {
        0 => "--text: there is nothing to write".to_owned(),
        n if n > room => format!("--text: {n} bytes are too long, the buffer holds {room}"),
        _ => return Ok(()),
    };
    Err(Failure::failed(what)
        .hint(format!(
            "it is written over {BEFORE:?}: give 1 to {room} bytes"
        ))
        .into())
}

/// How often the page is looked for again, where the routes do not name one frame.
const LOOKS: u32 = 20;

fn look(guard: &mut Guard, page: &OwnPage, nonce: Nonce) -> Result<(Both, Found)> {
    let both = guard.ask(page.va())?.context("we have no address space")?;
    let found = Found::new(guard.carrier(), &both, page.va(), nonce)?;
    Ok((both, found))
}

/// The three routes' answers.
struct Found {
    routes: Routes,
    /// All three say the same.
    proven: bool,
}

impl Found {
    /// Asks for the content at each frame that a route named: at one of them the nonce must lie.
    fn new(carrier: &mut Carrier, both: &Both, va: VirtAddr, nonce: Nonce) -> Result<Self> {
        let (pagemap, walk) = (both.pagemap.pfn(), both.walk.pfn(va));
        let mut holds = |pfn: Option<Pfn>| -> Result<bool> {
            let Some(pfn) = pfn else { return Ok(false) };
            Ok(carrier.read_physical(pfn.at(nonce.offset))? == Some(nonce.bytes))
        };
        let content = holds(pagemap)? && holds(walk)?;
        Ok(Self {
            routes: Routes {
                pagemap: pagemap.map(|pfn| pfn.0),
                walk: walk.map(|pfn| pfn.0),
                content,
            },
            proven: content && pagemap == walk,
        })
    }
}
