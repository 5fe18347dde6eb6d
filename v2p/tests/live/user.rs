//! Who is not root, and has some capabilities: /proc/kpageflags is not theirs to read, and what processes of others have neither.

use std::{os::unix::process::CommandExt as _, process::Output};

use libtest_mimic::Trial;
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities,
};

use crate::{
    Done,
    harness::{self, last_json},
    memory::HUGE_BASE,
    target::Target,
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("without_flags_the_huge_zero_page_is_told", zeros),
        trial("who_cannot_tell_of_what_it_may_not_read", who),
    ]
}

const USER: u32 = 65534;
/// What a walk takes.
const WALK: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_PTRACE);

/// Runs v2p as a user with these capabilities.
fn as_user(arguments: &[&str], with: CapabilitySet) -> Output {
    let (mut command, _program) = harness::v2p_by_descriptor().unwrap();
    command.args(arguments);
    let become_user = move || {
        set_keep_capabilities(true)?;
        // SAFETY: numbers, and no memory; there is one thread.
        let failed =
            unsafe { libc::setresgid(USER, USER, USER) | libc::setresuid(USER, USER, USER) };
        if failed != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let sets = CapabilitySets {
            effective: with,
            permitted: with,
            inheritable: with,
        };
        set_capabilities(None, sets)?;
        for one in with.iter() {
            configure_capability_in_ambient_set(one, true)?;
        }
        Ok(())
    };
    // SAFETY: a few system calls, and nothing is allocated.
    unsafe { command.pre_exec(become_user) };
    command.output().unwrap()
}

fn zeros() -> Done {
    const SET_DUMPABLE: u64 = 4;
    let mut target = Target::start();
    if target.tell("thp-zero", 0) == 0 {
        return Done::Skipped("this kernel gave no huge zero page".to_owned());
    }
    let user = u64::from(USER);
    target.must(libc::SYS_setresuid, &[user, user, user]);
    // Its files of /proc are the user's then.
    target.must(libc::SYS_prctl, &[SET_DUMPABLE, 1]);
    let (pid, range) = (target.pid().to_string(), format!("{HUGE_BASE:#x}+2M"));
    let admin = WALK.union(CapabilitySet::SYS_ADMIN);
    for (route, with) in [
        ("pagemap", admin),
        ("walk", admin),
        ("both", admin),
        ("walk", WALK),
        ("both", WALK),
    ] {
        let arguments = [
            "translate",
            "--json",
            "--pid",
            &pid,
            "--route",
            route,
            &range,
        ];
        let output = as_user(&arguments, with);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{route}: {errors}");
        let end = last_json(&output);
        assert_eq!(end["zero"], 512, "{route}: {end}, {errors}");
        let withheld = route == "both" && with == WALK;
        assert_eq!(end["single"] == 512, route != "both" || withheld, "{end}");
        assert_eq!(errors.contains("pagemap withholds"), withheld, "{errors}");
    }
    Done::Passed
}

fn who() -> Done {
    let mut target = Target::start();
    let pfn = format!("pfn:{}", target.tell("write", 3));
    let output = as_user(&["who", &pfn], WALK);
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}{errors}");
    assert!(
        errors.contains("it cannot be told whether a process maps it"),
        "{errors}"
    );
    assert!(errors.contains("hint: run it as root"), "{errors}");
    assert!(text.contains("could not be read (process "), "{text}");
    // With the right to read them all.
    let output = as_user(&["who", &pfn], WALK.union(CapabilitySet::DAC_READ_SEARCH));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(&format!(" {} ", target.pid())), "{text}");
    Done::Passed
}
