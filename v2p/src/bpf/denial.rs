//! What `v2p doctor` asks of eBPF: which kinds of programs load here, and what the kernel's functions answer.

use std::fs::File;

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf,
    maps::{Array, MapData},
    programs::{Program, ProgramError},
};
use v2p_common::witness::{Answers, Function, LSM_PROBE, PLACES};

use super::{
    CARRIER, FaultKind, Programs,
    faults::FaultEvents,
    refused::{cause, chain, errno, verifier_log},
};

/// A kind of program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A tracepoint's raw arguments.
    RawTracepoint,
    /// The same, with types.
    TpBtf,
    /// A tracepoint's record.
    Tracepoint,
    /// A perf event.
    PerfEvent,
    /// An iterator over kernel objects.
    Iterator,
    /// A security module's hook.
    Lsm,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RawTracepoint,
        Self::TpBtf,
        Self::Tracepoint,
        Self::PerfEvent,
        Self::Iterator,
        Self::Lsm,
    ];

    /// As libbpf calls it in section names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RawTracepoint => "raw_tp",
            Self::TpBtf => "tp_btf",
            Self::Tracepoint => "tracepoint",
            Self::PerfEvent => "perf_event",
            Self::Iterator => "iter",
            Self::Lsm => "lsm",
        }
    }

    /// A program of that kind in the object.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::RawTracepoint => "exit_mmap",
            Self::TpBtf => "probe_tp_btf",
            Self::Tracepoint => "probe_tracepoint",
            Self::PerfEvent => "fault_minor",
            Self::Iterator => "probe_iter",
            Self::Lsm => "probe_lsm",
        }
    }
}

/// What became of a program of a kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trial {
    /// It was loaded and attached.
    Live,
    /// It was, and the kernel never ran it: security modules that are programs are not asked.
    NotAsked,
    /// It was loaded, but not attached.
    Loaded(Refusal),
    /// It was not loaded.
    Refused(Refusal),
}

/// Why the kernel did not take a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The system call's error; none where it was not even asked.
    pub errno: Option<i32>,
    /// In words.
    pub why: String,
}

impl Refusal {
    fn new(error: &(dyn std::error::Error + 'static)) -> Self {
        // The verifier's log is long; its last line says it.
        let log = chain(error).find_map(verifier_log);
        let last = log.as_deref().and_then(|log| log.lines().last());
        let (errno, cause) = (errno(error), cause(error));
        Self {
            errno,
            why: last.map_or(cause.clone(), |last| format!("{cause}: {last}")),
        }
    }
}

/// Functions that are watched, and those that are not.
#[derive(Default)]
pub struct Watched {
    /// Those whose answers are seen.
    pub live: Vec<Function>,
    /// Those that this kernel does not let us see, or does not have.
    pub missing: Vec<(Function, Refusal)>,
}

impl Programs {
    /// Loads and attaches a program of every kind, and takes it off again.
    pub fn try_kinds(&mut self) -> [(Kind, Trial); Kind::ALL.len()] {
        self.control.request.tid.set(crate::process::own_tid());
        Kind::ALL.map(|kind| (kind, self.try_kind(kind)))
    }

    fn try_kind(&mut self, kind: Kind) -> Trial {
        let btf = match self.types.get() {
            Ok(btf) => btf,
            Err(e) => return Trial::Refused(Refusal::new(&*e)),
        };
        let Some(program) = self.ebpf.program_mut(kind.program()) else {
            return Trial::Refused(Refusal::new(&ProgramError::UnexpectedProgramType));
        };
        if let Err(e) = load(program, btf) {
            return Trial::Refused(Refusal::new(&e));
        }
        let attached = attach(program);
        let trial = match attached {
            Ok(()) if kind == Kind::Lsm && self.is_lsm_asked() == Some(false) => Trial::NotAsked,
            Ok(()) => Trial::Live,
            Err(e) => Trial::Loaded(Refusal::new(&e)),
        };
        self.take_off(kind.program());
        trial
    }

