//! Modules of Debian's kernels that tests load, out of the package of the kernel itself, with those they need. A guest has them
//! as a system does: /lib/modules/RELEASE with a `modules.dep`, and a `modprobe` (xtask/guest-init) that reads it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _};

use crate::{setup, shell};

/// What tests load; and, beyond what it declares, what it asks the kernel for by an alias while it runs, which our modprobe
/// does not know. Where a kernel has one of them built in or not at all, it is left out.
const WANTED: [(&str, &[&str]); 1] = [
    // The compressor that 6.1 takes if not told otherwise; later ones carry theirs.
    ("zram", &["lzo_rle"]),
];
/// The file that says which modules there are, in the order of modprobe's own: `FILE: WHAT IT NEEDS`.
const LIST: &str = "modules.dep";

/// Copies what is wanted of the modules under `from` (a package's `lib/modules/RELEASE`) into `to`.
pub(super) fn take(from: &Path, to: &Path) -> Result<()> {
    let files = find(from)?;
    fs::create_dir_all(to)?;
    let mut needs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut open: Vec<String> = WANTED.iter().map(|(name, _)| (*name).to_owned()).collect();
    while let Some(name) = open.pop() {
        let Some(file) = files.get(&name).filter(|_| !needs.contains_key(&name)) else {
            continue;
        };
        let bytes = copy(file, &to.join(format!("{name}.ko")))?;
        let asked = WANTED.iter().find(|(wanted, _)| *wanted == name);
        let mut direct = declared(&bytes).with_context(|| name.clone())?;
        direct.extend(
            asked
                .iter()
                .flat_map(|(_, more)| more.iter().map(|m| (*m).to_owned())),
        );
        direct.retain(|needed| files.contains_key(needed));
        open.extend(direct.iter().cloned());
        needs.insert(name, direct);
    }
    Ok(fs::write(to.join(LIST), list(&needs))?)
}

/// What of the cache's `folder` a guest with the kernel `release` gets: place there, place here.
pub(super) fn files(folder: &Path, release: &str) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (format!("/lib/modules/{release}/{name}"), entry.path())
    };
    Ok(entries.flatten().map(file).collect())
}

/// The modules under `folder`, by name.
fn find(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            match file.split_once(".ko") {
                _ if entry.file_type()?.is_dir() => open.push(entry.path()),
                // A module is called by its name in the kernel, which has no `-`.
                Some((name, "" | ".xz")) => {
                    found.insert(name.replace('-', "_"), entry.path());
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Copies a module, unpacked; gives its bytes.
fn copy(file: &Path, to: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|kind| kind == "xz") {
        setup::packages(&[("xz", "xz-utils")])?;
        shell::run(Command::new("xz").arg("--decompress").arg(file))?;
    }
    let plain = file.with_extension("");
    let plain = if plain.is_file() { &plain } else { file };
    fs::copy(plain, to).with_context(|| plain.display().to_string())?;
    Ok(fs::read(to)?)
}

/// The modules that one declares to need: `depends=` in its section `.modinfo`.
fn declared(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo")?;
    Ok(depends(section.data()?))
}

fn depends(modinfo: &[u8]) -> Vec<String> {
    let depends = modinfo
        .split(|byte| *byte == 0)
        .find_map(|field| field.strip_prefix(b"depends="));
    String::from_utf8_lossy(depends.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// `modules.dep`: to each all that must be there before, those that depend on others first.
fn list(needs: &BTreeMap<String, Vec<String>>) -> String {
    fn before(name: &str, needs: &BTreeMap<String, Vec<String>>, all: &mut Vec<String>) {
        for needed in needs.get(name).into_iter().flatten() {
            if !all.contains(needed) {
                before(needed, needs, all);
                all.push(needed.clone());
            }
        }
    }
    let line = |name: &String| {
        let mut all = Vec::new();
        before(name, needs, &mut all);
        let all: String = all.iter().rev().map(|n| format!(" {n}.ko")).collect();
        format!("{name}.ko:{all}\n")
    };
    needs.keys().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_stands_in_its_modinfo() {
        let modinfo = b"license=GPL\0depends=zsmalloc,lz4hc-compress\0name=zram\0";
        assert_eq!(depends(modinfo), ["zsmalloc", "lz4hc_compress"]);
        assert!(depends(b"depends=\0").is_empty());
        assert!(depends(b"license=GPL").is_empty());
    }

    #[test]
    fn the_list_has_first_what_is_loaded_last() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let needs = BTreeMap::from([
            ("a".to_owned(), names(&["b", "c"])),
            ("b".to_owned(), names(&["c"])),
            ("c".to_owned(), names(&[])),
        ]);
        assert_eq!(list(&needs), "a.ko: b.ko c.ko\nb.ko: c.ko\nc.ko:\n");
    }
}
