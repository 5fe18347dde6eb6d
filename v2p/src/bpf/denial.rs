//! What `v2p doctor` asks of eBPF: which kinds of programs load here, and what the kernel's functions answer.

use std::io;

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf,
    maps::{Array, MapData},
    programs::{Program, ProgramError},
};
use v2p_common::witness::{Answers, Function};

use super::{Programs, refused::verifier_log};

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
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::RawTracepoint,
        Self::TpBtf,
        Self::Tracepoint,
        Self::PerfEvent,
        Self::Iterator,
    ];

    /// As libbpf calls it in section names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RawTracepoint => "raw_tp",
            Self::TpBtf => "tp_btf",
            Self::Tracepoint => "tracepoint",
            Self::PerfEvent => "perf_event",
            Self::Iterator => "iter",
        }
    }

    /// A program of that kind in the object.
    const fn program(self) -> &'static str {
        match self {
            Self::RawTracepoint => "exit_mmap",
            Self::TpBtf => "probe_tp_btf",
            Self::Tracepoint => "probe_tracepoint",
            Self::PerfEvent => "fault_minor",
            Self::Iterator => "probe_iter",
        }
    }
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
        let chain: Vec<_> = std::iter::successors(Some(error), |e| e.source()).collect();
        let errno = chain
            .iter()
            .filter_map(|e| e.downcast_ref::<io::Error>())
            .find_map(io::Error::raw_os_error);
        // The verifier's log is long; its last line says it.
        let log = chain.iter().find_map(|e| verifier_log(*e));
        let last = log.as_deref().and_then(|log| log.lines().last());
        let cause = chain.last().map(ToString::to_string).unwrap_or_default();
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
    /// Loads a program of every kind, and attaches it to nothing; the kernel's reason where it takes none.
    pub fn load_kinds(&mut self) -> [(Kind, Result<(), Refusal>); Kind::ALL.len()] {
        let Self { ebpf, types, .. } = self;
        let btf = types.get();
        Kind::ALL.map(|kind| {
            let loaded = match &btf {
                Ok(btf) => load_kind(ebpf, kind, btf).map_err(|e| Refusal::new(&e)),
                Err(e) => Err(Refusal::new(&**e)),
            };
            (kind, loaded)
        })
    }

    /// Watches what the functions on the way to /dev/mem answer to this thread, those of them that this kernel lets
    /// us watch.
    pub fn watch_functions(&mut self) -> Watched {
        self.control.request.tid.set(crate::carrier::own_tid());
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
        let map = self.ebpf.map("ANSWERS").context("no map ANSWERS")?;
        let map: Array<&MapData, [u64; 3]> = Array::try_from(map).context("ANSWERS")?;
        let words = map.get(&(function as u32), 0).context("ANSWERS")?;
        Ok(Answers::from_words(words))
    }

    /// Starts anew.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn forget_answers(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("ANSWERS").context("no map ANSWERS")?;
        let mut map: Array<&mut MapData, [u64; 3]> = Array::try_from(map).context("ANSWERS")?;
        for function in Function::ALL {
            map.set(function as u32, Answers::default().to_words(), 0)
                .context("ANSWERS")?;
        }
        Ok(())
    }
}

fn load_kind(ebpf: &mut Ebpf, kind: Kind, btf: &Btf) -> Result<(), ProgramError> {
    match ebpf.program_mut(kind.program()) {
        Some(Program::RawTracePoint(p)) => p.load(),
        Some(Program::BtfTracePoint(p)) => p.load("exit_mmap", btf),
        Some(Program::TracePoint(p)) => p.load(),
        Some(Program::PerfEvent(p)) => p.load(),
        Some(Program::Iter(p)) => p.load("task", btf),
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
