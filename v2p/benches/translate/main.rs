//! How fast a translation is and how much memory it takes, each row against a reference of the same run.
//!
//! As root: `cargo xtask bench [--json]`, which also brings the kernel's own page-types to be held against; without it:
//! `cargo bench -p v2p --bench translate`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench fails by panicking"
)]

mod commands;
mod library;
mod memory;
mod report;
mod space;

use std::path::PathBuf;

use clap::Parser;

/// What cargo and xtask, or a bench that needs another process, ask for.
#[derive(Parser)]
struct Args {
    /// One JSON object a line instead of the table
    #[arg(long)]
    json: bool,
    /// The kernel's tools/mm/page-types
    #[arg(long)]
    page_types: Option<PathBuf>,
    /// Be a process with so many resident 4K pages, until stdin ends
    #[arg(long, hide = true)]
    resident: Option<usize>,
    /// Be a process with so many GiB of huge zero pages, until stdin ends
    #[arg(long, hide = true)]
    zero_gib: Option<usize>,
    /// Be a process that has so many GiB of a file's pages
    #[arg(long, hide = true)]
    file_gib: Option<usize>,
    /// Run a command, and say its peak of resident memory in KiB
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true)]
    peak: Option<Vec<String>>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    if let Some(pages) = args.resident {
        return space::be_resident(pages);
    }
    if let Some(gib) = args.zero_gib {
        return space::be_zero(gib);
    }
    if let Some(gib) = args.file_gib {
        return space::be_of_a_file(gib);
    }
    if let Some(command) = args.peak {
        return memory::run(&command);
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: it needs root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let mut report = report::Report::begin(args.json);
    library::dense(&mut report);
    library::sparse(&mut report);
    library::every_process(&mut report);
    commands::whole(&mut report, args.page_types.as_deref());
    commands::who(&mut report);
    memory::peaks(&mut report);
}
