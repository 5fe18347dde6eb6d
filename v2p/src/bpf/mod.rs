//! The only folder that names aya: loads the object, attaches programs, hands out ring and control block.

mod cast;
mod denial;
mod faults;
mod followed;
mod lanes;
mod loader;
mod misses;
mod refused;
mod ring;
mod shared;
#[cfg(test)]
pub(crate) mod tests;
mod tiny;
mod types;

use std::{os::fd::AsFd as _, rc::Rc};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{Program, ProgramError, RawTracePoint, raw_trace_point::RawTracePointLinkId},
};
use v2p_common::{
    control::{Control, Table},
    lane::{Lane, Slot},
    layout::KernelLayout,
};

use self::{
    faults::FaultEvents,
    misses::misses_of,
    refused::{no_maps, unsupported},
    shared::MappedArray,
    types::Types,
};
use crate::{exit::Failure, kernel::layout::Learnt};

pub use self::{
    denial::{Kind, Refusal, Trial, Watched},
    faults::FaultKind,
    lanes::Lanes,
    ring::Ring,
    shared::{SharedControl, SharedTables},
};

/// The object that `cargo xtask ebpf` makes from v2p-ebpf.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../v2p.bpf.o");

/// The program that serves requests; all others are hooks.
pub const CARRIER: &str = "carrier";

/// Programs whose skipping loses nothing: the carrier is asked again, and what the other did not tell of is read.
const MADE_UP_FOR: [&str; 2] = [CARRIER, "mm_filemap_map_pages"];

/// Hooks that tell no events, but leave word for those that do.
const HELPING: [&str; 5] = [
    "zap_begins",
    "collapse_file_begins",
    "page_fault_user",
    "page_fault_kernel",
    "fault_begins",
];

/// Page tables that one request can have copied: of 512 MiB of address space.
pub const TABLES: usize = 256;

/// Bytes of the event ring.
pub const RING_BYTES: u32 = 16 << 20;

/// A page, which is the least.
const LEAST_RING_BYTES: u32 = 4096;

/// How much room there is for events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    ForEvents,
    Least,
}

/// The loaded object. Nothing is pinned: when this process ends, however it ends, the kernel
/// takes programs, links and maps down.
pub struct Programs {
    ebpf: Ebpf,
    layout: KernelLayout,
    control: Rc<SharedControl>,
    tables: Option<SharedTables>,
    lanes: Option<Lanes>,
    room: Room,
    faults: FaultEvents,
    /// The carrier's attachment, while there is one.
    carrier: Option<RawTracePointLinkId>,
    /// The kernel's types as aya wants them.
    types: Types,
    /// Why this kernel takes no function hooks at all, once it has said so.
    no_functions: Option<String>,
    /// See [`Learnt::zap`].
    zap: &'static str,
}

impl Programs {
    /// Creates the maps; programs are loaded as they are attached.
    ///
    /// # Errors
    /// Exit code 3 where this kernel or these privileges have no eBPF.
    pub fn load(learnt: &Learnt) -> Result<Self> {
        Self::load_with(Types::Unread, learnt, Room::ForEvents)
    }

