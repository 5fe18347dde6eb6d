//! Which kernel a guest boots: a name of the lab's, or a file of the user's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    apt, built, modules,
    opened::{self, Opening},
};
use crate::cache;

/// A kernel to boot.
pub(crate) struct Kernel {
    /// What `-kernel` gets.
    pub(crate) image: PathBuf,
    /// What it is, for people.
    pub(crate) description: String,
    /// Files that belong to it: place in the guest, place here.
    pub(crate) files: Vec<(String, PathBuf)>,
    /// What is made to answer otherwise.
    pub(super) opening: Option<Opening>,
}

impl Kernel {
    /// Finds it, and fetches or makes it where it is not in the cache. `init` is the guests' init, for the boot
    /// that an opened kernel needs.
    pub(crate) fn get(name: &str, init: &Path) -> Result<Self> {
        match name.split_once('-') {
            Some(("stock", series)) if is_series(series) => stock(series),
            Some(("opened", series)) if is_series(series) => opened::kernel(series, init),
            Some(("built", "6.12")) => built::kernel(),
            _ if Path::new(name).is_file() => Ok(Self {
                image: name.into(),
                description: format!("the kernel {name}"),
                files: Vec::new(),
                opening: None,
            }),
            _ => bail!(
                "{name:?} is no kernel: neither a file, nor stock-SERIES, opened-SERIES (6.1, 6.12, 7.3, ...) or built-6.12"
            ),
        }
    }
}

fn is_series(series: &str) -> bool {
    series.split('.').count() == 2 && series.split('.').all(|n| n.parse::<u32>().is_ok())
}

/// Debian's cloud kernel of a series, the newest that there is.
pub(super) fn stock(series: &str) -> Result<Kernel> {
    let entry = cache::entry(&format!("debian-{series}"), 500, |folder| {
        fetch(series, folder)
    })?;
    let release = fs::read_to_string(entry.join("release")).context("release")?;
    let mut files = vec![(format!("/boot/config-{release}"), entry.join("config"))];
    files.extend(modules::files(&entry.join("modules"), &release)?);
    Ok(Kernel {
        image: entry.join("vmlinuz"),
        description: format!("Debian's {release}, as it is"),
        files,
        opening: None,
    })
}

/// Debian has had two shapes of kernel packages: one of all files, and from 7.x on one each for the binary, its
/// configuration and the modules.
fn fetch(series: &str, folder: &Path) -> Result<()> {
    let packages = apt::Packages::open()?;
    let releases = |prefix: &str, suffix: &str| -> Result<Vec<String>> {
        let names = packages.names(&format!("{prefix}{series}."), suffix)?;
        let release = |name: String| {
            Some(name.strip_prefix(prefix)?.strip_suffix(suffix)?.to_owned() + "-cloud-amd64")
        };
        Ok(names.into_iter().filter_map(release).collect())
    };
    let single = releases("linux-image-", "-cloud-amd64-unsigned")?;
    let split = releases("linux-binary-", "-cloud-amd64")?;
    let (release, wanted) = match (single.first(), split.first()) {
        (Some(release), _) => (release, vec![format!("linux-image-{release}-unsigned")]),
        (None, Some(release)) => {
            let of = |part: &str| format!("linux-{part}-{release}");
            (release, vec![of("binary"), of("base"), of("modules")])
        }
        (None, None) => bail!(
            "Debian has no cloud kernel {series} (looked in bookworm, bookworm-security, trixie-backports)"
        ),
    };
    let debs = tempfile::tempdir()?;
    for package in wanted {
        let deb = packages.download(&package, debs.path())?;
        apt::unpack(&deb, debs.path())?;
    }
    let find = |places: &[&str]| find(debs.path(), places, release);
    let copy = |from: &Path, name: &str| {
        fs::copy(from, folder.join(name)).with_context(|| from.display().to_string())
    };
    copy(
        &find(&["boot/vmlinuz-{}", "usr/lib/modules/{}/vmlinuz"])?,
        "vmlinuz",
    )?;
    copy(
        &find(&["boot/config-{}", "usr/lib/modules/{}/config"])?,
        "config",
    )?;
    let modules = find(&["lib/modules/{}/kernel", "usr/lib/modules/{}/kernel"])?;
    modules::take(&modules, &folder.join("modules"))?;
    Ok(fs::write(folder.join("release"), release)?)
}

/// The first of `places` that is there.
fn find(folder: &Path, places: &[&str], release: &str) -> Result<PathBuf> {
    places
        .iter()
        .map(|place| folder.join(place.replace("{}", release)))
        .find(|path| path.exists())
        .with_context(|| format!("the packages of {release} have none of {places:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_kernel_says_which_there_are() {
        for name in ["", "stock", "stock-6", "opened-x.y", "built-6.1", "nothing"] {
            let error = Kernel::get(name, Path::new("init")).err().unwrap();
            assert!(error.to_string().contains("built-6.12"), "{name}: {error}");
        }
    }
}