    /// Whether our own open(2) came by the attached probe.
    fn is_lsm_asked(&mut self) -> Option<bool> {
        self.forget_answers().ok()?;
        drop(File::open("/dev/null").ok()?);
        Some(self.answers_at(LSM_PROBE).ok()?.calls > 0)
    }

    /// Detaches and unloads every hook and probe, all but the carrier.
    pub fn take_hooks_off(&mut self) {
        let names = self.ebpf.programs().map(|(name, _)| name.to_owned());
        for name in names.collect::<Vec<_>>() {
            if name != CARRIER {
                self.take_off(&name);
            }
        }
        // They hold their programs.
        self.faults = FaultEvents::default();
    }

    /// What was never loaded is off already.
    fn take_off(&mut self, name: &str) {
        let _ = match self.ebpf.program_mut(name) {
            Some(Program::RawTracePoint(p)) => p.unload(),
            Some(Program::BtfTracePoint(p)) => p.unload(),
            Some(Program::TracePoint(p)) => p.unload(),
            Some(Program::PerfEvent(p)) => p.unload(),
            Some(Program::Iter(p)) => p.unload(),
            Some(Program::Lsm(p)) => p.unload(),
            Some(Program::FEntry(p)) => p.unload(),
            Some(Program::FExit(p)) => p.unload(),
            _ => Ok(()),
        };
    }

    /// Watches what the functions on the way to /dev/mem answer to this thread, those of them that this kernel lets
    /// us watch.
    pub fn watch_functions(&mut self) -> Watched {
        self.control.request.tid.set(crate::process::own_tid());
        let mut watched = Watched::default();
        let Self { ebpf, types, .. } = self;
        let btf = types.get();
        for function in Function::ALL {
            let attached = match &btf {
                Ok(btf) => watch_function(ebpf, function, btf),
                Err(e) => Err(Refusal::new(&**e)),
            };
            match attached {
                Ok(()) => watched.live.push(function),
                Err(why) => watched.missing.push((function, why)),
            }
        }
        watched
    }

    /// What a watched function answered since the last [`Self::forget_answers`].
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn answers(&self, function: Function) -> Result<Answers> {
        self.answers_at(function as u32)
    }

    fn answers_at(&self, place: u32) -> Result<Answers> {
        let map = self.ebpf.map("ANSWERS").context("no map ANSWERS")?;
        let map: Array<&MapData, [u64; 3]> = Array::try_from(map).context("ANSWERS")?;
        let words = map.get(&place, 0).context("ANSWERS")?;
        Ok(Answers::from_words(words))
    }

    /// Sets all answers back to none.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn forget_answers(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("ANSWERS").context("no map ANSWERS")?;
        let mut map: Array<&mut MapData, [u64; 3]> = Array::try_from(map).context("ANSWERS")?;
        for place in 0..PLACES {
            map.set(place, Answers::default().to_words(), 0)
                .context("ANSWERS")?;
        }
        Ok(())
    }
}

fn load(program: &mut Program, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::RawTracePoint(p) => p.load(),
        Program::BtfTracePoint(p) => p.load("exit_mmap", btf),
        Program::TracePoint(p) => p.load(),
        Program::PerfEvent(p) => p.load(),
        Program::Iter(p) => p.load("task", btf),
        Program::Lsm(p) => p.load("file_open", btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn attach(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::RawTracePoint(p) => p.attach("exit_mmap").map(drop),
        Program::BtfTracePoint(p) => p.attach().map(drop),
        Program::TracePoint(p) => p.attach("sched", "sched_process_exit").map(drop),
        Program::PerfEvent(p) => FaultEvents::default().attach(
            p,
            FaultKind::Minor,
            (std::process::id(), std::process::id()),
        ),
        Program::Iter(p) => p.attach().map(drop),
        Program::Lsm(p) => p.attach().map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn watch_function(ebpf: &mut Ebpf, function: Function, btf: &Btf) -> Result<(), Refusal> {
    let Some(Program::FExit(program)) = ebpf.program_mut(function.name()) else {
        return Err(Refusal::new(&ProgramError::UnexpectedProgramType));
    };
    program
        .load(function.name(), btf)
        .and_then(|()| program.attach().map(drop))
        .map_err(|e| Refusal::new(&e))
}
