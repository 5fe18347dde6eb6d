//! The kernel functions on the way to /dev/mem whose answers are watched, and where the answers lie.

/// Answers of one function to the watched thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answers {
    /// How often it returned.
    pub calls: u64,
    /// Its first argument, at the last call.
    pub argument: u64,
    /// What it returned then, as the register held it: a function that returns `int` leaves the upper half undefined.
    pub value: u64,
}

impl Answers {
    /// As the map holds it.
    pub const fn to_words(self) -> [u64; 3] {
        [self.calls, self.argument, self.value]
    }

    /// From the map.
    pub const fn from_words([calls, argument, value]: [u64; 3]) -> Self {
        Self {
            calls,
            argument,
            value,
        }
    }
}

macro_rules! functions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// A function, by its place in the map of answers. Not every kernel has each: what a compiler inlined cannot
        /// be watched.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Function {
            $($(#[$doc])* $variant),*
        }

        impl Function {
            /// All of them, in the order in which the kernel comes by them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The kernel's name, which is that of the program too.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),*
                }
            }
        }
    };
}

functions! {
    /// Device cgroup: -EPERM denies (security/device_cgroup.c).
    DevcgroupCheckPermission = "devcgroup_check_permission",
    /// Security modules at open: an error denies (security/security.c).
    SecurityFileOpen = "security_file_open",
    /// Lockdown, with the reason as argument: -EPERM denies (security/security.c).
    SecurityLockedDown = "security_locked_down",
    /// The driver's open: CAP_SYS_RAWIO, then lockdown (drivers/char/mem.c).
    OpenPort = "open_port",
    /// Finds the driver of a minor number: -ENXIO where there is none (drivers/char/mem.c).
    MemoryOpen = "memory_open",
    /// 0: beyond the end of memory (arch/x86/mm/mmap.c).
    ValidPhysAddrRange = "valid_phys_addr_range",
    /// mmap(2): 0: beyond the processor's physical addresses (arch/x86/mm/mmap.c).
    ValidMmapPhysAddrRange = "valid_mmap_phys_addr_range",
    /// 1: a driver claims it exclusively (kernel/resource.c).
    IomemIsExclusive = "iomem_is_exclusive",
    /// 0: denied; 1: allowed; 2: zeros are read, writes are dropped (arch/x86/mm/init.c).
    DevmemIsAllowed = "devmem_is_allowed",
    /// 0: a page of the range is denied (drivers/char/mem.c); inlined in all kernels seen so far.
    RangeIsAllowed = "range_is_allowed",
    /// read(2): bytes, or an error (drivers/char/mem.c).
    ReadMem = "read_mem",
    /// write(2): bytes, or an error (drivers/char/mem.c).
    WriteMem = "write_mem",
    /// mmap(2): 0: PAT does not allow it (arch/x86/mm/pat/memtype.c).
    PhysMemAccessProtAllowed = "phys_mem_access_prot_allowed",
    /// mmap(2), to 6.18: an error denies (drivers/char/mem.c).
    MmapMem = "mmap_mem",
    /// mmap(2), from 7.0 on: an error denies (drivers/char/mem.c).
    MmapMemPrepare = "mmap_mem_prepare",
}

/// The place of the probe of security modules that are programs: behind the functions.
#[expect(clippy::cast_possible_truncation, reason = "there are a dozen")]
pub const LSM_PROBE: u32 = Function::ALL.len() as u32;

/// Places in the map of answers.
pub const PLACES: u32 = LSM_PROBE + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_number_is_its_place_in_the_list() {
        for (i, function) in Function::ALL.into_iter().enumerate() {
            assert_eq!(function as usize, i);
        }
    }

    #[test]
    fn answers_survive_the_map() {
        let answers = Answers {
            calls: 1,
            argument: 2,
            value: 3,
        };
        assert_eq!(Answers::from_words(answers.to_words()), answers);
    }
}
