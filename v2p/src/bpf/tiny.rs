//! Programs of a few instructions that are loaded, and attached to nothing, to see what this kernel takes.

use std::io;

/// `union bpf_attr` for BPF_PROG_LOAD, up to what says which function (include/uapi/linux/bpf.h, since 5.5).
#[repr(C)]
#[derive(Default)]
struct Attr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_btf_obj_fd: u32,
    rest: u32,
}

/// Whether this kernel refuses all programs on functions: asked of the shortest one for the start of the function with the
/// number `function` among the kernel's types, before the types are read that they need. What else goes wrong is told by those
/// that are wanted.
pub(super) fn functions_are_refused(function: u32) -> Option<io::Error> {
    const BPF_PROG_TYPE_TRACING: u32 = 26;
    const BPF_TRACE_FENTRY: u32 = 24;
    let attr = Attr {
        prog_type: BPF_PROG_TYPE_TRACING,
        expected_attach_type: BPF_TRACE_FENTRY,
        attach_btf_id: function,
        ..Attr::default()
    };
    let refused = load(attr, &[step::return_nothing(), step::EXIT]).err();
    refused.filter(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// Whether a program for perf's events may read through what the kernel's function with the number `cast` makes of an address
/// and the type with the number `kind`.
pub(super) fn may_cast(cast: u32, kind: u32) -> bool {
    const BPF_PROG_TYPE_PERF_EVENT: u32 = 7;
    let attr = Attr {
        prog_type: BPF_PROG_TYPE_PERF_EVENT,
        ..Attr::default()
    };
    let steps = [
        step::set(1, 0),
        step::set(2, kind),
        step::call(cast),
        step::READ_WORD,
        step::return_nothing(),
        step::EXIT,
    ];
    load(attr, &steps).is_ok()
}

/// Instructions (include/uapi/linux/bpf.h): code, registers, offset, number, from the lowest byte on.
pub(super) mod step {
    /// Source register of a call of a function of the kernel (BPF_PSEUDO_KFUNC_CALL).
    const OF_THE_KERNEL: u64 = 2;

    /// r0 = *(u64 *)r0
    pub(crate) const READ_WORD: u64 = 0x79;
    pub(crate) const EXIT: u64 = 0x95;

    /// `register` = `number`
    pub(crate) const fn set(register: u64, number: u32) -> u64 {
        0xb7 | register << 8 | (number as u64) << 32
    }

    pub(crate) const fn return_nothing() -> u64 {
        set(0, 0)
    }

    /// A call of the helper with this number.
    pub(crate) const fn call_helper(number: u32) -> u64 {
        0x85 | (number as u64) << 32
    }

    /// A call of the kernel's function with this number among its types.
    pub(crate) const fn call(function: u32) -> u64 {
        call_helper(function) | OF_THE_KERNEL << 12
    }
}

fn load(attr: Attr, steps: &[u64]) -> io::Result<()> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    let attr = Attr {
        insn_cnt: u32::try_from(steps.len()).map_err(io::Error::other)?,
        insns: steps.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..attr
    };
    // SAFETY: the steps and the licence outlive the call, and the kernel is told how long the rest is.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: it is ours, and nobody else knows it.
    unsafe { libc::close(fd) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attributes_lie_where_the_kernel_reads_them() {
        assert_eq!(std::mem::offset_of!(Attr, expected_attach_type), 68);
        assert_eq!(std::mem::offset_of!(Attr, attach_btf_id), 108);
        assert_eq!(size_of::<Attr>(), 120);
    }
}
