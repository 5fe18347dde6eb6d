//! `v2p doctor`: which check denies, with the evidence, and what to do.

mod trial;

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use v2p_common::{
    PAGE_SHIFT, Pfn, PhysAddr, VirtAddr,
    pagemap::{PagemapState, PagemapWord},
};

use crate::{
    cli,
    doctor::{
        self,
        check::{Access, Check, Errno, Id},
        facts::{DirectMapped, Facts, Target},
        movable,
        page::PageFacts,
        predict::predict,
        tracing::Tracing,
        verdict::Verdict,
        witness::Witness,
    },
    exit::Failure,
    kernel::{self, limits::raise_open_files, lockdown::Lockdown, privileges::MOUNT_PROC},
    page::{self, OwnPage, ZeroFrames},
    process::{AddressSpace, Pagemap, Process, frame_flags, frame_mapcount},
    render::{DoctorText, Output},
    translate::page::Decoder,
};

/// Goes through every check, tries what may be tried, and says whether the two agree; gives the exit code.
///
/// # Errors
/// Exit code 1 where there is no such process or nothing mapped at the address, 3 where it may not be looked at.
pub fn run(args: &cli::Doctor, output: &mut Output) -> Result<u8> {
    output.answer_stands();
    let asked = Asked::new(args).context("doctor")?;
    raise_open_files();
    let (facts, learnt) = Facts::gather_with_types();
    let mut tracing = Tracing::probe(&facts, learnt, asked.threads());
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
    report.tracing(&tracing.checks, tracing.lost.as_deref())?;
    report.checks("for reading without /dev/mem", &[kcore(&facts)])?;
    let movers = movable::movers();
    let page = asked.page();
    report.movable(&movable::check(&movers), &movers, page.as_ref())?;

    let is_device = doctor::address::may_be_device(&facts, &target);
    let predicted = predict(&checks, Access::Read);
    let trial = trial::run(&target, is_device, predicted, &mut witness).context("doctor")?;
    let mut verdict = Verdict::new(&checks, &trial, witness.testimony(), target.pa, is_device);
    if let Some(why) = page.as_ref().and_then(PageFacts::no_page) {
        verdict.without_a_page(&why);
    }
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
        let process = Process::open(pid)?;
        let AddressSpace {
            pagemap, mappings, ..
        } = AddressSpace::of(&process)?;
        let mapping = mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&va.0))
            .ok_or_else(|| {
                Failure::no(format!("process {pid} has nothing mapped at {:#x}", va.0))
            })?;
        let word = pagemap.word_surely(va)?;
        let word = word.ok_or_else(|| AddressSpace::gone(&process))?;
        Ok(Self::Process {
            pid,
            va,
            word,
            mapping: mapping.name.clone(),
        })
    }

    /// Threads of the process that is asked about; our own where none is.
    fn threads(&self) -> u64 {
        let pid = match self {
            Self::Process { pid, .. } => *pid,
            _ => std::process::id(),
        };
        Process::open(pid).map_or(0, |process| process.threads().len() as u64)
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
        let state = match self {
            Self::Process { word, .. } => Some(word.state()),
            _ => None,
        };
        Ok(Target {
            pa,
            is_hidden: match state {
                Some(state) => state == PagemapState::Hidden,
                None => pa.is_none(),
            },
            is_page: !matches!(self, Self::Physical(_)),
            is_own: matches!(self, Self::OwnPage),
            mapping,
            direct_mapped: None,
            own_page_was_read: false,
        })
    }

    fn name(&self, target: &Target) -> String {
        let at = match target.pa {
            Some(pa) => format!("{:#x}", pa.0),
            None if target.is_hidden => "hidden".to_owned(),
            None => "none".to_owned(),
        };
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
        let Self::Process {
            va, word, mapping, ..
        } = self
        else {
            return None;
        };
        let decoder = Decoder {
            paging: None,
            zero: ZeroFrames::learn().unwrap_or(ZeroFrames::UNKNOWN),
        };
        let mut page = decoder.page(*va, Some(*word), None);
        let mapped = word.pfn();
        let flags = mapped.or(page.frame_to_ask());
        let flags = flags.and_then(|pfn| frame_flags(pfn).ok());
        if let Some(flags) = flags {
            page.add_frame(flags);
        }
        let flags = flags.filter(|_| mapped.is_some()).map(page::believed);
        let mapcount = mapped.and_then(|pfn| frame_mapcount(pfn).ok());
        Some(PageFacts::new(page.state, flags, mapcount, mapping))
    }
}

/// How the direct map holds the address, asked of an eBPF program; only for RAM.
fn direct_mapped(facts: &Facts, target: &Target, tracing: &mut Tracing) -> Option<DirectMapped> {
    let pa = target
        .pa
        .filter(|_| doctor::address::is_ram(facts, target))?;
    let (carrier, direct_map) = tracing.carrier.as_mut()?;
    if carrier.read_physical(pa).ok()?.is_none() {
        return Some(DirectMapped::No);
    }
    let pfn = Pfn(pa.0 >> PAGE_SHIFT);
    let own = Pagemap::of_self().ok()?;
    let walk = carrier.walk(&own, direct_map.address(pfn)).ok()??;
    Some(match direct_map.entry(pfn, &walk)?.is_writable() {
        true => DirectMapped::Yes,
        false => DirectMapped::ReadOnly,
    })
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
    let is_confidential = facts
        .lockdown
        .as_ref()
        .is_some_and(Lockdown::is_confidential);
    let mend = match (what.kind(), is_confidential) {
        (io::ErrorKind::NotFound, _) if !Path::new("/proc/meminfo").exists() => MOUNT_PROC,
        (io::ErrorKind::Other, _) => "run it on the host: a container masks it",
        (io::ErrorKind::NotFound, _) => "use a kernel with CONFIG_PROC_KCORE=y",
        (_, true) => "boot without lockdown=confidentiality",
        _ => "run it as root, with CAP_SYS_RAWIO",
    };
    Check::limits(Id::Kcore, "RAM cannot be read that way either", evidence).mend(mend)
}