    /// As [`Self::load`], for who will ask the carrier alone: without room for events, which takes the kernel as long to make
    /// as all else.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn load_to_ask(learnt: &Learnt) -> Result<Self> {
        Self::load_with(Types::Unread, learnt, Room::Least)
    }

    /// As [`Self::load`], for who will attach to functions too: what that needs is read on the side, since it takes as long as
    /// all else; but not where such programs are not permitted.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_for_functions(learnt: &Learnt) -> Result<Self> {
        let refused = learnt.some_function.and_then(tiny::functions_are_refused);
        let types = match &refused {
            Some(_) => Types::Unread,
            None => Types::coming(),
        };
        let mut programs = Self::load_with(types, learnt, Room::ForEvents)?;
        programs.no_functions = refused.map(|e| e.to_string());
        Ok(programs)
    }

    fn load_with(types: Types, learnt: &Learnt, room: Room) -> Result<Self> {
        let layout = cast::tried(learnt.layout);
        let mut loader = loader::loader();
        let (lanes, slots) = lanes::sizes(lanes::cpus()?);
        let (ring, slots) = match room {
            Room::ForEvents => (RING_BYTES, slots),
            Room::Least => (LEAST_RING_BYTES, 1),
        };
        loader
            .override_global("LAYOUT", layout.as_bytes(), true)
            .map_max_entries("EVENTS", ring)
            .map_max_entries("LANES", u32::try_from(lanes)?)
            .map_max_entries("FAULTS", u32::try_from(lanes * slots)?)
            .map_max_entries("TABLES", u32::try_from(TABLES)?);
        let mut ebpf = object(&mut loader, &layout).map_err(|e| no_maps(&e))?;
        let mut mapped = |name: &str, len| match ebpf.take_map(name) {
            Some(Map::Array(map)) => {
                MappedArray::new(map, len).with_context(|| format!("mmap of the map {name}"))
            }
            _ => anyhow::bail!("the eBPF object has no map {name}"),
        };
        let control = Rc::new(SharedControl(mapped("CONTROL", size_of::<Control>())?));
        control.account.crowded.set(u64::from(ring) / 4);
        control.account.lane.set(slots as u64);
        let lanes = Some(Lanes::new(
            mapped("LANES", lanes * size_of::<Lane>())?,
            mapped("FAULTS", lanes * slots * size_of::<Slot>())?,
            (lanes, slots),
        ));
        let tables = Some(SharedTables(mapped("TABLES", TABLES * size_of::<Table>())?));
        #[cfg(feature = "ebpf-log")]
        start_log(&mut ebpf)?;
        Ok(Self {
            ebpf,
            layout,
            control,
            tables,
            lanes,
            room,
            faults: FaultEvents::default(),
            carrier: None,
            types,
            no_functions: None,
            zap: learnt.zap,
        })
    }

    /// The function of this kernel that takes entries out of a range.
    pub(crate) const fn zap(&self) -> &'static str {
        self.zap
    }

    /// What the programs were told of this kernel.
    pub const fn layout(&self) -> &KernelLayout {
        &self.layout
    }

    /// The block shared with the programs.
    pub fn control(&self) -> Rc<SharedControl> {
        Rc::clone(&self.control)
    }

    /// The page tables that the carrier copies; taken once, by the one who asks it.
    pub(crate) fn take_tables(&mut self) -> Result<SharedTables> {
        self.tables.take().context("the tables are taken already")
    }

    /// Loads a program for the start or the return of the kernel's function `function`, and attaches it.
    ///
    /// # Errors
    /// Exit code 3, with the kernel's reason: it refuses such hooks, has no such function, or cannot hook it.
    pub fn attach_function(&mut self, program: &str, function: &str) -> Result<()> {
        let what = format!("{function}: cannot be attached");
        if let Some(why) = &self.no_functions {
            return Err(Failure::unsupported(format!("{what}: {why}")).into());
        }
        let btf = self.types.get().map_err(|e| unsupported(&what, &*e))?;
        let attached = match self.ebpf.program_mut(program) {
            // What cannot be attached is unloaded, so that it can be tried on another function.
            Some(Program::FEntry(p)) => p
                .load(function, btf)
                .and_then(|()| p.attach().map(|_| ()).or_else(|e| p.unload().and(Err(e)))),
            Some(Program::FExit(p)) => p
                .load(function, btf)
                .and_then(|()| p.attach().map(|_| ()).or_else(|e| p.unload().and(Err(e)))),
            _ => anyhow::bail!("the eBPF object has no function program {program}"),
        };
        attached.map_err(|e| {
            // Not this function, but such programs are not permitted.
            if let ProgramError::LoadError { io_error, .. } = &e
                && io_error.raw_os_error() == Some(libc::EPERM)
            {
                self.no_functions = Some(io_error.to_string());
            }
            unsupported(&what, &e)
        })
    }

    /// Loads the carrier, and attaches it to `tracepoint`.
    ///
    /// # Errors
    /// Exit code 3, with the kernel's reason.
    pub(crate) fn attach_carrier(&mut self, tracepoint: &str) -> Result<()> {
        self.carrier = Some(self.attach_raw(CARRIER, tracepoint)?);
        Ok(())
    }

    /// Takes it off.
    ///
    /// # Errors
    /// Where it is not attached.
    pub(crate) fn detach_carrier(&mut self) -> Result<()> {
        let link = self.carrier.take().context("the carrier is not attached")?;
        match self.ebpf.program_mut(CARRIER) {
            Some(Program::RawTracePoint(p)) => p.detach(link).context("the carrier"),
            _ => anyhow::bail!("the eBPF object has no carrier"),
        }
    }

    /// Loads a raw-tracepoint program and attaches it to `tracepoint`.
    ///
    /// # Errors
    /// Exit code 3, with the kernel's reason.
    pub fn attach_tracepoint(&mut self, program: &str, tracepoint: &str) -> Result<()> {
        self.attach_raw(program, tracepoint).map(|_| ())
    }

    fn attach_raw(&mut self, program: &str, tracepoint: &str) -> Result<RawTracePointLinkId> {
        let attached = match self.ebpf.program_mut(program) {
            Some(Program::RawTracePoint(p)) => load_and_attach_raw(p, tracepoint),
            _ => anyhow::bail!("the eBPF object has no raw-tracepoint program {program}"),
        };
        attached.map_err(|e| unsupported(&format!("{tracepoint}: cannot be attached"), &e))
    }

    /// Takes the event ring, ready to be waited for. There is one.
    ///
    /// # Errors
    /// Outside a tokio runtime, or the second time.
    pub fn take_ring(&mut self) -> Result<Ring> {
        anyhow::ensure!(
            self.room == Room::ForEvents,
            "there is no room for events: the programs were loaded to be asked"
        );
        let map = self
            .ebpf
            .take_map("EVENTS")
            .context("the event ring is taken already")?;
        Ring::new(map)
    }

    /// Takes the lanes of faults. There is one reader.
    ///
    /// # Errors
    /// The second time.
    pub fn take_lanes(&mut self) -> Result<Lanes> {
        self.lanes.take().context("the lanes are taken already")
    }

    /// Times that the kernel skipped one of the hooks because it was running on that CPU already, summed: of those that tell
    /// events, and of those that only leave word for others. `None` where the kernel does not count (before 5.12). Whose
    /// skipping loses nothing does not count.
    pub fn recursion_misses(&self) -> Option<(u64, u64)> {
        let (mut told, mut helping) = (0, 0);
        for (name, misses) in self.misses() {
            let sum = match HELPING.contains(&name) {
                true => &mut helping,
                false => &mut told,
            };
            *sum += misses?;
        }
        Some((told, helping))
    }

    /// The hooks that the kernel skipped, by the names of their programs, and how often.
    pub fn skipped(&self) -> Vec<(String, u64)> {
        let counted = self
            .misses()
            .map(|(name, misses)| (name.to_owned(), misses.unwrap_or(0)));
        counted.filter(|(_, misses)| *misses > 0).collect()
    }

    fn misses(&self) -> impl Iterator<Item = (&str, Option<u64>)> {
        let programs = self.ebpf.programs();
        let hooks = programs.filter(|(name, _)| !MADE_UP_FOR.contains(name));
        hooks.filter_map(|(name, program)| Some((name, misses_of(program.fd().ok()?.as_fd()))))
    }
}

