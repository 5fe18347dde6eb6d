//! The only file that names aya: loads the object, attaches programs, hands out ring and control block.

use std::{
    fs,
    io::Write as _,
    ops::Deref,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    rc::Rc,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, RingBuf},
    programs::{
        PerfEvent, Program, ProgramError, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};
use rustix::mm::{MapFlags, ProtFlags};
use tokio::io::unix::AsyncFd;
use v2p_common::{
    control::{Control, Table},
    layout::KernelLayout,
};

use crate::{exit::Failure, kernel::lockdown::Lockdown, page::PAGE_LEN};

/// The object that `cargo xtask ebpf` makes from v2p-ebpf.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../v2p.bpf.o");

/// The program that serves requests; all others are hooks.
pub const CARRIER: &str = "carrier";

/// Page tables that one request can have copied: of 512 MiB of address space.
pub const TABLES: usize = 256;

/// Bytes of the event ring.
pub const RING_BYTES: u32 = 4 << 20;

/// The loaded object. Nothing is pinned: when this process ends, however it ends, the kernel
/// takes programs, links and maps down.
pub struct Programs {
    ebpf: Ebpf,
    control: Rc<SharedControl>,
    tables: Option<SharedTables>,
}

/// A page-fault program: which faults it is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// No I/O was waited for.
    Minor,
    /// The page came from disk or swap.
    Major,
}

impl FaultKind {
    const fn program(self) -> &'static str {
        match self {
            Self::Minor => "fault_minor",
            Self::Major => "fault_major",
        }
    }
    const fn event(self) -> SoftwareEvent {
        match self {
            Self::Minor => SoftwareEvent::PageFaultsMin,
            Self::Major => SoftwareEvent::PageFaultsMaj,
        }
    }
}

impl Programs {
    /// Creates the maps; programs are loaded as they are attached.
    ///
    /// # Errors
    /// Exit code 3 where this kernel or these privileges have no eBPF.
    pub fn load(layout: &KernelLayout) -> Result<Self> {
        let layout = layout.to_bytes();
        let mut loader = EbpfLoader::new();
        loader
            .override_global("LAYOUT", layout.as_slice(), true)
            .map_max_entries("EVENTS", RING_BYTES)
            .map_max_entries("TABLES", u32::try_from(TABLES)?);
        let mut ebpf = object(&mut loader)
            .map_err(|e| unsupported("the eBPF maps could not be created", &e))?;
        let mut mapped = |name: &str, len| match ebpf.take_map(name) {
            Some(Map::Array(map)) => {
                MappedArray::new(map, len).with_context(|| format!("mmap of the map {name}"))
            }
            _ => anyhow::bail!("the eBPF object has no map {name}"),
        };
        let control = Rc::new(SharedControl(mapped("CONTROL", size_of::<Control>())?));
        let tables = Some(SharedTables(mapped("TABLES", TABLES * size_of::<Table>())?));
        #[cfg(feature = "ebpf-log")]
        start_log(&mut ebpf)?;
        Ok(Self {
            ebpf,
            control,
            tables,
        })
    }

    /// The block shared with the programs.
    pub fn control(&self) -> Rc<SharedControl> {
        Rc::clone(&self.control)
    }

    /// The page tables that the carrier copies; taken once, by the one who asks it.
    pub(crate) fn take_tables(&mut self) -> Result<SharedTables> {
        self.tables.take().context("the tables are taken already")
    }

    /// Loads a raw-tracepoint program and attaches it to the tracepoint of its name.
    ///
    /// # Errors
    /// Exit code 3, with the kernel's reason.
    pub fn attach_tracepoint(&mut self, program: &str, tracepoint: &str) -> Result<()> {
        let attached = match self.ebpf.program_mut(program) {
            Some(Program::RawTracePoint(p)) => load_and_attach_raw(p, tracepoint),
            _ => anyhow::bail!("the eBPF object has no raw-tracepoint program {program}"),
        };
        attached.map_err(|e| unsupported(&format!("{tracepoint}: cannot be attached"), &e))
    }

