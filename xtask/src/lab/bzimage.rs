//! A bzImage's kernel proper: the ELF vmlinux that is packed in it
//! (Documentation/arch/x86/boot.rst: payload_offset, payload_length).

use std::io::Read as _;

use anyhow::{Context as _, Result, bail, ensure};

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The legacy frame: a magic, then blocks of their own length each.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// What a block of a legacy LZ4 frame unpacks to at most.
const LZ4_BLOCK: usize = 8 << 20;

/// Unpacks it.
pub(super) fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image).context("not a bzImage")?;
    let (magic, rest) = payload
        .split_first_chunk::<4>()
        .context("an empty kernel")?;
    let elf = match *magic {
        ZSTD => unzstd(payload)?,
        LZ4_LEGACY => unlz4(rest)?,
        other => bail!(
            "a kernel packed in a way that is not known here ({other:02x?}): only zstd and lz4 are"
        ),
    };
    ensure!(
        elf.starts_with(b"\x7fELF"),
        "the packed kernel is no ELF file"
    );
    Ok(elf)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?) as usize);
    // The header's own magic.
    image.get(0x202..)?.strip_prefix(b"HdrS")?;
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(start..start.checked_add(word(0x24c)?)?)
}

fn unzstd(payload: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(payload).context("zstd")?;
    decoder.read_to_end(&mut elf).context("zstd")?;
    Ok(elf)
}

fn unlz4(mut blocks: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Vec::new();
    // The kernel's build appends the unpacked length, which is no block: it ends the loop.
    while let Some((len, rest)) = blocks.split_first_chunk::<4>() {
        let Some((block, rest)) = rest.split_at_checked(u32::from_le_bytes(*len) as usize) else {
            break;
        };
        elf.extend(lz4_flex::block::decompress(block, LZ4_BLOCK).context("lz4")?);
        blocks = rest;
    }
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(vmlinux(&[]).is_err());
        assert!(vmlinux(&[0; 4096]).is_err());
    }
}
