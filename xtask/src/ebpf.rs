//! The eBPF object: the same bytes from the same sources and compiler, in any folder, home and machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{root, setup, shell};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "v2p/v2p.bpf.o";

/// Makes the object and puts it where it is committed.
pub(crate) fn make() -> Result<()> {
    right_compiler()?;
    let object = build(&[])?;
    fs::copy(&object, root().join(OBJECT)).context(OBJECT)?;
    shell::step(&format!("{OBJECT}: {} bytes", fs::metadata(&object)?.len()));
    Ok(())
}

/// Makes the object and compares it with the committed one.
pub(crate) fn check() -> Result<()> {
    right_compiler()?;
    let fresh = fs::read(build(&[])?)?;
    let committed = fs::read(root().join(OBJECT)).context(OBJECT)?;
    if fresh != committed {
        bail!("{OBJECT} is not what v2p-ebpf makes: run `cargo xtask ebpf` and commit it");
    }
    shell::step(&format!(
        "{OBJECT} is what the sources make ({} bytes)",
        fresh.len()
    ));
    Ok(())
}

/// Makes an object with messages, for the programs' authors.
pub(crate) fn with_log() -> Result<()> {
    let object = root().join("target/v2p-log.bpf.o");
    fs::copy(build(&["--features", "log"])?, &object)?;
    shell::step(&format!(
        "made {path}; run it: V2P_BPF_OBJECT={path} cargo run --features ebpf-log -- watch --pid PID",
        path = object.display()
    ));
    Ok(())
}

/// Lints the programs, warnings denied.
pub(crate) fn clippy() -> Result<()> {
    cargo("clippy", &["--", "-Dwarnings"])?;
    Ok(())
}

fn right_compiler() -> Result<()> {
    let version = setup::rustc_version()?;
    if version != setup::RUSTC {
        bail!(
            "the object's bytes are those of rustc {}, and this is {version}: `rustup toolchain install {0}`, then `cargo +{0} xtask ebpf`",
            setup::RUSTC
        );
    }
    Ok(())
}

/// Builds the crate; gives the object.
fn build(arguments: &[&str]) -> Result<PathBuf> {
    let target = cargo("build", arguments)?;
    Ok(target.join(TARGET).join("bpf/v2p-ebpf"))
}

/// Runs cargo on the eBPF crate; gives the target folder.
fn cargo(task: &str, arguments: &[&str]) -> Result<PathBuf> {
    let rust_src = setup::rust_src()?;
    let linker = setup::bpf_linker()?;
    let target = root().join("target/ebpf");
    let home = setup::home("CARGO_HOME", ".cargo")?;
    let flags = [
        // Atomic fetch-add, which counts losses, is CPU version 3 (Linux 5.12).
        "-Ctarget-cpu=v3".to_owned(),
        remap(&root(), "/v2p"),
        remap(&fs::canonicalize(&rust_src)?, "/rust"),
        remap(&rust_src, "/rust"),
        remap(&home, "/cargo"),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(linker).chain(std::env::split_paths(&path)))?;
    shell::run(
        Command::new(setup::cargo())
            .args([
                task,
                "--quiet",
                "--package",
                "v2p-ebpf",
                "--bin",
                "v2p-ebpf",
                "--profile",
                "bpf",
            ])
            .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
            .arg(&target)
            .args(arguments)
            .current_dir(root())
            // For this child alone: building core from source is not stable yet.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("PATH", path),
    )?;
    Ok(target)
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}