    /// Attaches the program for `kind` of faults to one thread, and to those that it starts.
    ///
    /// # Errors
    /// Exit code 3, with the kernel's reason; also where the thread has ended.
    pub fn attach_faults(&mut self, kind: FaultKind, tid: u32) -> Result<()> {
        let program = match self.ebpf.program_mut(kind.program()) {
            Some(Program::PerfEvent(p)) => p,
            _ => anyhow::bail!("the eBPF object has no program {}", kind.program()),
        };
        attach_perf(program, kind, tid).map_err(|e| {
            unsupported(
                &format!("{}: cannot be attached to thread {tid}", kind.program()),
                &e,
            )
        })
    }

    /// Takes the event ring, ready to be waited for. There is one.
    ///
    /// # Errors
    /// Outside a tokio runtime, or the second time.
    pub fn take_ring(&mut self) -> Result<Ring> {
        let map = self
            .ebpf
            .take_map("EVENTS")
            .context("the event ring is taken already")?;
        let ring = RingBuf::try_from(map).context("the event ring")?;
        // SAFETY: the map's descriptor is open as long as the ring, and always the same.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Ring(ring.map_err(|e| {
            anyhow!("the event ring cannot be polled: {e}")
        })?))
    }

    /// Times that the kernel skipped one of the hooks because it was running on that CPU already, summed;
    /// `None` where the kernel does not count (before 5.12). The carrier, which is no hook, asks again
    /// instead: see [`crate::carrier`].
    pub fn recursion_misses(&self) -> Option<u64> {
        let mut sum = 0;
        for (_, program) in self.ebpf.programs().filter(|(name, _)| *name != CARRIER) {
            if let Ok(fd) = program.fd() {
                sum += misses_of(fd.as_fd())?;
            }
        }
        Some(sum)
    }
}

