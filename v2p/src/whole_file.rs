//! A file that is written whole or not at all: under another name, or none, until it is complete.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, linkat};

use crate::exit::Failure;

/// Names that killed runs left beside a file, at most; more are somebody's doing.
const LEFT: u32 = 1000;

/// A file under way.
#[derive(Debug)]
pub struct WholeFile {
    /// As it was asked for.
    asked: PathBuf,
    place: Place,
    file: File,
}

/// Where the bytes go until they are all there.
#[derive(Debug)]
enum Place {
    /// A file without a name (O_TMPFILE), to be given this one.
    Unnamed(PathBuf),
    /// A file by the first name, to be given the second.
    Named(PathBuf, PathBuf),
    /// A pipe or a device, which nothing may take the place of; or a file that has no name any more.
    Direct,
}

/// Whether something is there that is no file and no folder: a pipe, a terminal, a device, whose name says nothing of what it is for.
pub fn is_stream(path: &Path) -> bool {
    path.exists() && !path.is_file() && !path.is_dir()
}

/// Whether it is what our stdout goes to: what is said there would lie in the middle of it. In /dev/null nothing lies.
pub fn is_stdout(path: &Path) -> bool {
    let named = fs::metadata(path);
    if named.as_ref().is_ok_and(is_null) {
        return false;
    }
    let named = named.map(|there| (there.dev(), there.ino()));
    let ours = rustix::fs::fstat(io::stdout()).map(|ours| (ours.st_dev, ours.st_ino));
    matches!((named, ours), (Ok(named), Ok(ours)) if named == ours)
}

/// Whether it is /dev/null, by whatever name.
fn is_null(there: &Metadata) -> bool {
    let device = there.rdev();
    let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
    there.file_type().is_char_device() && numbers == (1, 3)
}

impl WholeFile {
    /// Prepares to write `path`: what cannot be written is known before any work is done.
    ///
    /// # Errors
    /// Exit code 2, with the path and the kernel's reason.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let open = || {
            // Asked of the path itself: the links of /proc/PID/fd, which /dev/stdout leads to, have no name of what they lead to.
            let (place, file) = match fs::metadata(path) {
                Ok(m) if m.is_dir() => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
                Ok(m) if m.is_file() => match real(path, &m)? {
                    Some(real) => beside(&real)?,
                    None => (Place::Direct, open(path, OpenOptions::new().write(true))?),
                },
                Ok(_) => (Place::Direct, open(path, OpenOptions::new().write(true))?),
                Err(e) if e.kind() == io::ErrorKind::NotFound => beside(path)?,
                Err(e) => return Err(e),
            };
            Ok(Self {
                asked: path.to_owned(),
                place,
                file,
            })
        };
        open().map_err(|e| explain(path, &e))
    }

    /// Writes all of it, and gives it its name.
    ///
    /// # Errors
    /// Exit code 2: a full disk, ...; then there is no such file, or the one that was there before.
    pub fn finish(mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(bytes).map_err(|e| explain(&self.asked, &e))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if matches!(self.place, Place::Direct) && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(bytes)?;
        match &self.place {
            Place::Direct => Ok(()),
            Place::Unnamed(path) => {
                // A full disk may show only now.
                self.file.sync_all()?;
                let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                // A link takes nothing's place: first another name, then that one is changed.
                let link = |to: &Path| Ok(linkat(CWD, &from, CWD, to, AtFlags::SYMLINK_FOLLOW)?);
                let (named, ()) = aside(path, link)?;
                self.place = Place::Named(named, path.clone());
                self.rename()
            }
            Place::Named(..) => {
                self.file.sync_all()?;
                self.rename()
            }
        }
    }

    fn rename(&self) -> io::Result<()> {
        match &self.place {
            Place::Named(from, to) => fs::rename(from, to),
            Place::Unnamed(_) | Place::Direct => Ok(()),
        }
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Place::Named(from, _) = &self.place {
            // It is gone where it has got its name.
            let _ = fs::remove_file(from);
        }
    }
}

