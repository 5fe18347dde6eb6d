//! What ARCHITECTURE.md and docs/security.md promise of the sources, held to the sources.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust files under `folder`, by their path from there, with their code: comments and unit tests left out.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text
                    .split("#[cfg(test)]\nmod tests {")
                    .next()
                    .unwrap_or_default();
                let code = text
                    .lines()
                    .map(|line| line.split("//").next().unwrap_or_default());
                let code = code.collect::<Vec<_>>().join("\n");
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.push((name, code));
            }
        }
    }
    assert!(found.len() > 10, "{folder:?}");
    found
}

fn users<'a>(sources: &'a [(String, String)], word: &str) -> BTreeSet<&'a str> {
    let using = sources.iter().filter(|(_, code)| code.contains(word));
    using.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn one_folder_names_aya() {
    let sources = sources(&root().join("v2p/src"));
    let users = users(&sources, "aya::");
    assert!(!users.is_empty());
    assert!(
        users.iter().all(|name| name.starts_with("bpf/")),
        "{users:?}"
    );
}

/// The modules of `v2p`, each line above those that it may use, as ARCHITECTURE.md draws them.
#[test]
fn the_modules_use_what_lies_below_them() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let drawn = page.split("```modules\n").nth(1).unwrap();
    let drawn = drawn.split("```").next().unwrap();
    let rows: Vec<Vec<&str>> = drawn
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let place = |module: &str| rows.iter().position(|row| row.contains(&module));
    let all = sources(&root().join("v2p/src"));
    let mut used = 0;
    for (name, code) in &all {
        let module = name.split(['/', '.']).next().unwrap();
        // Above all others, or of the tests alone.
        if ["lib", "main", "outside"].contains(&module)
            || name.ends_with("made_up.rs")
            || name.contains("tests")
        {
            continue;
        }
        let from = place(module).unwrap_or_else(|| panic!("{module} is not drawn"));
        for other in modules_named(code) {
            if other == module {
                continue;
            }
            if other == "common" {
                continue;
            }
            let to =
                place(&other).unwrap_or_else(|| panic!("{name} uses {other}, which is not drawn"));
            assert!(
                to > from,
                "{name} uses {other}, which is not below {module}"
            );
            used += 1;
        }
    }
    assert!(used > 100, "{used}");
}

/// The names right after `crate::`, also those of a list.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            named.insert(word(rest));
            continue;
        };
        let mut depth = 0u32;
        let mut item = String::new();
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    named.insert(word(&item));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        named.insert(word(&item));
    }
    // After the last comma of a list.
    named.remove("");
    named
}

fn word(text: &str) -> String {
    let is_part = |c: &char| c.is_alphanumeric() || *c == '_';
    text.trim_start().chars().take_while(is_part).collect()
}

/// The release is shown, and names the file of the kernel's configuration; nothing is decided by it.
#[test]
fn no_version_is_asked_for_where_the_thing_can_be() {
    let sources = sources(&root().join("v2p/src"));
    let known = BTreeSet::from([
        "commands/demo.rs",
        "commands/doctor/mod.rs",
        "commands/map.rs",
        "commands/top.rs",
        "kernel/config.rs",
        "kernel/mod.rs",
        "watch/mod.rs",
    ]);
    let users_of_it = users(&sources, "release()");
    assert_eq!(users_of_it, known, "who asks for the kernel's release");
    for word in [
        "LINUX_VERSION",
        "KERNEL_VERSION",
        "osrelease",
        "/proc/version",
    ] {
        assert_eq!(users(&sources, word), BTreeSet::new(), "{word}");
    }
    let programs = self::sources(&root().join("v2p-ebpf/src"));
    for word in ["VERSION", "release"] {
        let users = users(&programs, word);
        assert!(users.is_empty(), "{word}: {users:?}");
    }
}

#[test]
fn every_dependency_stands_in_the_table() {
    let manifests = ["v2p", "v2p-ebpf", "v2p-common", "xtask", "xtask/guest-init"];
    let mut wanted = BTreeSet::new();
    for manifest in manifests {
        let text = fs::read_to_string(root().join(manifest).join("Cargo.toml")).unwrap();
        let own = manifest.rsplit('/').next().unwrap();
        let mut of = None;
        for line in text.lines() {
            if line.starts_with('[') {
                of = match line {
                    "[dependencies]" => Some(own.to_owned()),
                    "[dev-dependencies]" => Some(format!("{own} (tests)")),
                    _ => {
                        assert!(!line.ends_with("dependencies]"), "{manifest}: {line}");
                        None
                    }
                };
            } else if let (Some(of), Some((name, _))) = (&of, line.split_once(" = ")) {
                wanted.insert((name.to_owned(), of.clone()));
            }
        }
    }
    wanted.retain(|(name, _)| name != "v2p-common");
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let table = page.split("## What is built in").nth(1).unwrap();
    let mut told = BTreeSet::new();
    // Below the names of the columns, and the line under those.
    for row in table.lines().filter(|line| line.starts_with('|')).skip(2) {
        let mut columns = row.split('|').skip(1).map(str::trim);
        let (name, of) = (columns.next().unwrap(), columns.next().unwrap());
        told.extend(of.split(", ").map(|of| (name.to_owned(), of.to_owned())));
    }
    assert_eq!(told, wanted);
}
