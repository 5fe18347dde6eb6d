//! `v2p demo`: the whole story on a page of its own.

use anyhow::{Context as _, Result};
use v2p_common::{PAGE_SIZE, Pfn, VirtAddr};

use crate::{
    bpf::Programs,
    carrier::Carrier,
    cli,
    doctor::tracing,
    exit::{self, Failure},
    guard::Guard,
    inject, kernel,
    ledger::Ledger,
    page::{Nonce, OwnPage},
    process::{Pagemap, Process},
    record::{Hex, Record, Routes, Verdict},
    render::{DemoText, Output},
    tracer::{Target, Tracer, Wanted},
    translate::Both,
};

const BEFORE: &str = "Hello, World!";

/// Runs the demo; gives the exit code.
///
/// # Errors
/// Exit code 3 where privileges or eBPF are missing, 2 for a text that does not fit.
pub async fn run(args: &cli::Demo, output: &mut Output) -> Result<u8> {
    check_text(&args.text)?;
    tracing::require().context("demo")?;
    let process = Process::open(std::process::id())?;
    // The ballast lives as long as the page.
    let (page, _ballast) = match args.inject_move {
        true => inject::page_to_move().map(|(page, ballast)| (page, Some(ballast)))?,
        false => (OwnPage::new()?, None),
    };
    page.write(0, BEFORE.as_bytes());
    let nonce = page.put_nonce()?;
    let pagemap = Pagemap::of_self()?;
    let text = DemoText::new(output);
    text.start(&kernel::release(), process.pid, BEFORE, page.va())?;

    let mut programs = Programs::load(kernel::layout::learn)?;
    let mut carrier = Carrier::new(&mut programs)?;
    let direct_map = kernel::direct_map::learn(&mut carrier)?;
    let mm = carrier.walk_own(page.va())?.mm;
    let target = Target {
        mm,
        range: page.va().0..page.va().0 + PAGE_SIZE,
        follow_exec: false,
    };
    let mut tracer = Tracer::start(&mut programs, &process, &target, Wanted::Migrations)?;
    text.tracer(&tracer)?;

    let both = Both::ask(&mut carrier, &pagemap, page.va())?.context("we have no address space")?;
    let found = Found::new(&mut carrier, &both, page.va(), nonce)?;
    text.routes(&found.routes, direct_map.paging.levels)?;
    let mut ledger = Ledger::new(None, direct_map.paging);
    ledger.seed(page.va(), both.pagemap, false);

    let mut guard = Guard {
        programs: &programs,
        carrier: &mut carrier,
        tracer: &mut tracer,
        ledger: &mut ledger,
        pagemap: &pagemap,
    };
    let between = || match args.inject_move {
        true => text.injected(inject::move_page(process.pid, page.va())?),
        false => Ok(()),
    };
    let write = guard
        .write_own(&page, args.text.as_bytes(), between)
        .await?;
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