/// Opens a file that the user named for output, and nothing that is no place for it: physical memory and the ports above all,
/// which [`crate::guard`] alone writes to, whatever a link calls them; disks; devices that take what is written as orders.
/// Looked at before it is opened, which does things to some devices; and after, since it may have changed.
///
/// # Errors
/// Those of open(2); and what it is, where it is none of these.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(there) => takes_output(&there)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // A terminal is not to become ours.
    let file = options.custom_flags(libc::O_NOCTTY).open(path)?;
    takes_output(&file.metadata()?)?;
    Ok(file)
}

fn takes_output(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let device = metadata.rdev();
    let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
    let other = match numbers {
        _ if kind.is_block_device() => "a block device".to_owned(),
        (major, minor) if kind.is_char_device() && !is_harmless(numbers) => {
            format!("character device {major}:{minor}, no terminal")
        }
        _ => return Ok(()),
    };
    let what = format!("it is {other}: v2p puts no output there");
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Character devices that do nothing but take output: null, zero and full, and terminals, by their numbers
/// (Documentation/admin-guide/devices.txt).
const fn is_harmless((major, minor): (u32, u32)) -> bool {
    const MEM: u32 = 1;
    match major {
        MEM => matches!(minor, 3 | 5 | 7),
        // Virtual and serial ones, /dev/tty and the console, /dev/pts, by USB, of small serial chips, of hypervisors.
        4 | 5 | 136..=143 | 188 | 204 | 229 => true,
        _ => false,
    }
}

/// The name of a file that is there: a link stays one, and what it leads to is replaced. `None`: it has none any more, or another is there.
fn real(path: &Path, there: &Metadata) -> io::Result<Option<PathBuf>> {
    let is_it = |real: &PathBuf| {
        let found = fs::metadata(real);
        found.is_ok_and(|found| (found.dev(), found.ino()) == (there.dev(), there.ino()))
    };
    match fs::canonicalize(path) {
        Ok(real) => Ok(Some(real).filter(is_it)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A file that can become `path`.
fn beside(path: &Path) -> io::Result<(Place, File)> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // With no name nothing is left behind, whatever ends us. Not every file system can.
    let unnamed = OpenOptions::new()
        .write(true)
        .mode(0o666)
        .custom_flags(libc::O_TMPFILE)
        .open(folder);
    match unnamed {
        Ok(file) => Ok((Place::Unnamed(path.to_owned()), file)),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let make = |to: &Path| OpenOptions::new().write(true).create_new(true).open(to);
            let (named, file) = aside(path, make)?;
            Ok((Place::Named(named, path.to_owned()), file))
        }
        Err(e) => Err(e),
    }
}

/// Makes something by another name beside `path`. A run that was killed may have left that name, and the number of its process
/// may be ours now: then it is the next one.
fn aside<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    let mut n = 0;
    loop {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}-{n}.tmp", std::process::id()));
        let named = path.with_file_name(name);
        match make(&named) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && n < LEFT => n += 1,
            made => return made.map(|made| (named, made)),
        }
    }
}

