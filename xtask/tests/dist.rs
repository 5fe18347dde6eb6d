//! The package: installed into a root of its own, where it runs with nothing else there.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, LazyLock},
};

use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::Value;
use tempfile::TempDir;

fn main() {
    let mut arguments = Arguments::from_args();
    // They share one package.
    arguments.test_threads = Some(1);
    let made = Arc::new(LazyLock::new(Made::new as fn() -> Result<Made, String>));
    let trial = |name: &str, test: fn(&Made) -> Result<(), String>| {
        let made = Arc::clone(&made);
        Trial::ignorable_test(name, move || {
            let done = match &**made {
                Ok(made) => test(made),
                Err(reason) => Err(reason.clone()),
            };
            // What is wrong panics; what cannot be tried gives its reason.
            Ok(match done {
                Ok(()) => Completion::Completed,
                Err(reason) => Completion::Ignored {
                    reason: Some(reason),
                },
            })
        })
    };
    let trials = vec![
        trial("a_package_brings_all_files_and_takes_them_away", files),
        trial("a_package_runs_where_there_is_nothing_else", runs),
        trial("a_package_translates_and_diagnoses_there", looks),
        trial("bash_completes", bash),
        trial("fish_completes", fish),
        trial("zsh_completes", zsh),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    // With its folder; `exit` would leave it.
    drop(made);
    conclusion.exit();
}

/// The package, and a root in which it is installed.
struct Made {
    folder: TempDir,
    package: PathBuf,
    root: PathBuf,
}

impl Made {
    fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("dpkg installs as root".to_owned());
        }
        needs("dpkg")?;
        let folder = tempfile::tempdir().unwrap();
        let said = output(
            Command::new(env!("CARGO_BIN_EXE_xtask"))
                .args(["dist", "--to"])
                .arg(folder.path()),
        );
        let package = PathBuf::from(said.trim());
        assert!(package.starts_with(folder.path()), "{said}");
        let root = folder.path().join("root");
        let made = Self {
            folder,
            package,
            root,
        };
        made.install(&made.root);
        Ok(made)
    }

    /// Into an empty root, with dpkg's own data base.
    fn install(&self, root: &Path) {
        for part in ["info", "updates", "triggers"] {
            fs::create_dir_all(root.join("var/lib/dpkg").join(part)).unwrap();
        }
        fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
        dpkg(root, &["--install", self.package.to_str().unwrap()]);
    }

    fn file(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }
}

fn dpkg(root: &Path, arguments: &[&str]) -> String {
    let root = format!("--root={}", root.display());
    output(Command::new("dpkg").arg(root).args(arguments))
}

/// Runs it; gives stdout. It must succeed.
fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn needs(program: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        true => Ok(()),
        false => Err(format!("there is no {program}")),
    }
}

fn files(made: &Made) -> Result<(), String> {
    let root = made.folder.path().join("another");
    made.install(&root);
    assert!(dpkg(&root, &["--status", "v2p"]).contains("Status: install ok installed"));
    let commands = [
        "",
        "-watch",
        "-translate",
        "-map",
        "-top",
        "-who",
        "-doctor",
        "-write",
        "-demo",
    ];
    for command in commands {
        let page = root.join(format!("usr/share/man/man1/v2p{command}.1.gz"));
        let text = output(Command::new("gzip").arg("-dc").arg(&page));
        assert!(text.contains(".TH v2p"), "{}: {text}", page.display());
        assert!(text.contains("Examples"), "{}: no examples", page.display());
    }
    let mut magic = [0; 4];
    let mut program = fs::File::open(root.join("usr/bin/v2p")).unwrap();
    program.read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");
    dpkg(&root, &["--purge", "v2p"]);
    assert!(!root.join("usr/bin/v2p").exists());
    Ok(())
}

fn runs(made: &Made) -> Result<(), String> {
    let mut chroot = Command::new("chroot");
    let version = output(chroot.arg(&made.root).args(["/usr/bin/v2p", "--version"]));
    assert_eq!(version, format!("v2p {}\n", env!("CARGO_PKG_VERSION")));
    Ok(())
}

/// With /proc there, in a mount namespace of its own: the mount is gone with the program, however that ends.
fn in_root(made: &Made, arguments: &[&str]) -> Output {
    let script = "mkdir -p \"$1/proc\" && mount -t proc proc \"$1/proc\" && exec chroot \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .args(["sh", "-c", script, "sh"])
        .arg(&made.root)
        .arg("/usr/bin/v2p")
        .args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

fn looks(made: &Made) -> Result<(), String> {
    needs("unshare")?;
    let tried = Command::new("unshare").args(["--mount", "true"]).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return Err("no mount namespaces can be made here".to_owned());
    }
    let last = |output: &Output| -> Value {
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last();
        serde_json::from_str(last.unwrap_or_else(|| panic!("{output:?}"))).unwrap()
    };
    let translated = in_root(made, &["translate", "--json", "--pid", "self"]);
    assert_eq!(translated.status.code(), Some(0), "{translated:?}");
    let end = last(&translated);
    assert_eq!(end["type"], "end", "{end}");
    assert!(end["present"].as_u64() > Some(10), "{end}");
    // Whether /dev/mem is open is the kernel's to say: that there is an answer is the package's.
    let diagnosed = in_root(made, &["doctor", "--json"]);
    assert!(
        matches!(diagnosed.status.code(), Some(0 | 1)),
        "{diagnosed:?}"
    );
    assert_eq!(last(&diagnosed)["type"], "verdict");
    Ok(())
}

/// It offers a subcommand and an option; the others, which are made in the same way, a subcommand.
fn bash(made: &Made) -> Result<(), String> {
    needs("bash")?;
    let file = made.file("usr/share/bash-completion/completions/v2p");
    let script = format!(
        "source {file} && COMP_WORDS=(v2p wa) COMP_CWORD=1 && _v2p v2p wa v2p && echo \"${{COMPREPLY[@]}}\" \
         && COMP_WORDS=(v2p map --out) COMP_CWORD=2 && _v2p v2p --out map && echo \"${{COMPREPLY[@]}}\""
    );
    let said = output(Command::new("bash").args(["--norc", "-c", &script]));
    assert_eq!(said, "watch\n--output\n");
    Ok(())
}

fn fish(made: &Made) -> Result<(), String> {
    needs("fish")?;
    let file = made.file("usr/share/fish/vendor_completions.d/v2p.fish");
    let script = format!("source {file}; complete -C 'v2p wa'");
    let said = output(Command::new("fish").args(["--no-config", "-c", &script]));
    assert!(said.starts_with("watch"), "{said}");
    Ok(())
}

fn zsh(made: &Made) -> Result<(), String> {
    let file = made.file("usr/share/zsh/vendor-completions/_v2p");
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .starts_with("#compdef v2p")
    );
    needs("zsh")?;
    output(Command::new("zsh").args(["-f", "-n", &file]));
    Ok(())
}
