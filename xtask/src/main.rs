//! What cargo cannot do: set up the toolchain, make the eBPF object, boot guests, run all tests.

mod bench;
mod build;
mod cache;
mod demo;
mod deny;
mod dist;
mod ebpf;
mod fresh;
mod guests;
mod harness;
mod lab;
mod matrix;
mod perfetto;
mod setup;
mod shell;
mod soak;
mod test;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What cargo cannot do")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Boot a guest in which /dev/mem opens, and run `v2p demo` there
    Demo(DemoArgs),
    /// Run every test there is: on this machine, as root on its kernel, and in guests
    Test(TestArgs),
    /// Run a command of v2p in a guest: cargo xtask lab -- demo --json
    Lab(LabArgs),
    /// Make the eBPF object v2p/v2p.bpf.o from v2p-ebpf
    Ebpf(EbpfArgs),
    /// Run every test there is, and print what works on which kernel as tables
    Matrix(MatrixArgs),
    /// Measure, on this machine's kernel as root: ratios to a reference in the same run
    Bench(BenchArgs),
    /// Hand every parser made-up bytes for longer than the unit tests do
    Fuzz(FuzzArgs),
    /// A long watch over a storm in a two-node guest: memory, losses, drift
    Soak(SoakArgs),
    /// Check what is built in: licences, sources, duplicates, advisories
    Deny,
    /// The README's commands on a Debian that has nothing but what the README asks for
    Fresh(FreshArgs),
    /// Make a Debian package: the static binary, man pages, completions
    Dist(DistArgs),
    /// Fetch what `ebpf`, `lab` and a test need: rust-src, bpf-linker, QEMU, Perfetto's schema
    Setup,
}

#[derive(Args)]
struct Guest {
    /// opened-6.1, opened-6.12, opened-7.3, stock-6.1, stock-6.12, stock-7.3, built-6.12, or the path of a kernel
    #[arg(long, default_value = "opened-6.12")]
    kernel: String,
    /// More words for the kernel's command line
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// NUMA nodes: one; two, with a CPU each; or tiers: the second slower and without a CPU
    #[arg(long, value_enum, default_value_t)]
    nodes: lab::Nodes,
    /// Memory
    #[arg(long, value_name = "MIB", default_value_t = lab::MEMORY)]
    memory: u32,
    /// Use /dev/kvm (off: many hosts have one that hangs)
    #[arg(long)]
    kvm: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

impl Guest {
    fn options(&self) -> lab::Options {
        lab::Options {
            kernel: self.kernel.clone(),
            append: self.append.clone(),
            nodes: self.nodes,
            memory: self.memory,
            kvm: self.kvm,
            timeout: Duration::from_secs(self.timeout),
        }
    }
}

#[derive(Args)]
struct LabArgs {
    #[command(flatten)]
    guest: Guest,
    /// A subcommand of v2p with its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Args)]
struct DemoArgs {
    #[command(flatten)]
    guest: Guest,
    /// Arguments for `v2p demo`
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Args)]
struct TestArgs {
    /// Only tests whose name has this in it
    filter: Option<String>,
    /// Only where the title has this in it: `this machine`, `opened-7.3`, `two nodes`, ...
    #[arg(long, value_name = "WHERE")]
    on: Option<String>,
}

#[derive(Args)]
struct MatrixArgs {
    /// Only where the title has this in it
    #[arg(long, value_name = "WHERE")]
    on: Option<String>,
}

#[derive(Args)]
struct FreshArgs {
    /// `cargo xtask test` only where the title has this in it
    #[arg(long, value_name = "WHERE")]
    on: Option<String>,
}

#[derive(Args)]
struct FuzzArgs {
    /// How long each parser is tried
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

#[derive(Args)]
struct SoakArgs {
    /// How long
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 1800)]
    seconds: u64,
}

#[derive(Args)]
struct BenchArgs {
    /// One JSON object a line on stdout instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DistArgs {
    /// The folder for the package: target/dist where it is not given
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

#[derive(Args)]
struct EbpfArgs {
    /// Make it, and compare it with the committed one
    #[arg(long, conflicts_with = "log")]
    check: bool,
    /// Make one with aya-log messages, beside the committed one, and say how to run it
    #[arg(long)]
    log: bool,
    /// Lint the programs instead of making the object
    #[arg(long, conflicts_with_all = ["check", "log"])]
    clippy: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(e) = shell::catch_interrupts() {
        eprintln!("xtask: signals: {e}");
        return ExitCode::from(2);
    }
    match run(cli.task) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(task: Task) -> Result<u8> {
    match task {
        Task::Demo(args) => demo::run(&args.guest.options(), &args.arguments),
        Task::Test(args) => test::run(
            args.filter.as_deref(),
            args.on.as_deref().unwrap_or_default(),
        ),
        Task::Lab(args) => lab::run_v2p(&args.guest.options(), &args.command),
        Task::Ebpf(args) if args.clippy => ebpf::clippy().map(|()| 0),
        Task::Ebpf(args) if args.check => ebpf::check().map(|()| 0),
        Task::Ebpf(args) if args.log => ebpf::with_log().map(|()| 0),
        Task::Ebpf(_) => ebpf::make().map(|()| 0),
        Task::Matrix(args) => matrix::run(args.on.as_deref().unwrap_or_default()),
        Task::Bench(args) => bench::run(args.json).map(|()| 0),
        Task::Fuzz(args) => test::fuzz(args.seconds).map(|()| 0),
        Task::Soak(args) => soak::run(args.seconds),
        Task::Deny => deny::run().map(|()| 0),
        Task::Fresh(args) => fresh::run(args.on.as_deref()).map(|()| 0),
        Task::Dist(args) => {
            let to = args.to.unwrap_or_else(|| root().join("target/dist"));
            println!("{}", dist::run(&to)?.display());
            Ok(0)
        }
        Task::Setup => setup::all().map(|()| 0),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}
