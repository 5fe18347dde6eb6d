//! `v2p doctor`: which check denies, with the evidence, and what to do.

mod trial;

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use v2p_common::{
    PhysAddr, VirtAddr,
    pagemap::{PagemapState, PagemapWord},
};

use crate::{
    cli,
    doctor::{
        self,
        check::{Access, Check, Errno, Id},
        facts::{Facts, Target},
        movable::{self, PageFacts},
        predict::predict,
        tracing::Tracing,
        verdict::Verdict,
        witness::Witness,
    },
    exit::Failure,
    kernel::{self, lockdown::Lockdown},
    page::OwnPage,
    process::{Pagemap, Process, frame_flags, frame_mapcount, maps},
    render::{DoctorText, Output},
};

/// Goes through every check, tries what may be tried, and says whether the two agree; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process or no frame behind the address, 3 where it may not be looked at.
pub fn run(args: &cli::Doctor, output: &mut Output) -> Result<u8> {
    let asked = Asked::new(args).context("doctor")?;
    let facts = Facts::gather();
    let mut tracing = Tracing::probe(&facts);
    let mut witness = Witness::new(
        tracing.programs.take(),
        std::mem::take(&mut tracing.watched),
    );
    let mut target = asked.target()?;
    if !target.is_own {
        // What the kernel does with a page of ours says more than its configuration.
        target.own_page_was_read = trial::own_page_is_read();
        target.direct_mapped = direct_mapped(&facts, &target, &mut tracing);
    }

    let mut report = DoctorText::new(output);
    report.start(&kernel::release(), &asked.name(&target))?;
    let checks = doctor::checks(&facts, &target);
    report.checks("on the way to /dev/mem", &checks)?;
    report.checks("for tracing", &tracing.checks)?;
    report.checks("for reading without /dev/mem", &[kcore(&facts)])?;
    let movers = movable::movers();
    report.movable(&movable::check(&movers), &movers, asked.page().as_ref())?;

    let is_device = doctor::address::may_be_device(&facts, &target);
    let predicted = predict(&checks, Access::Read);
    let trial = trial::run(&target, is_device, predicted, &mut witness).context("doctor")?;
    let verdict = Verdict::new(&checks, &trial, &witness.said, target.pa, is_device);
    report.verdict(&verdict, witness.is_live())?;
    Ok(verdict.exit_code())
}

/// What is asked about.
enum Asked {
    OwnPage,
    Process {
        pid: u32,
        va: VirtAddr,
        word: PagemapWord,
        mapping: String,
    },
    Physical(PhysAddr),
}

impl Asked {
    fn new(args: &cli::Doctor) -> Result<Self> {
        let (pid, va) = match (args.pa, args.pid, args.addr) {
            (Some(pfn), ..) => return Ok(Self::Physical(pfn.base())),
            (_, Some(pid), Some(va)) => (pid, va),
            _ => return Ok(Self::OwnPage),
        };
        Process::open(pid)?;
        let mappings = maps::mappings(pid)?;
        let mapping = mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&va.0))
            .ok_or_else(|| {
                Failure::no(format!("process {pid} has nothing mapped at {:#x}", va.0))
            })?;
        let word = Pagemap::of(pid)?
            .word(va)?
            .ok_or_else(|| Failure::no(format!("process {pid} has no address space")))?;
        let nothing = match word.state() {
            PagemapState::Present(_) | PagemapState::Hidden => None,
            PagemapState::SwapEntry { .. } => Some("it is swapped out, or being moved"),
            PagemapState::Guard => Some("it is a guard region"),
            PagemapState::Absent => Some("nothing is there yet, or a device's memory"),
        };
        if let Some(why) = nothing {
            let what = format!("process {pid} has no page in RAM at {:#x}: {why}", va.0);
            return Err(Failure::no(what).into());
        }
        Ok(Self::Process {
            pid,
            va,
            word,
            mapping: mapping.name.clone(),
        })
    }

    fn target(&self) -> Result<Target> {
        let (pa, mapping) = match self {
            Self::OwnPage => {
                let page = OwnPage::new()?;
                // Another page of ours will be tried; whether frames are shown is the same for all.
                let word = Pagemap::of_self()
                    .ok()
                    .and_then(|p| p.word(page.va()).ok()?);
                (word.and_then(PagemapWord::pfn).map(|pfn| pfn.base()), None)
            }
            Self::Process { word, mapping, .. } => {
                (word.pfn().map(|pfn| pfn.base()), Some(mapping.clone()))
            }
            Self::Physical(pa) => (Some(*pa), None),
        };
        Ok(Target {
            pa,
            is_page: !matches!(self, Self::Physical(_)),
            is_own: matches!(self, Self::OwnPage),
            mapping,
            direct_mapped: None,
            own_page_was_read: false,
        })
    }

    fn name(&self, target: &Target) -> String {
        let at = target
            .pa
            .map_or_else(|| "hidden".to_owned(), |pa| format!("{:#x}", pa.0));
        match self {
            Self::OwnPage => "a page of our own".to_owned(),
            Self::Process { pid, va, .. } => {
                format!("the page at {:#x} of process {pid}, physical {at}", va.0)
            }
            Self::Physical(_) => format!("physical address {at}"),
        }
    }

    /// What holds for the page, where one is asked about.
    fn page(&self) -> Option<PageFacts> {
        let word = match self {
            Self::Process { word, .. } => *word,
            _ => return None,
        };
        let of_frame = |pfn| (frame_flags(pfn).ok(), frame_mapcount(pfn).ok());
        let (flags, mapcount) = word.pfn().map_or((None, None), of_frame);
        Some(PageFacts::new(word, flags, mapcount))
    }
}

/// Whether the direct map holds the address, asked of an eBPF program; only for RAM.
fn direct_mapped(facts: &Facts, target: &Target, tracing: &mut Tracing) -> Option<bool> {
    let pa = target
        .pa
        .filter(|_| doctor::address::is_ram(facts, target))?;
    let found = tracing.carrier.as_mut()?.read_physical(pa).ok()?;
    Some(found.is_some())
}

/// /proc/kcore shows physical memory for reading, also where /dev/mem does not (fs/proc/kcore.c).
fn kcore(facts: &Facts) -> Check {
    let path = "/proc/kcore";
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    let what = match read {
        Ok(()) if magic == *b"\x7fELF" => {
            return Check::ok(
                Id::Kcore,
                "RAM can be read",
                format!("{path} opens, an ELF core"),
            );
        }
        Ok(()) => io::Error::other("no ELF core"),
        // Container runtimes put /dev/null there.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => io::Error::other("it is empty"),
        Err(e) => e,
    };
    let errno = Errno::of(&what).map_or_else(|| what.to_string(), |errno| errno.to_string());
    let evidence = format!("{path}: {errno}");
    let confidential = |lockdown: &&Lockdown| lockdown.mode == "confidentiality";
    let mend = match (what.kind(), facts.lockdown.as_ref().filter(confidential)) {
        (io::ErrorKind::NotFound, _) if !Path::new("/proc/self").exists() => {
            "mount -t proc proc /proc"
        }
        (io::ErrorKind::Other, _) => "run it on the host: a container masks it",
        (io::ErrorKind::NotFound, _) => "use a kernel with CONFIG_PROC_KCORE=y",
        (_, Some(_)) => "boot without lockdown=confidentiality",
        _ => "run it as root, with CAP_SYS_RAWIO",
    };
    Check::limits(Id::Kcore, "RAM cannot be read that way either", evidence).mend(mend)
}
