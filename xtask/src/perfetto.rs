//! Perfetto's own schema, by which a live test reads a trace of v2p: the Python package of its maintainers, in the cache.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{cache, shell};

/// Named in v2p/tests/live/trace/mod.rs too.
const PERFETTO: &str = "0.59.1";
/// What it needs, and nothing else.
const PROTOBUF: &str = "7.36.2";

/// Fetches it by pip. Where there is none the test is skipped, which it says.
pub(crate) fn package() -> Result<()> {
    let has_pip = shell::output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok();
    if !has_pip {
        shell::step("perfetto's schema: skipped: there is no python3 with pip");
        return Ok(());
    }
    install().map(|_| ())
}

fn install() -> Result<PathBuf> {
    let name = format!("perfetto-{PERFETTO}");
    cache::entry(&name, 100, |folder| {
        shell::timed(&format!("{name} from PyPI (once)"), || {
            shell::run(
                Command::new("python3")
                    .args(["-m", "pip", "install", "--quiet", "--no-deps"])
                    .args(["--only-binary", ":all:", "--target"])
                    .arg(folder)
                    .arg(format!("perfetto=={PERFETTO}"))
                    .arg(format!("protobuf=={PROTOBUF}")),
            )
        })
    })
}
