//! What the running kernel is like: found out, never assumed from its version.

pub mod btf;
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

/// CLOCK_MONOTONIC in nanoseconds, as the programs stamp it.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}
