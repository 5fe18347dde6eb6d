//! A cgroup for the processes of one test.

use std::{
    ffi::CString,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    Done,
    target::{PAGE, Target},
};

/// A cgroup; there is one at a time.
pub(super) struct Group(PathBuf);

impl Group {
    /// With a controller, `memory` or `cpuset`.
    pub(super) fn new(controller: &str) -> Result<Self, Done> {
        let root = Path::new("/tmp/cgroup");
        fs::create_dir_all(root).unwrap();
        if !root.join("cgroup.procs").exists() {
            let word = |text: &str| CString::new(text).unwrap();
            let (place, kind) = (word("/tmp/cgroup"), word("cgroup2"));
            // SAFETY: strings that end in NUL; no data.
            let mounted = unsafe {
                libc::mount(
                    kind.as_ptr(),
                    place.as_ptr(),
                    kind.as_ptr(),
                    0,
                    std::ptr::null(),
                )
            };
            if mounted != 0 {
                let e = io::Error::last_os_error();
                return Err(Done::Skipped(format!("no cgroups: {e}")));
            }
        }
        if let Err(e) = fs::write(
            root.join("cgroup.subtree_control"),
            format!("+{controller}"),
        ) {
            return Err(Done::Skipped(format!("no cgroups for {controller}: {e}")));
        }
        let group = root.join("v2p");
        fs::create_dir_all(&group).unwrap();
        Ok(Self(group))
    }

    pub(super) fn take(&self, target: &Target) {
        self.set("cgroup.procs", &target.pid().to_string());
    }

    pub(super) fn set(&self, name: &str, value: &str) {
        let path = self.0.join(name);
        fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Has the kernel take so many pages of it, as far as it can.
    pub(super) fn reclaim(&self, pages: u64) {
        let written = fs::write(self.0.join("memory.reclaim"), (pages * PAGE).to_string());
        match written {
            // It could take less.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            written => written.unwrap(),
        }
    }

    /// Others may be in it still, and the guest is thrown away: what it limits is put back.
    pub(super) fn no_limit(&self) {
        for name in ["memory.max", "memory.swap.max"] {
            // Without swap in the kernel there is no file for it.
            let _ = fs::write(self.0.join(name), "max");
        }
    }
}

impl Drop for Group {
    /// For whoever has it next, also where this test fails.
    fn drop(&mut self) {
        self.no_limit();
    }
}
