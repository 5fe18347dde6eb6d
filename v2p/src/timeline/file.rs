//! The file of a trace, which grows while the watch goes on. What is in it can be read at any moment, and after a kill.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Result;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::{Trace, wire::Message};
use crate::{exit::Failure, kernel::clock, record::Record, whole_file};

/// A trace that is written to a file.
pub struct TraceFile {
    path: PathBuf,
    /// None where there is no such file yet: a watch that does not come about makes none.
    file: Option<BufWriter<File>>,
    trace: Option<Trace>,
    name: Box<dyn Fn(u32) -> String>,
    /// Moves whose packets the file has for sure.
    kept: u64,
}

impl TraceFile {
    /// Opens what is there, without a change: what cannot be written is known before the watch, and an older trace is gone only
    /// once there is a new one. `name`: gives the name of a process.
    ///
    /// # Errors
    /// Exit code 2, with the path and the kernel's reason.
    pub fn create(path: &Path, name: impl Fn(u32) -> String + 'static) -> Result<Self, Failure> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = match whole_file::open(path, OpenOptions::new().write(true)) {
            Ok(file) => Some(buffered(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && folder.is_dir() => {
                let may = Access::WRITE_OK | Access::EXEC_OK;
                accessat(CWD, folder, may, AtFlags::EACCESS)
                    .map_err(|e| whole_file::explain(path, &e.into()))?;
                None
            }
            Err(e) => return Err(whole_file::explain(path, &e)),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            trace: None,
            name: Box::new(name),
            kept: 0,
        })
    }

    /// The watch has begun: what was in the file before goes, and where there was none, there is one.
    fn begin(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) if file.get_ref().metadata()?.is_file() => file.get_ref().set_len(0),
            // A pipe or a device holds nothing.
            Some(_) => Ok(()),
            None => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true);
                let file = whole_file::open(&self.path, &mut options)?;
                self.file = Some(buffered(file));
                Ok(())
            }
        }
    }

    /// Takes a record of the watch.
    ///
    /// # Errors
    /// Exit code 2, with the path, the kernel's reason, and what the file holds.
    pub fn record(&mut self, record: &Record) -> Result<(), Failure> {
        let mut packets = Vec::new();
        if let Record::Start { pid, .. } = record {
            self.begin().map_err(|e| self.explain(&e))?;
            let (trace, first) = Trace::new(
                *pid,
                &(self.name)(*pid),
                clock::now_ns(),
                clock::boottime_ns(),
                clock::realtime_ns(),
            );
            self.trace = Some(trace);
            packets = first;
        }
        if let Some(trace) = &mut self.trace {
            packets.extend(trace.record(record));
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let written = packets
            .iter()
            .map(Message::bytes)
            .try_for_each(|bytes| file.write_all(bytes));
        written.map_err(|e| self.explain(&e))
    }

    /// Has everything in the file that was taken.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.file.as_mut().map_or(Ok(()), BufWriter::flush);
        flushed.map_err(|e| self.explain(&e))?;
        self.kept = self.counts().0;
        Ok(())
    }

    /// Has it on the disk, where one can be: a full one may show only now.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.flush()?;
        let synced = self.file.as_ref().map(|file| file.get_ref().sync_all());
        match synced.unwrap_or(Ok(())) {
            // A pipe or a device has none.
            Err(e) if e.raw_os_error() != Some(libc::EINVAL) => Err(self.explain(&e)),
            _ => Ok(()),
        }
    }

    /// Where it is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves and faults in it.
    pub fn counts(&self) -> (u64, u64) {
        self.trace.as_ref().map_or((0, 0), |t| (t.moves, t.faults))
    }

    fn explain(&self, error: &io::Error) -> Failure {
        let why = whole_file::explain(&self.path, error);
        let (seen, kept) = (self.counts().0, self.kept);
        let what = format!("{why}; of {seen} moves the file holds {kept} for sure");
        Failure::failed(what).hint(match error.kind() {
            io::ErrorKind::BrokenPipe => "who read it went away; what was printed stands",
            _ => "make room, or name a file elsewhere; what was printed stands",
        })
    }
}

fn buffered(file: File) -> BufWriter<File> {
    BufWriter::with_capacity(1 << 16, file)
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        // After an error the buffer would be tried once more by its own drop, which is no harm.
        let _ = self.file.as_mut().map(BufWriter::flush);
    }
}
