//! What the running kernel is like: found out, never assumed from its version.

pub mod btf;
pub mod clock;
pub mod config;
pub mod iomem;
pub mod layout;
pub mod limits;
pub mod lockdown;
pub mod node;
pub mod privileges;
pub mod reason;
pub mod securityfs;
pub mod zones;

pub use clock::now_ns;

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}