#[cfg(not(feature = "ebpf-log"))]
fn object(loader: &mut EbpfLoader<'_>, layout: &KernelLayout) -> Result<Ebpf, aya::EbpfError> {
    loader.load(&cast::fitted(OBJECT, layout))
}

/// In a build for the programs' authors, V2P_BPF_OBJECT names the object to load.
#[cfg(feature = "ebpf-log")]
fn object(loader: &mut EbpfLoader<'_>, layout: &KernelLayout) -> Result<Ebpf, aya::EbpfError> {
    let Some(path) = std::env::var_os("V2P_BPF_OBJECT") else {
        return loader.load(&cast::fitted(OBJECT, layout));
    };
    let object = std::fs::read(&path).map_err(|error| aya::EbpfError::FileError {
        path: path.into(),
        error,
    })?;
    loader.load(&cast::fitted(&object, layout))
}

#[cfg(feature = "ebpf-log")]
fn start_log(ebpf: &mut Ebpf) -> Result<()> {
    let _ = env_logger::builder()
        .filter_level(log::LevelFilter::Debug)
        .try_init();
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => {
            // SAFETY: the map's descriptor is open as long as the logger, and always the same.
            let logger = unsafe { tokio::io::unix::AsyncFd::register(logger) };
            let mut logger = logger.map_err(|e| anyhow::anyhow!("the programs' log: {e}"))?;
            tokio::spawn(async move {
                while let Ok(mut guard) = logger.readable_mut().await {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
            });
        }
        Err(e) => anyhow::bail!("this object has no log: {e}"),
    }
    Ok(())
}

fn load_and_attach_raw(
    p: &mut RawTracePoint,
    tracepoint: &str,
) -> Result<RawTracePointLinkId, ProgramError> {
    if p.fd().is_err() {
        p.load()?;
    }
    p.attach(tracepoint)
}
