//! A guest's whole file system: a cpio archive in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst), not compressed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::Job;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER: u32 = 0o020_600;
const LINK: u32 = 0o120_777;
/// Commands of the guest that init is too, under these names.
const COMMANDS: [&str; 2] = ["/bin/modprobe", "/bin/symbol"];

/// Writes the archive to `path`.
pub(super) fn write(
    path: &Path,
    init: &Path,
    files: &[(String, PathBuf)],
    job: &Job,
) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    archive.directory("/dev")?;
    // What init writes to before it has mounted anything.
    archive.entry("/dev/console", CHARACTER, (5, 1), &[])?;
    archive.directory("/proc")?;
    archive.directory("/sys")?;
    archive.directory("/tmp")?;
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    archive.file("/init", &read(init)?)?;
    for command in COMMANDS {
        archive.link(command, "/init")?;
    }
    for (place, source) in files.iter().chain(&job.files) {
        archive.file(place, &read(source)?)?;
    }
    archive.file(
        "/lab/command",
        nul_separated(job.command.iter().cloned()).as_bytes(),
    )?;
    let environment = job
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    archive.file("/lab/environment", nul_separated(environment).as_bytes())?;
    archive.finish()?;
    Ok(())
}

fn nul_separated(words: impl Iterator<Item = String>) -> String {
    words.map(|word| word + "\0").collect()
}

struct Archive<W> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    const fn new(out: W) -> Self {
        Self {
            out,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// A file and the folders above it.
    fn file(&mut self, place: &str, bytes: &[u8]) -> io::Result<()> {
        self.above(place)?;
        self.entry(place, EXECUTABLE, (0, 0), bytes)
    }

    /// A symbolic link and the folders above it.
    fn link(&mut self, place: &str, to: &str) -> io::Result<()> {
        self.above(place)?;
        self.entry(place, LINK, (0, 0), to.as_bytes())
    }

    /// The folders above `place`.
    fn above(&mut self, place: &str) -> io::Result<()> {
        let above: Vec<_> = place
            .match_indices('/')
            .map(|(i, _)| i)
            .filter(|i| *i > 0)
            .collect();
        for end in above {
            self.directory(place.get(..end).unwrap_or_default())?;
        }
        Ok(())
    }

    fn directory(&mut self, place: &str) -> io::Result<()> {
        if self.directories.insert(place.to_owned()) {
            self.entry(place, DIRECTORY, (0, 0), &[])?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        place: &str,
        mode: u32,
        device: (u32, u32),
        bytes: &[u8],
    ) -> io::Result<()> {
        let name = place.trim_start_matches('/');
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        self.inode += 1;
        // Inode, mode, uid, gid, links, mtime, size, device of the file, device that it is, name, checksum.
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        write!(self.out, "{name}\0")?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len())
    }

    /// Zeros up to a multiple of four.
    fn pad(&mut self, len: usize) -> io::Result<()> {
        let zeros = [0u8; 3];
        self.out.write_all(
            zeros
                .get(..len.next_multiple_of(4) - len)
                .unwrap_or_default(),
        )
    }

    fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_each_folder_once_and_everything_aligned() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("/bin/a", b"12345").unwrap();
        archive.file("/bin/b", b"").unwrap();
        archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(
            text.matches("070701").count(),
            4,
            "bin, bin/a, bin/b, trailer"
        );
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<_> = text.match_indices("070701").map(|(i, _)| i % 4).collect();
        assert_eq!(starts, [0, 0, 0, 0]);
    }
}
