//! The kernel's clocks, as the programs have them: without what a time namespace adds.

use std::{fs, sync::OnceLock};

use rustix::time::{ClockId, clock_gettime};

/// What our time namespace adds to the clocks, in nanoseconds (kernel/time/namespace.c, 5.6 to 7.3). bpf_ktime_get_ns and the kernel's own notes
/// have none of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offsets {
    /// To CLOCK_MONOTONIC.
    pub monotonic: i64,
    /// To CLOCK_BOOTTIME, and to when /proc says that a process was started.
    pub boottime: i64,
}

impl Offsets {
    /// Ours. None where the kernel has no such namespaces.
    pub fn ours() -> Self {
        static OURS: OnceLock<Offsets> = OnceLock::new();
        *OURS.get_or_init(|| {
            // The file is about the namespace of our children (unshare(2) changes that alone). Where it is another, ours is not told: most
            // likely it is the first one, which adds nothing.
            let namespace = |name| fs::read_link(format!("/proc/self/ns/{name}")).ok();
            let text = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
            match namespace("time") == namespace("time_for_children") {
                true => Self::parse(&text).unwrap_or_default(),
                false => Self::default(),
            }
        })
    }

    /// From the text of /proc/PID/timens_offsets: a line a clock, with its name, seconds and nanoseconds.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let of = |clock: &str| {
            let line = text.lines().find(|line| {
                let name = line.split_whitespace().next();
                name == Some(clock)
            })?;
            let mut numbers = line.split_whitespace().skip(1);
            let seconds: i64 = numbers.next()?.parse().ok()?;
            let rest: i64 = numbers.next()?.parse().ok()?;
            let whole = seconds.checked_mul(1_000_000_000)?;
            (0..1_000_000_000)
                .contains(&rest)
                .then_some(whole)?
                .checked_add(rest)
        };
        Some(Self {
            monotonic: of("monotonic")?,
            boottime: of("boottime")?,
        })
    }
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// CLOCK_MONOTONIC in nanoseconds, as the programs stamp it.
pub fn now_ns() -> u64 {
    read(ClockId::Monotonic).saturating_add_signed(Offsets::ours().monotonic.saturating_neg())
}

/// CLOCK_BOOTTIME in nanoseconds, as the kernel notes it.
pub fn boottime_ns() -> u64 {
    read(ClockId::Boottime).saturating_add_signed(Offsets::ours().boottime.saturating_neg())
}

/// CLOCK_REALTIME in nanoseconds, which no namespace changes.
pub fn realtime_ns() -> u64 {
    read(ClockId::Realtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_seconds_and_nanoseconds_which_may_lie_before_the_boot() {
        // As the kernel writes them (timens_for_children, "%-10s %10lld %9ld").
        let text = "monotonic      100000         5\nboottime           -2 500000000\n";
        let offsets = Offsets::parse(text).unwrap();
        assert_eq!(offsets.monotonic, 100_000_000_000_005);
        assert_eq!(offsets.boottime, -1_500_000_000);
        for wrong in [
            "",
            "monotonic 1 0\n",
            "monotonic 1\nboottime 0 0",
            "monotonic x 0\nboottime 0 0",
        ] {
            assert_eq!(Offsets::parse(wrong), None, "{wrong}");
        }
    }
}
