//! "Opened" kernels: Debian's, with `devmem_is_allowed()` made to answer yes. Made without a compiler in some
//! seconds; a doctored kernel, whose configuration still says STRICT_DEVMEM=y.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use object::{Object as _, ObjectSegment as _};

use super::{Job, Kept, Kernel, Options, boot, bzimage, kernel};
use crate::{cache, shell};

const FUNCTION: &str = "devmem_is_allowed";
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// `call rel32`: to `__fentry__`, five bytes.
const CALL: u8 = 0xe8;
/// `mov $1,%eax; ret`.
const ANSWER_1: [u8; 6] = [0xb8, 1, 0, 0, 0, 0xc3];

/// The opened kernel of a series.
pub(super) fn kernel(series: &str, init: &Path) -> Result<Kernel> {
    let stock = kernel::stock(series)?;
    let name = format!("opened-{series}");
    let entry = cache::entry(&name, 200, |folder| {
        shell::timed(
            &format!("{name}: opening {} (once)", stock.description),
            || {
                fs::write(folder.join("vmlinux"), open(&stock, init)?)?;
                // For the description; and a newer stock kernel makes a newer one of these.
                let (_, config) = stock
                    .files
                    .first()
                    .context("a stock kernel has its configuration")?;
                Ok(fs::write(folder.join("of"), config_sum(config)?)?)
            },
        )
    })?;
    if fs::read_to_string(entry.join("of"))?
        != config_sum(&stock.files.first().context("configuration")?.1)?
    {
        shell::step(&format!(
            "{name} was made of another kernel: making it again"
        ));
        fs::remove_dir_all(&entry)?;
        return kernel(series, init);
    }
    Ok(Kernel {
        image: entry.join("vmlinux"),
        description: stock
            .description
            .replace("as it is", "opened (devmem_is_allowed() answers 1)"),
        files: stock.files,
    })
}

/// The configuration names the version down to the compiler.
fn config_sum(config: &Path) -> Result<String> {
    let text = fs::read_to_string(config).with_context(|| config.display().to_string())?;
    Ok(text.lines().take(10).collect::<Vec<_>>().join("\n"))
}

fn open(stock: &Kernel, init: &Path) -> Result<Vec<u8>> {
    let mut elf = bzimage::vmlinux(&fs::read(&stock.image)?)?;
    let address = address_of_function(stock, init)?;
    let at = file_offset(&elf, address)?;
    let code = elf
        .get_mut(at..at + 32)
        .context("the function lies outside the file")?;
    let at = body(code)?;
    code.get_mut(at..at + ANSWER_1.len())
        .context("no room")?
        .copy_from_slice(&ANSWER_1);
    Ok(elf)
}

/// Where the function's body starts: after the marks that other code relies on.
fn body(code: &[u8]) -> Result<usize> {
    let after_endbr = if code.starts_with(&ENDBR64) {
        ENDBR64.len()
    } else {
        0
    };
    match code.get(after_endbr) {
        Some(&CALL) => Ok(after_endbr + 5),
        _ => bail!(
            "{FUNCTION} does not start with endbr64 and a call of __fentry__, but with {code:02x?}"
        ),
    }
}

/// The function's address without KASLR, from the kernel itself.
fn address_of_function(stock: &Kernel, init: &Path) -> Result<u64> {
    let options = Options {
        append: "nokaslr".to_owned(),
        ..Options::default()
    };
    let job = Job {
        files: Vec::new(),
        command: vec!["/bin/symbol".to_owned(), FUNCTION.to_owned()],
        environment: Vec::new(),
    };
    let mut kept = Kept::default();
    let status = boot(&options, stock, init, &job, &mut kept)?;
    let text = String::from_utf8_lossy(&kept.stdout).into_owned();
    ensure!(
        status == 0,
        "{FUNCTION} is not in the guest's /proc/kallsyms: {}",
        String::from_utf8_lossy(&kept.stderr)
    );
    u64::from_str_radix(text.trim(), 16).with_context(|| format!("{FUNCTION} is at {text:?}"))
}

fn file_offset(elf: &[u8], address: u64) -> Result<usize> {
    let file = object::File::parse(elf).context("vmlinux")?;
    for segment in file.segments() {
        let (offset, size) = segment.file_range();
        if let Some(inside) = address
            .checked_sub(segment.address())
            .filter(|inside| *inside < size)
        {
            return Ok(usize::try_from(offset + inside)?);
        }
    }
    bail!("vmlinux has nothing at {address:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_starts_after_endbr_and_fentry() {
        assert_eq!(
            body(&[0xf3, 0x0f, 0x1e, 0xfa, 0xe8, 1, 2, 3, 4, 0x55]).unwrap(),
            9
        );
        assert_eq!(body(&[0xe8, 1, 2, 3, 4, 0x55]).unwrap(), 5);
        assert!(body(&[0x55, 0x48]).is_err());
    }
}
