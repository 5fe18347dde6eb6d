//! Causes on the way to an open /dev/mem.

use super::*;
use crate::doctor::facts::User;

#[test]
fn a_kernel_without_the_driver_is_named_whether_or_not_there_is_a_node() {
    let config = Some(Config::for_test("# CONFIG_DEVMEM is not set\n"));
    let with_node = Facts { config, ..root() };
    assert_all(
        &with_node,
        &own_page(),
        not_opened(Id::ConfigDevmem, libc::ENXIO),
    );
    let without = Facts {
        node: Node::Absent(Errno(libc::ENOENT)),
        lockdown: Some(Lockdown {
            mode: "integrity".to_owned(),
            evidence: String::new(),
        }),
        ..with_node
    };
    assert_all(
        &without,
        &own_page(),
        not_opened(Id::ConfigDevmem, libc::ENOENT),
    );
}

#[test]
fn a_node_that_is_missing_or_masked_is_named() {
    let absent = Facts {
        node: Node::Absent(Errno(libc::ENOENT)),
        ..root()
    };
    assert_all(
        &absent,
        &own_page(),
        not_opened(Id::DevmemNode, libc::ENOENT),
    );
    let masked = Facts {
        node: Node::Other("it is device 1:3, not 1:1".to_owned()),
        ..root()
    };
    assert_all(
        &masked,
        &own_page(),
        Answer::NotOpened(Id::DevmemNode, None),
    );
    let nodev = with_node(|device| device.nodev = true);
    assert_all(
        &nodev,
        &own_page(),
        not_opened(Id::DevmemNode, libc::EACCES),
    );
}

#[test]
fn file_mode_device_cgroup_and_not_being_root_are_told_apart() {
    let refused = |n| {
        with_node(|device| {
            device.read = Err(Errno(n));
            device.write = Err(Errno(n));
        })
    };
    let (module, cgroup) = (refused(libc::EACCES), refused(libc::EPERM));
    // Root's capabilities pass any mode.
    let check = find(&module, &own_page(), Id::DevmemNode);
    assert!(check.what.contains("security module"), "{check:?}");
    let mode = Facts {
        user: User {
            privileges: Some(Privileges::new(0x1ff_ffff_fff8)),
            ..root().user
        },
        ..module
    };
    assert_all(&mode, &own_page(), not_opened(Id::DevmemNode, libc::EACCES));
    assert_all(&cgroup, &own_page(), not_opened(Id::Container, libc::EPERM));
    let user = Facts {
        user: User {
            euid: 1000,
            privileges: Some(Privileges::new(0)),
            ..mode.user
        },
        ..mode
    };
    assert_all(&user, &own_page(), not_opened(Id::Root, libc::EACCES));
    let group_kmem = with_node(|device| device.write = Err(Errno(libc::EACCES)));
    assert_eq!(
        answers(&group_kmem, &own_page()),
        [
            denied(Id::StrictDevmem, libc::EPERM),
            not_opened(Id::DevmemNode, libc::EACCES),
            denied(Id::StrictDevmem, libc::EPERM)
        ]
    );
}

#[test]
fn capabilities_are_told_apart() {
    let without = |bit: u32| Facts {
        user: User {
            privileges: Some(Privileges::new(0x1ff_ffff_ffff & !(1 << bit))),
            ..root().user
        },
        ..opened()
    };
    let hidden = Target {
        pa: None,
        is_hidden: true,
        ..own_page()
    };
    assert_all(
        &without(17),
        &own_page(),
        not_opened(Id::CapSysRawio, libc::EPERM),
    );
    // The kernel makes no error of it: it shows no frame.
    let answer = Answer::Denied(Id::CapSysAdmin, None);
    assert_eq!(answers(&without(21), &hidden), [answer; 3]);
}

#[test]
fn a_user_namespace_is_the_cause_and_not_what_follows_from_it() {
    let inside = |facts| Facts {
        user: User {
            euid: 65534,
            namespace: namespace("user:[4026532190]", 4_026_531_837),
            ..root().user
        },
        ..facts
    };
    let unmapped = with_node(|device| {
        device.read = Err(Errno(libc::EACCES));
        device.write = Err(Errno(libc::EACCES));
    });
    let hidden = Target {
        pa: None,
        is_hidden: true,
        ..own_page()
    };
    assert_all(
        &inside(unmapped),
        &hidden,
        not_opened(Id::Container, libc::EACCES),
    );
    assert_all(
        &inside(root()),
        &hidden,
        not_opened(Id::Container, libc::EPERM),
    );
    // Before the namespace counts: what we do not open, and what the mount does not open.
    let masked = Facts {
        node: Node::Other("it is device 1:3, not 1:1".to_owned()),
        ..inside(root())
    };
    let answer = Answer::NotOpened(Id::DevmemNode, None);
    assert_all(&masked, &hidden, answer);
    let nodev = inside(with_node(|device| device.nodev = true));
    assert_all(&nodev, &hidden, not_opened(Id::DevmemNode, libc::EACCES));
}

#[test]
fn lockdown_comes_before_anything_of_the_address_and_unknown_is_not_none() {
    let locked = |lockdown| Facts {
        lockdown,
        ..opened()
    };
    for mode in ["integrity", "confidentiality"] {
        let lockdown = Lockdown {
            mode: mode.to_owned(),
            evidence: String::new(),
        };
        let facts = locked(Some(lockdown));
        assert_all(&facts, &own_page(), not_opened(Id::Lockdown, libc::EPERM));
    }
    let unknown = answers(&locked(None), &own_page());
    assert_eq!(unknown[0], Answer::Unknown(Id::Lockdown));
}

#[test]
fn a_kernel_whose_configuration_is_nowhere_is_unknown() {
    let facts = Facts {
        config: None,
        ..root()
    };
    assert_all(&facts, &own_page(), Answer::Unknown(Id::StrictDevmem));
    let nothing = Facts {
        has_read_mem: None,
        ..facts
    };
    let answer = Answer::Unknown(Id::ConfigDevmem);
    assert_all(&nothing, &own_page(), answer);
}
