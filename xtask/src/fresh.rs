//! `cargo xtask fresh`: the README's commands on a machine that has what the README asks for, and nothing else.
//!
//! The machine is a Debian 12 by debootstrap, entered by pivot_root, with this one's rustup and the committed state of this tree. Home and cache are
//! empty. What belongs to the network is carried in: names, certificates, and the settings of apt and cargo.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{cache, root, setup, shell};

/// What the README says that a machine needs, beside rustup's Rust.
const NEEDED: &str = "ca-certificates,git,gcc,libc6-dev";
/// How this machine reaches the registries.
const NETWORK: [&str; 6] = [
    "etc/resolv.conf",
    "etc/hosts",
    "etc/ssl/certs",
    "etc/apt/apt.conf.d",
    "etc/apt/sources.list.d",
    "root/.cargo/config.toml",
];
/// The file systems of this machine that the other one sees.
const MOUNTED: [&str; 3] = ["proc", "sys", "dev"];

/// Runs them; the second limited to where the title has `on` in it.
pub(crate) fn run(on: Option<&str>) -> Result<()> {
    setup::packages(&[("debootstrap", "debootstrap")])?;
    let folder = tempfile::Builder::new()
        .prefix(".fresh-")
        .tempdir_in(cache::root()?)?;
    let machine = folder.path();
    shell::timed("debootstrap of Debian 12", || {
        shell::run(
            Command::new("debootstrap")
                .args(["--variant=minbase", "--include", NEEDED, "bookworm"])
                .arg(machine),
        )
    })?;
    shell::timed(
        "rustup's toolchain, the network's settings, the tree",
        || {
            carry_network(machine)?;
            carry_rust(machine)?;
            clone(machine)
        },
    )?;
    let demo = "cargo xtask demo";
    let test = match on {
        Some(on) => format!("cargo xtask test --on '{on}'"),
        None => "cargo xtask test".to_owned(),
    };
    // As a user has it, before anything else has brought what a build of v2p alone might lack.
    let own = [
        "cargo install --path v2p",
        "v2p watch --for 1 --pid $$",
        "v2p watch -- ls /",
        "v2p map --pid $$ -o map.svg && test -s map.svg",
    ];
    let commands = own.into_iter().chain([demo, &test]);
    let mut done = 0;
    for command in commands {
        shell::timed(command, || enter(machine, command))?;
        done += 1;
    }
    println!(
        "fresh: {done} commands of the README, the watch and the map of a process that there is"
    );
    Ok(())
}

fn carry_network(machine: &Path) -> Result<()> {
    for place in NETWORK {
        let from = Path::new("/").join(place);
        if from.exists() {
            copy(&from, &machine.join(place))?;
        }
    }
    Ok(())
}

/// rustup with the toolchain that we run by, as its installer leaves them.
fn carry_rust(machine: &Path) -> Result<()> {
    let rustup = setup::home("RUSTUP_HOME", ".rustup")?;
    let toolchain = setup::sysroot()?;
    let name = toolchain.file_name().context("a toolchain has a name")?;
    copy(
        &setup::home("CARGO_HOME", ".cargo")?.join("bin"),
        &machine.join("root/.cargo/bin"),
    )?;
    let place = machine.join("root/.rustup/toolchains").join(name);
    copy(&toolchain, &place)?;
    // A component that is no part of a fresh toolchain: `setup` has to bring it.
    let sources = place.join("lib/rustlib/src");
    if sources.exists() {
        fs::remove_dir_all(sources)?;
    }
    let listed = place.join("lib/rustlib/components");
    let components = fs::read_to_string(&listed)?;
    let without: String = components
        .lines()
        .filter(|line| *line != "rust-src")
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&listed, without)?;
    copy(
        &rustup.join("settings.toml"),
        &machine.join("root/.rustup/settings.toml"),
    )
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a place")?;
    fs::create_dir_all(parent)?;
    if to.is_dir() {
        fs::remove_dir_all(to)?;
    }
    shell::run(Command::new("cp").arg("-aT").args([from, to]))
}

fn clone(machine: &Path) -> Result<()> {
    shell::run(
        Command::new("git")
            .args(["clone", "--quiet", "--no-hardlinks"])
            .arg(root())
            .arg(machine.join("root/v2p")),
    )
}

/// Runs a command of the README there. The mounts are seen by it alone, and gone with it. By pivot_root: in a chroot nobody may make user
/// namespaces or change what is mounted at the root, as tests do.
fn enter(machine: &Path, command: &str) -> Result<()> {
    let mounts: Vec<_> = MOUNTED
        .iter()
        .map(|place| format!("mount --rbind /{place} {place}"))
        .collect();
    let script = format!(
        "mount --bind \"$0\" \"$0\" && cd \"$0\" && {} && mount -t tmpfs tmpfs tmp && pivot_root . . && umount -l . && cd /root/v2p && \
         exec /usr/bin/env -i HOME=/root PATH=/root/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin RUSTUP_AUTO_INSTALL=0 sh -c '{}'",
        mounts.join(" && "),
        command.replace('\'', "'\\''")
    );
    shell::run(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .arg(machine),
    )
}
