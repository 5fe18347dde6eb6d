//! A test of the sources: /dev/mem is opened for writing here and nowhere else.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, into),
            false => into.push(path),
        }
    }
}

/// Write files that the user names, and open no device of the memory whatever it is called (their own tests).
const OUTPUT: [&str; 2] = ["whole_file.rs", "timeline/file.rs"];

/// Whatever can open a file otherwise than for reading.
const OPENS: [&str; 14] = [
    "OpenOptions",
    "File::options",
    "File::create",
    "open_for_writing",
    "RDWR",
    "WRONLY",
    "OFlags::from_bits",
    "OFlags::all",
    "libc::open",
    "libc::creat",
    "libc::syscall(libc::SYS_open",
    "SYS_openat",
    "from_raw_fd",
    "fs::copy(",
];

fn opens(text: &str) -> bool {
    let text = text.replace("WholeFile::", "").replace("TraceFile::", "");
    // The call's number in a filter that forbids it (bpf/loader.rs).
    let text = text.replace("libc::SYS_openat as u32", "");
    OPENS.iter().any(|word| text.contains(word))
}

/// The compiler sees to it that only the guard opens [`super::DevMem`] for writing; and nobody else opens a file so.
#[test]
fn no_code_outside_the_guard_can_open_dev_mem_for_writing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    sources(&root, &mut all);
    all.retain(|path| path.extension().is_some_and(|e| e == "rs"));
    let text = |path: &PathBuf| fs::read_to_string(path).unwrap();
    let (inside, outside): (Vec<_>, Vec<_>) = all
        .iter()
        .partition(|path| path.starts_with(root.join("guard")));
    let output = |path: &&&PathBuf| OUTPUT.iter().any(|name| path.ends_with(name));
    let found: Vec<_> = outside
        .iter()
        .filter(|path| !output(path) && opens(&text(path)))
        .collect();
    assert!(found.is_empty(), "{found:?}");
    // fs::write opens too, but what it is given stands beside it.
    for path in all
        .iter()
        .filter(|path| !path.ends_with("guard/sources.rs"))
    {
        let text = text(path);
        let calls = text.split("fs::write(").skip(1);
        let mut given = calls.filter_map(|rest| rest.split(',').next());
        assert!(!given.any(|path| path.contains("/dev/mem") || path.contains("PATH")));
    }
    let here = |path: &&&PathBuf| path.ends_with("guard/devmem.rs");
    assert!(
        inside.iter().filter(here).any(|path| opens(&text(path))),
        "else this test could not fail"
    );
}

#[test]
fn every_spelling_of_an_open_for_writing_is_found() {
    for line in [
        "OpenOptions::new().read(true).write(flag)",
        "File::options().append(yes).open(path)",
        "rustix::fs::open(PATH, OFlags::RDWR, Mode::empty())",
        "openat(root, name, OFlags::from_bits_retain(2), Mode::empty())",
        "libc::open(path.as_ptr(), flags)",
        "std::fs::File::create(path)",
    ] {
        assert!(opens(line), "{line}");
    }
    assert!(!opens("WholeFile::create(&path)"));
    assert!(!opens("openat(root, name, OFlags::CLOEXEC, Mode::empty())"));
}
