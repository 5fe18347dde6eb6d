//! Whether programs on the kernel's functions are permitted at all, found out before the types are read that they need.

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

/// Loads, and attaches to nothing, the shortest program for the start of the function with the number `function` among the
/// kernel's types. The error, where it says that such programs are not permitted, whatever the function; what else goes wrong is
/// told by those that are wanted.
pub(super) fn refused(function: u32) -> Option<io::Error> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_TRACING: u32 = 26;
    const BPF_TRACE_FENTRY: u32 = 24;
    // r0 = 0; exit
    let steps: [u64; 2] = [0xb7, 0x95];
    let attr = Attr {
        prog_type: BPF_PROG_TYPE_TRACING,
        expected_attach_type: BPF_TRACE_FENTRY,
        attach_btf_id: function,
        insn_cnt: 2,
        insns: steps.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Attr::default()
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
        let error = io::Error::last_os_error();
        return (error.raw_os_error() == Some(libc::EPERM)).then_some(error);
    }
    // SAFETY: it is ours, and nobody else knows it.
    unsafe { libc::close(i32::try_from(fd).ok()?) };
    None
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
