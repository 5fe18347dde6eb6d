//! The lab: guests under QEMU, with kernels that this machine does not run.

pub(crate) mod apt;
mod built;
mod gdb;
mod initramfs;
mod kernel;
mod modules;
mod opened;
mod qemu;
pub(crate) mod source;
mod wire;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

pub(crate) use kernel::Kernel;

use crate::{
    build::{self, Executable},
    setup, shell,
};

/// MiB of memory that a guest has, if not told otherwise.
pub(crate) const MEMORY: u32 = 1024;

/// The NUMA nodes of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::ValueEnum)]
pub(crate) enum Nodes {
    #[default]
    One,
    /// Alike, with a CPU each.
    Two,
    /// The second has no CPU and is slower: a tier of its own.
    Tiers,
}

/// How a guest is to be.
#[derive(Clone)]
pub(crate) struct Options {
    /// A name such as `opened-6.12`, or a path.
    pub(crate) kernel: String,
    /// More words for the kernel's command line.
    pub(crate) append: String,
    pub(crate) nodes: Nodes,
    /// MiB of memory.
    pub(crate) memory: u32,
    /// Hardware virtualisation.
    pub(crate) kvm: bool,
    /// When to give up.
    pub(crate) timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernel: "opened-6.12".to_owned(),
            append: String::new(),
            nodes: Nodes::One,
            memory: MEMORY,
            kvm: false,
            timeout: Duration::from_secs(300),
        }
    }
}

/// What a guest runs.
pub(crate) struct Job {
    /// Files beyond init and the kernel's own: place in the guest, place here.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// The command; the first word is a path in the guest.
    pub(crate) command: Vec<String>,
    /// Environment variables.
    pub(crate) environment: Vec<(String, String)>,
}

/// Runs a command of v2p in a guest, its output on ours; gives its exit code.
pub(crate) fn run_v2p(options: &Options, command: &[String]) -> Result<u8> {
    let executables = build::binaries()?;
    let arguments = match command.split_first() {
        Some((first, rest)) if first == "v2p" => rest,
        _ => command,
    };
    let job = Job {
        files: vec![(
            "/bin/v2p".to_owned(),
            build::binary(&executables, "v2p")?.path.clone(),
        )],
        command: std::iter::once("/bin/v2p".to_owned())
            .chain(arguments.iter().cloned())
            .collect(),
        environment: Vec::new(),
    };
    let kernel = prepare(options, &executables)?;
    let status = shell::timed(&format!("guest with {}", kernel.description), || {
        run(options, &kernel, &executables, &job, &mut Terminal)
    })?;
    Ok(u8::try_from(status).unwrap_or(2))
}

/// Installs and fetches what the guest needs.
pub(crate) fn prepare(options: &Options, executables: &[Executable]) -> Result<Kernel> {
    setup::packages(&[("qemu-system-x86_64", "qemu-system-x86")])?;
    Kernel::get(
        &options.kernel,
        &build::binary(executables, "guest-init")?.path,
    )
}

/// Boots a guest, runs the job, and gives its exit status.
pub(crate) fn run(
    options: &Options,
    kernel: &Kernel,
    executables: &[Executable],
    job: &Job,
    sink: &mut dyn Sink,
) -> Result<i32> {
    boot(
        options,
        kernel,
        &build::binary(executables, "guest-init")?.path,
        job,
        sink,
    )
}

fn boot(
    options: &Options,
    kernel: &Kernel,
    init: &Path,
    job: &Job,
    sink: &mut dyn Sink,
) -> Result<i32> {
    let run = tempfile::Builder::new()
        .prefix("v2p-lab-")
        .tempdir()
        .context("a folder for the run")?;
    let initrd = run.path().join("initrd");
    initramfs::write(&initrd, init, &kernel.files, job)?;
    qemu::run(options, kernel, &initrd, run.path(), sink)
}

/// Where a guest's output goes.
pub(crate) trait Sink {
    /// Bytes that the command wrote on stdout.
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Bytes that it wrote on stderr.
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A guest's output on ours.
struct Terminal;

impl Sink for Terminal {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout();
        out.write_all(bytes)?;
        out.flush()
    }
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().write_all(bytes)
    }
}

/// A guest's output, kept.
#[derive(Default)]
pub(crate) struct Kept {
    /// All of stdout.
    pub(crate) stdout: Vec<u8>,
    /// All of stderr.
    pub(crate) stderr: Vec<u8>,
}

impl Sink for Kept {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.extend(bytes);
        Ok(())
    }
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stderr.extend(bytes);
        Ok(())
    }
}
