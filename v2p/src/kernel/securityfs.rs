//! What security modules show of themselves: files of securityfs, mounted or not.

use std::{fs, io::Read as _, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

/// Where it is mounted, if it is.
const PLACE: &str = "/sys/kernel/security";

/// The active security modules, as a file of the kernel's.
const MODULES: &str = "lsm";

/// A file's text, and where it was read, as evidence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// What it says.
    pub text: String,
    /// Its name.
    pub place: String,
}

/// Reads `name`: from where securityfs is mounted, else from a mount of our own that nobody else sees.
///
/// # Errors
/// ENOENT where securityfs has no such file; others where it may not be mounted.
pub fn read(name: &str) -> rustix::io::Result<Shown> {
    let place = format!("{PLACE}/{name}");
    if let Ok(text) = fs::read_to_string(&place) {
        return Ok(Shown { text, place });
    }
    let text = read_in(&private()?, name)?;
    let place = format!("{name} in securityfs, which is not mounted");
    Ok(Shown { text, place })
}

/// The security modules that are asked, as one line of evidence; none where they cannot be told.
pub fn modules() -> Option<String> {
    let Shown { text, place } = read(MODULES).ok()?;
    Some(format!("{} ({place})", text.trim()))
}

/// securityfs without a place in the tree: seen through this descriptor alone, gone with it (fsmount(2), 5.2).
fn private() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

fn read_in(root: &OwnedFd, name: &str) -> rustix::io::Result<String> {
    let file = rustix::fs::openat(root, name, OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    fs::File::from(file)
        .read_to_string(&mut text)
        .map_err(|_| rustix::io::Errno::IO)?;
    Ok(text)
}
