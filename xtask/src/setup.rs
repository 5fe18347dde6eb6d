//! What the other tasks need and a fresh machine has not: fetched by the ordinary clients, into places of our own where that is possible.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{cache, lab::apt, perfetto, shell};

/// The compiler that made the committed object; another makes other bytes.
pub(crate) const RUSTC: &str = "1.95.0";
/// The linker that made it.
const BPF_LINKER: &str = "0.13.0";
/// The LLVM of that compiler, by which the linker is built.
const LLVM: &str = "22";

/// All of it.
pub(crate) fn all() -> Result<()> {
    rust_src()?;
    bpf_linker()?;
    packages(&[("qemu-system-x86_64", "qemu-system-x86")])?;
    perfetto::package()
}

/// The compiler's version, such as `1.95.0`.
pub(crate) fn rustc_version() -> Result<String> {
    let line = shell::output(Command::new(rustc()).arg("--version"))?;
    let version = line
        .split(' ')
        .nth(1)
        .context("rustc --version says nothing")?;
    Ok(version.to_owned())
}

/// The compiler's folder.
pub(crate) fn sysroot() -> Result<PathBuf> {
    let line = shell::output(Command::new(rustc()).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(line.trim()))
}

fn rustc() -> std::ffi::OsString {
    std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

/// The sources of core, which the eBPF target has no prebuilt copy of: where rustup puts them.
pub(crate) fn rust_src() -> Result<PathBuf> {
    let place = sysroot()?.join("lib/rustlib/src/rust");
    let present = || place.join("library/core/src/lib.rs").is_file();
    if present() {
        return Ok(place);
    }
    if place.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
        // Ours, from an earlier set-up, to a cache that is gone; rustup would trip over it.
        fs::remove_file(&place)?;
    }
    let version = rustc_version()?;
    shell::step(&format!("rust-src {version}: asking rustup"));
    let by_rustup = shell::run(Command::new("rustup").args(["component", "add", "rust-src"]));
    if by_rustup.is_ok() && present() {
        return Ok(place);
    }
    shell::step("rust-src: rustup cannot bring it, asking Debian");
    let unpacked = rust_src_from_debian(&version)?;
    fs::create_dir_all(place.parent().context("sysroot")?)?;
    symlink(&unpacked, &place).with_context(|| place.display().to_string())?;
    if !present() {
        bail!("Debian's rust-src {version} has no library/core/src/lib.rs");
    }
    Ok(place)
}

/// Debian's package of the compiler's version, unpacked.
fn rust_src_from_debian(version: &str) -> Result<PathBuf> {
    let name = format!("rust-src-{version}");
    let entry = cache::entry(&name, 500, |folder| {
        let packages = apt::Packages::open()?;
        let debs = tempfile::tempdir()?;
        let deb = packages.download_version("rust-src", version, debs.path())?;
        apt::unpack(&deb, folder)
    })?;
    Ok(entry.join("usr/src").join(format!("rustc-{version}")))
}

/// bpf-linker, built against the compiler's own LLVM, in a folder of ours.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let version = rustc_version()?;
    let lib = sysroot()?.join("lib");
    // A linker for one toolchain's LLVM, found by its path at run time.
    let key = lib.to_string_lossy().replace('/', "-");
    let name = format!("bpf-linker-{BPF_LINKER}-rust-{version}{key}");
    let entry = cache::entry(&name, 500, |folder| {
        shell::timed(
            &format!("bpf-linker {BPF_LINKER}, built for rustc {version} (once)"),
            || install_bpf_linker(&lib, folder),
        )
    })?;
    Ok(entry.join("bin"))
}

fn install_bpf_linker(lib: &Path, folder: &Path) -> Result<()> {
    let llvm = llvm_library(lib)?;
    // The build script wants an LLVM installation: a prefix with this one library is enough.
    let prefix = tempfile::tempdir()?;
    fs::create_dir(prefix.path().join("lib"))?;
    symlink(&llvm, prefix.path().join("lib/libLLVM.so"))?;
    let build = tempfile::tempdir()?;
    shell::run(
        Command::new(cargo())
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--quiet",
            ])
            .args(["--no-default-features", "--features"])
            .arg(format!("llvm-{LLVM}"))
            .arg("--root")
            .arg(folder)
            .arg("--target-dir")
            .arg(build.path())
            .env("LLVM_PREFIX", prefix.path())
            .env(format!("LLVM_SYS_{LLVM}1_PREFIX"), prefix.path())
            .env_remove("RUSTFLAGS")
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                format!("-Clink-arg=-Wl,-rpath,{}", lib.display()),
            ),
    )
}

/// The LLVM that the compiler itself is linked with.
fn llvm_library(lib: &Path) -> Result<PathBuf> {
    let starts = [format!("libLLVM.so.{LLVM}."), format!("libLLVM-{LLVM}")];
    let is_llvm = |name: &str| starts.iter().any(|start| name.starts_with(start));
    let found = fs::read_dir(lib)?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_llvm))
        .map(|entry| entry.path())
        .max();
    found.with_context(|| {
        format!(
            "no libLLVM {LLVM} in {}: bpf-linker is set up for rustc {RUSTC}",
            lib.display()
        )
    })
}

/// The cargo that runs us.
pub(crate) fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The folder that a tool is told of by a variable of the environment, or has in the home folder.
pub(crate) fn home(variable: &str, otherwise: &str) -> Result<PathBuf> {
    match std::env::var_os(variable) {
        Some(set) => Ok(set.into()),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set")?;
            Ok(Path::new(&home).join(otherwise))
        }
    }
}

/// Debian packages that have to be on the system, each given with a program (or, with a slash, a file) that shows it is there.
pub(crate) fn packages(wanted: &[(&str, &str)]) -> Result<()> {
    let is_there = |mark: &str| {
        if mark.contains('/') {
            Path::new(mark).exists()
        } else {
            shell::has(mark)
        }
    };
    let missing = || -> Vec<&str> {
        let missing = wanted.iter().filter(|(mark, _)| !is_there(mark));
        missing.map(|(_, package)| *package).collect()
    };
    if missing().is_empty() {
        return Ok(());
    }
    // Debian's tools do not wait for each other: of two of us, such as two tests, the second would fail.
    let _lock = cache::lock("packages")?;
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !shell::has("apt-get") {
        bail!("not on this machine: {names}; install it by your system's own means");
    }
    let (sudo, apt): (&[&str], &str) = match rustix::process::geteuid().is_root() {
        true => (&[], "apt-get"),
        false if shell::has("sudo") => (&["sudo"], "sudo apt-get"),
        false => bail!(
            "not on this machine: {names}; as root: apt-get install --no-install-recommends {names}"
        ),
    };
    shell::timed(
        &format!("{apt} install {names} (Debian packages that are missing here)"),
        || {
            let apt_get = |arguments: &[&str]| {
                let mut words = sudo.iter().chain(&["apt-get"]).copied();
                let mut command = Command::new(words.next().unwrap_or("apt-get"));
                command
                    .args(words)
                    // For what is somebody else's, such as a machine's own upgrades.
                    .args(["-o", "DPkg::Lock::Timeout=600"])
                    .args(arguments)
                    .env("DEBIAN_FRONTEND", "noninteractive");
                shell::run(&mut command)
            };
            apt_get(&["update", "-qq"])?;
            let mut install = vec!["install", "-qq", "-y", "--no-install-recommends"];
            install.extend(&missing);
            apt_get(&install)
        },
    )
}
