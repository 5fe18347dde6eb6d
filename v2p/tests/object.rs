//! What the committed eBPF object can do at most: the helpers of the kernel that its programs call, read off its instructions.

use std::collections::BTreeSet;

use object::{Object as _, ObjectSection as _, SectionKind};

/// Helpers by number (include/uapi/linux/bpf.h, ___BPF_FUNC_MAPPER). Each of them reads, or writes to maps and rings of ours. Not one writes
/// to memory of the kernel or of a process (probe_write_user is 36), changes what a function returns (override_return, 58) or sends a signal (109, 117).
const HARMLESS: [(u32, &str); 16] = [
    (1, "map_lookup_elem"),
    (2, "map_update_elem"),
    (3, "map_delete_elem"),
    (5, "ktime_get_ns"),
    (8, "get_smp_processor_id"),
    (14, "get_current_pid_tgid"),
    (16, "get_current_comm"),
    (112, "probe_read_user"),
    (113, "probe_read_kernel"),
    (120, "get_ns_current_pid_tgid"),
    (131, "ringbuf_reserve"),
    (132, "ringbuf_submit"),
    (134, "ringbuf_query"),
    (158, "get_current_task_btf"),
    (175, "task_pt_regs"),
    (184, "get_func_ret"),
];

/// BPF_JMP | BPF_CALL.
const CALL: u8 = 0x85;
/// Whose function is called: the source register of a call.
const OF_THE_KERNEL_S_HELPERS: u8 = 0;
const OF_THE_OBJECT_ITSELF: u8 = 1;

#[test]
fn the_programs_call_nothing_that_changes_anything() {
    let bytes = include_bytes!("../v2p.bpf.o");
    let file = object::File::parse(bytes.as_slice()).unwrap();
    let mut called = BTreeSet::new();
    for section in file.sections().filter(|s| s.kind() == SectionKind::Text) {
        let (instructions, rest) = section.data().unwrap().as_chunks::<8>();
        assert!(rest.is_empty());
        for [code, registers, _, _, number @ ..] in instructions {
            if *code != CALL {
                continue;
            }
            match registers >> 4 {
                OF_THE_KERNEL_S_HELPERS => {
                    called.insert(u32::from_le_bytes(*number));
                }
                OF_THE_OBJECT_ITSELF => {}
                other => panic!("{:?}: a call of kind {other}", section.name()),
            }
        }
    }
    assert!(
        called.contains(&113),
        "programs that read no kernel memory? {called:?}"
    );
    // The kernel's function bpf_rdonly_cast, which gives an address a type that can only be read.
    let cast = v2p::common::layout::CAST;
    assert!(called.remove(&cast), "nothing is read in place");
    let known: BTreeSet<_> = HARMLESS.iter().map(|(number, _)| *number).collect();
    assert_eq!(called, known, "what is called, and what is on the list");
}
