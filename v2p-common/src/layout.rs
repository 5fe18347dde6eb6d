//! What the eBPF programs must know of the running kernel before they are loaded.

/// Offsets and constants that user space looks up (in the kernel's BTF, in /proc)
/// and hands over as one read-only global. Never compiled in: they differ between
/// kernels of one version, let alone between versions.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelLayout {
    /// Byte offset of `pgd` in `struct mm_struct`.
    pub mm_pgd: u64,
    /// Byte offset of `mm` in `struct task_struct`.
    pub task_mm: u64,
    /// Byte offset of `min_flt` in `struct task_struct`: minor faults so far.
    pub task_min_flt: u64,
    /// Byte offset of `maj_flt` in `struct task_struct`: major faults so far.
    pub task_maj_flt: u64,
    /// Device number of the PID namespace that v2p runs in (`st_dev` of
    /// /proc/self/ns/pid, in the kernel's encoding).
    pub pid_ns_dev: u64,
    /// Inode number of that namespace.
    pub pid_ns_ino: u64,
}

impl KernelLayout {
    /// All zero: what the object file holds until user space fills it in.
    pub const UNSET: Self = Self {
        mm_pgd: 0,
        task_mm: 0,
        task_min_flt: 0,
        task_maj_flt: 0,
        pid_ns_dev: 0,
        pid_ns_ino: 0,
    };

    /// The bytes of the global, in the machine's own order.
    pub fn to_bytes(&self) -> [u8; 48] {
        let Self {
            mm_pgd,
            task_mm,
            task_min_flt,
            task_maj_flt,
            pid_ns_dev,
            pid_ns_ino,
        } = self;
        let mut bytes = [0; 48];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip([
            mm_pgd,
            task_mm,
            task_min_flt,
            task_maj_flt,
            pid_ns_dev,
            pid_ns_ino,
        ]) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_struct() {
        assert_eq!(
            size_of::<KernelLayout>(),
            KernelLayout::UNSET.to_bytes().len()
        );
        let layout = KernelLayout {
            mm_pgd: 1,
            task_mm: 2,
            task_min_flt: 3,
            task_maj_flt: 4,
            pid_ns_dev: 5,
            pid_ns_ino: 6,
        };
        let words: [u64; 6] = [1, 2, 3, 4, 5, 6];
        for (chunk, word) in layout.to_bytes().chunks_exact(8).zip(words) {
            assert_eq!(chunk, word.to_ne_bytes());
        }
    }
}
