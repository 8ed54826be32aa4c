//! The program is run by a small interpreter, on every call number there is; that the kernel takes it is tested with real instances.

use super::*;

/// What the kernel's interpreter would answer.
fn verdict(program: &[sock_filter], architecture: u32, call: u32, argument: u32) -> u32 {
    let (mut at, mut a) = (0, 0);
    loop {
        let instruction = program[at];
        at += 1;
        let k = instruction.k;
        let branch = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
        match u32::from(instruction.code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => {
                a = match k {
                    OFFSET_NUMBER => call,
                    OFFSET_ARCHITECTURE => architecture,
                    OFFSET_ARGUMENT_0 => argument,
                    other => panic!("loads offset {other}"),
                }
            }
            code if code == BPF_ALU | BPF_AND | BPF_K => a &= k,
            code if code == BPF_JMP | BPF_JEQ | BPF_K => at += branch(a == k),
            code if code == BPF_JMP | BPF_JGE | BPF_K => at += branch(a >= k),
            code if code == BPF_RET | BPF_K => return k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

#[test]
fn every_number_gets_the_verdict_of_the_list() {
    let program = program().unwrap();
    let allowed: Vec<u32> = calls::allowed().map(number).collect();
    let judged_by_argument = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_personality, libc::SYS_socket].map(number);
    for call in (0..2000).filter(|call| !judged_by_argument.contains(call)) {
        let expected = if allowed.contains(&call) {
            ALLOW
        } else if call > NEWEST {
            UNKNOWN
        } else {
            REFUSE
        };
        assert_eq!(verdict(&program, ARCHITECTURE, call, 0), expected, "call {call}");
    }
}

#[test]
fn arguments_decide_where_they_matter() {
    let program = program().unwrap();
    let check = |call, argument: u32| verdict(&program, ARCHITECTURE, number(call), argument);
    assert_eq!(check(libc::SYS_clone, libc::SIGCHLD as u32), ALLOW);
    assert_eq!(check(libc::SYS_clone, libc::CLONE_NEWUSER as u32), REFUSE);
    assert_eq!(check(libc::SYS_clone3, 0), UNKNOWN);
    assert_eq!(check(libc::SYS_socket, libc::AF_INET6 as u32), ALLOW);
    assert_eq!(check(libc::SYS_socket, libc::AF_ALG as u32), NO_SUCH_FAMILY);
    assert_eq!(check(libc::SYS_socket, libc::AF_PACKET as u32), NO_SUCH_FAMILY);
    assert_eq!(check(libc::SYS_personality, 0xFFFF_FFFF), ALLOW);
    assert_eq!(check(libc::SYS_personality, 0x0040_0000), REFUSE);
}

#[test]
fn dangerous_calls_are_not_on_the_list() {
    let program = program().unwrap();
    for call in [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount_setattr,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_open_by_handle_at,
        libc::SYS_pidfd_getfd,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
    ] {
        assert_eq!(verdict(&program, ARCHITECTURE, number(call), 0), REFUSE, "call {call}");
    }
}

#[test]
fn programs_of_another_architecture_are_killed() {
    assert_eq!(verdict(&program().unwrap(), 0x4000_0003, number(libc::SYS_read), 0), KILL);
    assert_eq!(verdict(&program().unwrap(), ARCHITECTURE, 0x4000_0000, 0), UNKNOWN);
}
