//! "Opened" kernels: Debian's, with `devmem_is_allowed()` made to answer yes when a guest first comes to it. A doctored kernel, whose
//! configuration still says STRICT_DEVMEM=y.

use std::{fs, os::unix::net::UnixStream, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Job, Kept, Kernel, Options, boot, gdb::Debugger, kernel};
use crate::{cache, shell};

const FUNCTION: &str = "devmem_is_allowed";
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// What the kernel puts in its place where nothing jumps to the function indirectly (gen_endbr_poison, arch/x86/include/asm/ibt.h): on 6.1
/// and 6.12, and on 7.3.
const SEALED: [[u8; 4]; 2] = [[0x66, 0x0f, 0x1f, 0x00], [0x0f, 0x1f, 0x40, 0xd6]];
/// `call rel32`: to `__fentry__`, five bytes.
const CALL: u8 = 0xe8;
/// What the kernel puts in its place while nobody traces the function: one instruction (x86_nops, arch/x86/kernel/alternative.c, 6.1 to 7.3).
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
/// `mov $1,%eax; ret`.
const ANSWER_1: [u8; 6] = [0xb8, 1, 0, 0, 0, 0xc3];

/// Where the function is, in a kernel that is booted with [`PLACED`].
#[derive(Clone, Copy)]
pub(super) struct Opening(u64);

/// The word that has a kernel lie where it was linked to.
pub(super) const PLACED: &str = "nokaslr";

/// The opened kernel of a series.
pub(super) fn kernel(series: &str, init: &Path) -> Result<Kernel> {
    let stock = kernel::stock(series)?;
    let name = format!("{FUNCTION}-{series}");
    let entry = cache::entry(&name, 1, |folder| {
        shell::timed(
            &format!("{name}: asking {} (once)", stock.description),
            || {
                fs::write(folder.join("address"), address_of_function(&stock, init)?)?;
                // A newer stock kernel has it elsewhere.
                Ok(fs::write(folder.join("of"), config_sum(&stock)?)?)
            },
        )
    })?;
    if fs::read_to_string(entry.join("of"))? != config_sum(&stock)? {
        shell::step(&format!("{name} is of another kernel: asking this one"));
        fs::remove_dir_all(&entry)?;
        return kernel(series, init);
    }
    let address = fs::read_to_string(entry.join("address"))?;
    let address = u64::from_str_radix(&address, 16)
        .with_context(|| format!("{FUNCTION} is at {address:?}"))?;
    Ok(Kernel {
        description: stock
            .description
            .replace("as it is", "opened (devmem_is_allowed() answers 1)"),
        opening: Some(Opening(address)),
        ..stock
    })
}

/// The configuration names the version down to the compiler.
fn config_sum(kernel: &Kernel) -> Result<String> {
    let (_, config) = kernel
        .files
        .first()
        .context("a stock kernel has its configuration")?;
    let text = fs::read_to_string(config).with_context(|| config.display().to_string())?;
    Ok(text.lines().take(10).collect::<Vec<_>>().join("\n"))
}

/// The function's address without KASLR, from the kernel itself.
fn address_of_function(stock: &Kernel, init: &Path) -> Result<String> {
    let options = Options {
        append: PLACED.to_owned(),
        ..Options::default()
    };
    let job = Job {
        files: Vec::new(),
        command: vec!["/bin/symbol".to_owned(), FUNCTION.to_owned()],
        environment: Vec::new(),
    };
    let mut kept = Kept::default();
    let status = boot(&options, stock, init, &job, &mut kept)?;
    ensure!(
        status == 0,
        "{FUNCTION} is not in the guest's /proc/kallsyms: {}",
        String::from_utf8_lossy(&kept.stderr)
    );
    Ok(String::from_utf8_lossy(&kept.stdout).trim().to_owned())
}

impl Opening {
    /// Waits until the guest comes to the function, and opens it. A guest that ends before is none of our business.
    ///
    /// # Errors
    /// Where the function is not as it is known here; the guest goes on as it is.
    pub(super) fn open(self, qemu: UnixStream) -> Result<()> {
        let mut debugger = Debugger::new(qemu);
        if debugger.run_to(self.0).is_err() {
            return Ok(());
        }
        let opened = self.open_now(&mut debugger);
        debugger.leave().and(opened)
    }

    fn open_now(self, debugger: &mut Debugger<UnixStream>) -> Result<()> {
        let start = body(&debugger.read(self.0, 32)?)?;
        debugger.write(self.0 + start as u64, &ANSWER_1)
    }
}

/// Where the function's body starts: after the marks that other code relies on.
fn body(code: &[u8]) -> Result<usize> {
    let mut marks = [ENDBR64].into_iter().chain(SEALED);
    let mark = marks.find(|mark| code.starts_with(mark));
    let after_endbr = mark.map_or(0, |mark| mark.len());
    let rest = code.get(after_endbr..).unwrap_or_default();
    if rest.first() == Some(&CALL) || rest.starts_with(&NOP5) {
        return Ok(after_endbr + NOP5.len());
    }
    bail!(
        "{FUNCTION} does not start with endbr64 and the place of a call of __fentry__, but with {code:02x?}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_starts_after_endbr_and_fentry() {
        let with = |start: &[&[u8]]| body(&[&start.concat(), &[0x55, 0x48][..]].concat());
        assert_eq!(with(&[&ENDBR64, &NOP5]).unwrap(), 9);
        for sealed in SEALED {
            assert_eq!(with(&[&sealed, &NOP5]).unwrap(), 9);
        }
        assert_eq!(with(&[&ENDBR64, &[CALL, 1, 2, 3, 4]]).unwrap(), 9);
        assert_eq!(with(&[&NOP5]).unwrap(), 5);
        assert!(with(&[]).is_err());
        assert!(body(&[]).is_err());
    }
}