#[cfg(not(feature = "ebpf-log"))]
fn object(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, aya::EbpfError> {
    loader.load(OBJECT)
}

/// In a build for the programs' authors, V2P_BPF_OBJECT names the object to load.
#[cfg(feature = "ebpf-log")]
fn object(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, aya::EbpfError> {
    match std::env::var_os("V2P_BPF_OBJECT") {
        Some(path) => loader.load_file(path),
        None => loader.load(OBJECT),
    }
}

#[cfg(feature = "ebpf-log")]
fn start_log(ebpf: &mut Ebpf) -> Result<()> {
    let _ = env_logger::builder()
        .filter_level(log::LevelFilter::Debug)
        .try_init();
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => {
            // SAFETY: the map's descriptor is open as long as the logger, and always the same.
            let logger = unsafe { AsyncFd::register(logger) };
            let mut logger = logger.map_err(|e| anyhow!("the programs' log: {e}"))?;
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

fn load_and_attach_raw(p: &mut RawTracePoint, tracepoint: &str) -> Result<(), ProgramError> {
    p.load()?;
    p.attach(tracepoint)?;
    Ok(())
}

fn attach_perf(p: &mut PerfEvent, kind: FaultKind, tid: u32) -> Result<(), ProgramError> {
    if p.fd().is_err() {
        p.load()?;
    }
    p.attach(
        PerfEventConfig::Software(kind.event()),
        PerfEventScope::OneProcess {
            pid: tid,
            cpu: None,
        },
        SamplePolicy::Period(1),
        true,
    )?;
    Ok(())
}

/// An eBPF error as one line: the innermost cause, and what that usually means.
fn unsupported(what: &str, error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let chain: Vec<_> = std::iter::successors(Some(error), |e| e.source()).collect();
    let cause = chain.last().map(ToString::to_string).unwrap_or_default();
    let errno = chain
        .iter()
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .find_map(std::io::Error::raw_os_error);
    let log = chain.iter().find_map(|e| verifier_log(*e));
    if let (Some(log), true) = (&log, std::env::var_os("V2P_VERIFIER_LOG").is_some()) {
        // Asked for by name; nobody may be listening.
        let _ = writeln!(std::io::stderr(), "{log}");
    }
    let failure = Failure::unsupported(format!("{what}: {cause}"));
    if let Some(lockdown) = Lockdown::read().filter(|l| l.mode == "confidentiality") {
        let hint = format!(
            "the kernel is locked down, eBPF may not read its memory: {}",
            lockdown.evidence
        );
        return failure.hint(hint).into();
    }
    let hint = match errno {
        Some(libc::EACCES) if log.is_some() => {
            "the kernel's verifier refused the program: please report it with what V2P_VERIFIER_LOG=1 adds to the output"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "run it as root; in a container the host may forbid eBPF (seccomp)"
        }
        Some(libc::ENOENT) => {
            "this kernel has no such tracepoint (CONFIG_TRACEPOINTS, CONFIG_FTRACE)"
        }
        Some(libc::ENOSYS) => "this kernel has no eBPF (CONFIG_BPF_SYSCALL)",
        _ => return failure.into(),
    };
    failure.hint(hint).into()
}

/// What the verifier said of a program that it refused.
fn verifier_log(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    match error.downcast_ref() {
        Some(ProgramError::LoadError { verifier_log, .. }) => {
            Some(verifier_log.to_string()).filter(|log| !log.is_empty())
        }
        _ => None,
    }
}

fn misses_of(fd: BorrowedFd<'_>) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    info.lines()
        .find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
}

/// The event ring.
pub struct Ring(AsyncFd<RingBuf<MapData>>);

impl Ring {
    /// Hands every record that is there to `each`, which gets its bytes.
    ///
    /// # Errors
    /// The first that `each` makes; records after it stay in the ring.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while let Some(record) = self.0.get_mut().next() {
            each(&record)?;
        }
        Ok(())
    }

    /// Waits until there may be records.
    ///
    /// # Errors
    /// Where the ring cannot be polled.
    pub async fn readable(&mut self) -> Result<()> {
        let mut ready = self.0.readable_mut().await.context("the event ring")?;
        ready.clear_ready();
        Ok(())
    }
}

/// The values of a memory-mapped array map, in our own memory.
struct MappedArray {
    place: NonNull<u8>,
    len: usize,
    /// Keeps the map alive.
    _map: MapData,
}

impl MappedArray {
    /// `len`: bytes of all values.
    fn new(map: MapData, len: usize) -> Result<Self> {
        let len = len.next_multiple_of(PAGE_LEN);
        // SAFETY: a new mapping touches nothing that exists.
        let place = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd().as_fd(),
                0,
            )
        }?;
        let place = NonNull::new(place.cast()).context("mmap gave address 0")?;
        Ok(Self {
            place,
            len,
            _map: map,
        })
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it outlives self.
        let _ = unsafe { rustix::mm::munmap(self.place.as_ptr().cast(), self.len) };
    }
}

/// The block shared with the programs.
pub struct SharedControl(MappedArray);

impl Deref for SharedControl {
    type Target = Control;

    fn deref(&self) -> &Control {
        // SAFETY: mapped until drop, and as long as a Control; every field is a `Word`, which others may
        // write at any time.
        unsafe { self.0.place.cast().as_ref() }
    }
}

/// Page tables that the carrier copied.
pub struct SharedTables(MappedArray);

impl SharedTables {
    /// The table of block `index` of the last request; `None` beyond [`TABLES`]. Not to be read while a request is
    /// under way.
    pub fn get(&self, index: usize) -> Option<&Table> {
        // SAFETY: `index` is inside the mapping. The program writes only inside a system call of this thread.
        (index < TABLES).then(|| unsafe { self.0.place.cast::<Table>().add(index).as_ref() })
    }
}
