//! Reading the kernel's memory in place: for what is read at every fault the helper is too dear (some 35 ns a word, 6.18).
//!
//! The kernel has a function for programs, bpf_rdonly_cast (kernel/bpf/helpers.c, since 6.2), that gives an address a type; a read
//! through that is one instruction, and of what is not mapped it is 0. aya 0.14 knows no functions of the kernel. So the
//! object has calls of a helper that there is not, which are made calls of the function here.

use std::borrow::Cow;

use v2p_common::layout::{CAST, KernelLayout};

use super::tiny::{self, step};

/// `layout`, without the cast where this kernel does not take it.
pub(super) fn tried(mut layout: KernelLayout) -> KernelLayout {
    if numbers(&layout).is_none_or(|(cast, kind)| !tiny::may_cast(cast, kind)) {
        layout.cast_type = KernelLayout::ABSENT;
    }
    layout
}

/// The object with its calls of the kernel's function in place, where `layout` has the cast. Where not, no program comes by
/// them, and the verifier leaves them out.
pub(super) fn fitted<'a>(object: &'a [u8], layout: &KernelLayout) -> Cow<'a, [u8]> {
    let Some((cast, _)) = numbers(layout) else {
        return Cow::Borrowed(object);
    };
    let mut fitted = object.to_vec();
    // Instructions lie at multiples of their size in sections, and those in the file.
    let (steps, _) = fitted.as_chunks_mut::<8>();
    for one in steps {
        if *one == step::call_helper(CAST).to_le_bytes() {
            *one = step::call(cast).to_le_bytes();
        }
    }
    Cow::Owned(fitted)
}

/// The function, and the type.
fn numbers(layout: &KernelLayout) -> Option<(u32, u32)> {
    Some((
        u32::try_from(layout.cast).ok()?,
        u32::try_from(layout.cast_type).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::OBJECT, *};

    fn calls(object: &[u8], call: u64) -> usize {
        let (steps, _) = object.as_chunks::<8>();
        steps
            .iter()
            .filter(|one| **one == call.to_le_bytes())
            .count()
    }

    #[test]
    fn the_calls_of_the_object_become_those_of_the_function() {
        let there = calls(OBJECT, step::call_helper(CAST));
        assert!(there > 0, "nothing is read in place");
        let without = KernelLayout {
            cast: 77,
            cast_type: KernelLayout::ABSENT,
            ..KernelLayout::UNSET
        };
        assert_eq!(fitted(OBJECT, &without), OBJECT);
        let with = KernelLayout {
            cast_type: 1,
            ..without
        };
        let fitted = fitted(OBJECT, &with);
        assert_eq!(calls(&fitted, step::call_helper(CAST)), 0);
        assert_eq!(calls(&fitted, step::call(77)), there);
    }
}
