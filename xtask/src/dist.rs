//! The tool as a Debian package: the static binary, man pages, completions. dpkg-deb packs it, which every Debian has.
//!
//! Not cargo-deb: that is one more tool to fetch and to compile before there is a package, and it leaves to us what most of this
//! file does: the static build, the man pages, the completions. What is left is the control file.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{build, root, setup, shell};

const SUMMARY: &str = "where in RAM an address is, who moved it, and why it cannot be written to";
const DESCRIPTION: &str =
    " v2p finds the page frame behind a virtual address by routes that do not lean on
 each other, watches the kernel move it by eBPF, draws where a process lies in
 physical memory, and writes there only under guard, with proof. It needs
 Linux 6.1 or later on x86-64, with BTF.
";
/// Where a shell's completions lie in Debian, by what clap_complete calls them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("v2p.bash", "usr/share/bash-completion/completions/v2p"),
    ("_v2p", "usr/share/zsh/vendor-completions/_v2p"),
    ("v2p.fish", "usr/share/fish/vendor_completions.d/v2p.fish"),
];

/// Makes the package in `to`; gives its path.
pub(crate) fn run(to: &Path) -> Result<PathBuf> {
    if !shell::has("dpkg-deb") {
        bail!(
            "there is no dpkg-deb: a Debian package is made on Debian, or where dpkg is installed"
        );
    }
    let stage = tempfile::tempdir().context("a folder to pack in")?;
    let tree = stage.path().join("tree");
    let made = stage.path().join("made");
    let binaries = build::binaries()?;
    let v2p = build::binary(&binaries, "v2p")?;
    shell::run(
        Command::new(setup::cargo())
            .args([
                "run",
                "--quiet",
                "--package",
                "v2p",
                "--example",
                "packaging",
                "--",
            ])
            .arg(&made)
            .current_dir(root()),
    )?;

    let program = tree.join("usr/bin/v2p");
    place(&v2p.path, &program)?;
    if shell::run(Command::new("strip").arg("--strip-unneeded").arg(&program)).is_err() {
        shell::step("not stripped: it is larger than it need be");
    }
    for (name, path) in COMPLETIONS {
        place(&made.join(name), &tree.join(path))?;
    }
    for entry in fs::read_dir(&made).context("what was made")? {
        let page = entry?.path();
        if page.extension().is_some_and(|end| end == "1") {
            let name = page.file_name().unwrap_or_default();
            packed(&page, &tree.join("usr/share/man/man1").join(name))?;
        }
    }
    let documents = tree.join("usr/share/doc/v2p");
    packed(&root().join("CHANGELOG.md"), &documents.join("changelog"))?;
    place(&root().join("LICENSE"), &documents.join("copyright"))?;
    place(&root().join("README.md"), &documents.join("README.md"))?;
    control(&tree)?;
    modes(&tree)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;

    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    let package = to.join(format!("v2p_{}_amd64.deb", env!("CARGO_PKG_VERSION")));
    shell::run(
        Command::new("dpkg-deb")
            .args(["--build", "--root-owner-group", "-Zxz"])
            .arg(&tree)
            .arg(&package)
            // The same tree gives the same bytes.
            .env("SOURCE_DATE_EPOCH", "0"),
    )?;
    Ok(package)
}

fn place(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a path with a folder")?;
    fs::create_dir_all(folder)?;
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}

/// As [`place`], compressed, as Debian has its man pages and changelogs.
fn packed(from: &Path, to: &Path) -> Result<()> {
    place(from, to)?;
    shell::run(Command::new("gzip").args(["-9", "-n", "-f"]).arg(to))
}

fn control(tree: &Path) -> Result<()> {
    let size: u64 = sizes(tree)? / 1024;
    let text = format!(
        "Package: v2p\nVersion: {}\nArchitecture: amd64\nMaintainer: the v2p maintainers <maintainers@v2p.invalid>\n\
         Section: admin\nPriority: optional\nInstalled-Size: {size}\nDescription: {SUMMARY}\n{DESCRIPTION}",
        env!("CARGO_PKG_VERSION")
    );
    let folder = tree.join("DEBIAN");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("control"), text).context("control")
}

/// Bytes of all files.
fn sizes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        sum += match kind.is_dir() {
            true => sizes(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(sum)
}

/// Whatever the umask: everybody may read it, and its owner alone write.
fn modes(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => modes(&entry.path())?,
            false => fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o644))?,
        }
    }
    Ok(())
}
