//! What the running kernel is like: found out, never assumed from its version.

pub mod btf;
pub mod config;
pub mod direct_map;
pub mod iomem;
pub mod layout;
pub mod lockdown;
pub mod privileges;
pub mod reason;

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}