/// What a person reads where a file cannot be written.
pub fn explain(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::failed(format!("cannot write {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            failure.hint("make room, or name a file elsewhere")
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            failure.hint("name a file elsewhere")
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("v2p-whole-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_file_that_is_not_finished_is_not_there() {
        let folder = folder("unfinished");
        let path = folder.join("a.svg");
        drop(WholeFile::create(&path).unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn what_was_there_is_replaced_and_a_link_stays_one() {
        let folder = folder("replaced");
        let (path, link) = (folder.join("a.svg"), folder.join("link.svg"));
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink("a.svg", &link).unwrap();
        WholeFile::create(&link).unwrap().finish(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_a_killed_run_left_is_in_nobodys_way() {
        let folder = folder("left");
        let path = folder.join("a.svg");
        let left = folder.join(format!("a.svg.{}-0.tmp", std::process::id()));
        fs::write(&left, "half").unwrap();
        WholeFile::create(&path).unwrap().finish(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        // It may be another's: it stays.
        assert_eq!(fs::read_to_string(&left).unwrap(), "half");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        // The same where the file system knows no files without a name.
        let make = |to: &Path| OpenOptions::new().write(true).create_new(true).open(to);
        let (named, _) = aside(&path, make).unwrap();
        assert!(named.to_str().unwrap().ends_with("-1.tmp"), "{named:?}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        WholeFile::create(Path::new("/dev/null"))
            .unwrap()
            .finish(b"x")
            .unwrap();
        use std::os::unix::fs::FileTypeExt as _;
        let null = fs::metadata("/dev/null").unwrap();
        assert!(null.file_type().is_char_device());
        let full = WholeFile::create(Path::new("/dev/full")).unwrap();
        let error = full.finish(b"x").unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    }

    #[test]
    fn what_a_link_of_proc_leads_to_is_written_to_and_the_link_stays() {
        use std::io::Read as _;
        let folder = folder("pipe");
        let link = folder.join("stdout");
        let (mut read, write) = io::pipe().unwrap();
        let to = format!("/proc/self/fd/{}", write.as_raw_fd());
        std::os::unix::fs::symlink(to, &link).unwrap();
        WholeFile::create(&link).unwrap().finish(b"new").unwrap();
        drop(write);
        let mut said = String::new();
        read.read_to_string(&mut said).unwrap();
        assert_eq!(said, "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        fs::remove_file(&link).unwrap();
        // The same of a file that has no name any more.
        let path = folder.join("a.svg");
        let mut file = File::create_new(&path).unwrap();
        file.write_all(b"older").unwrap();
        let to = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::os::unix::fs::symlink(to, &link).unwrap();
        fs::remove_file(&path).unwrap();
        WholeFile::create(&link).unwrap().finish(b"new").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "the link");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_devices_that_take_output_are_terminals_and_sinks() {
        for numbers in [(1, 3), (1, 7), (4, 64), (5, 0), (136, 7), (229, 0)] {
            assert!(is_harmless(numbers), "{numbers:?}");
        }
        // Memory, ports, the kernel's log, its random numbers; a processor's registers; a watchdog.
        for numbers in [(1, 1), (1, 2), (1, 4), (1, 11), (1, 9), (202, 0), (10, 130)] {
            assert!(!is_harmless(numbers), "{numbers:?}");
        }
    }

    #[test]
    fn no_name_and_no_link_leads_output_to_a_device_that_is_no_place_for_it() {
        use rustix::fs::{FileType, Mode, makedev, mknodat};
        let folder = folder("device");
        let (node, link) = (folder.join("node"), folder.join("x.svg"));
        // Root alone can make a node of the memory device; what everybody has of its kind is /dev/urandom.
        let mode = Mode::from_raw_mode(0o600);
        let kind = FileType::CharacterDevice;
        let led_to = match mknodat(CWD, &node, kind, mode, makedev(1, 1)) {
            Ok(()) => (node.as_path(), "character device 1:1"),
            Err(_) => (Path::new("/dev/urandom"), "character device 1:9"),
        };
        std::os::unix::fs::symlink(led_to.0, &link).unwrap();
        for path in [led_to.0, &link] {
            let whole = WholeFile::create(path).map(|_| ()).unwrap_err();
            let trace = crate::timeline::TraceFile::create(path, |_| String::new());
            for error in [whole, trace.map(|_| ()).unwrap_err()] {
                assert!(error.to_string().contains(led_to.1), "{error}");
            }
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_told_before_any_work() {
        for path in ["/nowhere/at/all.svg", "/tmp", "/proc/x.svg"] {
            let error = WholeFile::create(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
