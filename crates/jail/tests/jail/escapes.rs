//! Ways out, each of which must fail. Where it can be done, the same attempt is shown to succeed without the jail: a test that would pass
//! for another reason proves nothing.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use captain_jail::log::Stream;
use captain_jail::state::Ending;

use crate::world::{World, eventually, processes_of};

#[test]
fn reads_app_of_another_instance() {
    let world = World::new();
    let victim = world.start("victim", world.spec("echo treasure > /app/secret; echo ready; exec sleep 1000"));
    eventually("the secret is written", || world.output(&victim, Stream::Stdout).contains("ready"));
    let root = world.dir.path().display().to_string();
    let thief = world.start(
        "thief",
        world.spec(&format!(
            "cat /proc/[0-9]*/root/app/secret /proc/*/cwd/secret /app/secret; ls -R {root} /tmp /var; grep -rs treasure /app /tmp /dev/shm; true"
        )),
    );
    world.exited(&thief);
    let seen = world.output(&thief, Stream::Stdout);
    assert!(!seen.contains("treasure") && !seen.contains("spec.json"), "{seen}");
    world.stop_and_clean(&victim);
}

#[test]
fn reads_memory_or_environment_of_the_server() {
    let world = World::new();
    let server = std::process::id();
    let seen = world.run(world.spec(&format!(
        "cat /proc/[0-9]*/environ | tr '\\0' '\\n'; echo ---; ls /proc | grep -c '^[0-9]'; cat /proc/{server}/environ /proc/{server}/maps; head -c 1 /proc/{server}/mem"
    )));
    let (environments, rest) = seen.stdout.split_once("---").unwrap();
    assert!(!environments.contains("CARGO"), "{environments}");
    let processes: u32 = rest.trim().lines().next().unwrap().parse().unwrap();
    assert!(processes <= 5, "sees {processes} processes");
    assert_eq!(seen.stderr.matches("No such file").count(), 3, "{}", seen.stderr);
}

#[test]
fn reads_private_folders_or_the_docker_socket() {
    let world = World::new();
    let socket = world.dir.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let seen = world.run(world.spec(&format!(
        "for f in /root /home /var/lib /var/run /run /srv /opt /mnt /boot /etc/shadow /etc/ssh /etc/sudoers /etc/docker /dev/vda /dev/kmsg /dev/mem /sys/kernel /sys/class /proc/1/root/root {}; do test -e $f && echo FOUND $f; done; test -e /usr/bin && echo works",
        socket.display()
    )));
    assert_eq!(seen.stdout, "works\n");
}

#[test]
fn connects_to_an_abstract_socket_of_the_host() {
    let world = World::new();
    let name = format!("captain-jail-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let outside = Command::new("/usr/bin/python3")
        .args(["-c", &format!("import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')")])
        .status()
        .unwrap();
    assert!(outside.success());
    let seen = world.run(world.python(&format!(
        "try:\n    socket.socket(socket.AF_UNIX).connect('\\0{name}'.replace('\\\\0', chr(0)))\n    print('CONNECTED')\nexcept OSError as e:\n    print(e.errno == errno.EPERM)"
    ).replace("'\\0", "'\\\\0")));
    assert_eq!(seen.stdout, "True\n", "{}", seen.stderr);
}

#[test]
fn writes_to_the_host() {
    let world = World::new();
    fs::write(world.slug().join("original"), "untouched").unwrap();
    let seen = world.run(world.spec(
        "for f in /x /usr/x /usr/bin/x /etc/x /etc/passwd /bin/sh /lib/x /dev/x /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sysrq-trigger /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/memory/memory.limit_in_bytes /.captain/x; do (echo x > $f) 2>/dev/null && echo WROTE $f; done; echo mine > /app/original && rm /app/original && echo mine > /app/original && cat /app/original",
    ));
    assert_eq!(seen.stdout, "mine\n");
    assert_eq!(fs::read_to_string(world.slug().join("original")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(world.slug()).unwrap().count(), 1);
}

#[test]
fn keeps_a_process_alive_after_the_end() {
    let world = World::new();
    let id = world.start(
        "daemon",
        world.spec("for i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP INT; echo up; while :; do sleep 1; done' & done; sleep 1000"),
    );
    let uid = world.jail.inspect(&id).unwrap().unwrap().record.uid;
    eventually("the daemons are up", || world.output(&id, Stream::Stdout).matches("up").count() == 3);
    assert!(processes_of(uid).len() >= 4);
    world.jail.kill(&id).unwrap();
    assert_eq!(world.exited(&id).ending, Ending::Signal(libc::SIGKILL));
    assert_eq!(processes_of(uid), Vec::<String>::new());
    assert!(world.jail.clean(&id).unwrap());
    world.nothing_is_left();
}

#[test]
fn regains_privileges_by_a_setuid_program() {
    let world = World::new();
    let program = world.slug().join("suid-id");
    fs::copy("/usr/bin/id", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    // On the host it does work: any user becomes root by it.
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let outside = Command::new(&program).arg("-u").uid(65534).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&outside.stdout), "0\n");
    let mut spec = world.spec("/app/suid-id -u; cp /app/suid-id /tmp/s; chmod 6755 /tmp/s; /tmp/s -u; /usr/bin/su -c id root </dev/null; /usr/bin/mount -t tmpfs x /tmp; grep NoNewPrivs /proc/self/status");
    spec.hostname = "x".into();
    let seen = world.run(spec);
    let mut lines = seen.stdout.lines();
    assert!(lines.next().unwrap().starts_with("19000"), "{}", seen.stdout);
    assert!(lines.next().unwrap().starts_with("19000"), "{}", seen.stdout);
    assert_eq!(lines.next(), Some("NoNewPrivs:\t1"));
    assert!(!seen.stdout.contains("uid=0"));
}

#[test]
fn becomes_root_by_system_calls() {
    let world = World::new();
    let seen = world.run(world.python(
        "for f in (os.setuid, os.setgid):\n    try:\n        f(0)\n        print('ROOT')\n    except PermissionError:\n        print('no')\n\
         print(open('/proc/self/status').read())",
    ));
    assert!(seen.stdout.starts_with("no\nno\n"), "{}", seen.stdout);
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "Seccomp:\t2"] {
        assert!(seen.stdout.contains(line), "{line} is not in {}", seen.stdout);
    }
}

#[test]
fn mounts_or_makes_namespaces() {
    let world = World::new();
    let calls = [
        ("mount", libc::SYS_mount, "b'x', b'/tmp', b'tmpfs', 0, 0"),
        ("umount", libc::SYS_umount2, "b'/proc', 2"),
        ("pivot_root", libc::SYS_pivot_root, "b'/tmp', b'/tmp'"),
        ("chroot", libc::SYS_chroot, "b'/tmp'"),
        ("unshare user", libc::SYS_unshare, "0x10000000"),
        ("unshare mount", libc::SYS_unshare, "0x20000"),
        ("clone user", libc::SYS_clone, "0x10000011, 0, 0, 0, 0"),
        ("setns", libc::SYS_setns, "0, 0"),
        ("mount_setattr", libc::SYS_mount_setattr, "-100, b'/', 0, 0, 0"),
        ("open_tree", libc::SYS_open_tree, "-100, b'/', 1"),
        ("keyctl", libc::SYS_keyctl, "0, -3, 1"),
        ("bpf", libc::SYS_bpf, "0, 0, 0"),
        ("perf", libc::SYS_perf_event_open, "0, 0, 0, 0, 0"),
        ("userfaultfd", libc::SYS_userfaultfd, "0"),
        ("io_uring", libc::SYS_io_uring_setup, "1, 0"),
        ("open_by_handle", libc::SYS_open_by_handle_at, "0, 0, 0"),
        ("kexec", libc::SYS_kexec_load, "0, 0, 0, 0"),
        ("module", libc::SYS_init_module, "0, 0, 0"),
        ("reboot", libc::SYS_reboot, "0, 0, 0, 0"),
    ];
    let program: String = calls
        .iter()
        .map(|(name, number, arguments)| format!("print('{name}', sys({number}, {arguments}))\n"))
        .collect();
    let seen = world.run(world.python(&program));
    let expected: String = calls.iter().map(|(name, ..)| format!("{name} -1\n")).collect(); // -EPERM
    assert_eq!(seen.stdout, expected, "{}", seen.stderr);
    let seen = world.run(world.python(&format!("print(sys({}, 0, 0))", libc::SYS_clone3)));
    assert_eq!(seen.stdout, format!("-{}\n", libc::ENOSYS));
}

#[test]
fn traces_or_signals_a_process_outside() {
    let world = World::new();
    let id = world.start("first", world.spec("exec sleep 1000"));
    let uid = world.jail.inspect(&id).unwrap().unwrap().record.uid;
    world.stop_and_clean(&id);
    // A process of the host under the very uid that the instance will have.
    let mut bystander = Command::new("/bin/sleep").arg("1000").uid(uid).gid(uid).stdout(Stdio::null()).spawn().unwrap();
    let pid = bystander.id();
    let spec = world.python(&format!(
        "buf = ctypes.create_string_buffer(8); iov = (ctypes.c_size_t * 2)(ctypes.addressof(buf), 8)\nprint(sys({ptrace}, 16, {pid}, 0, 0), sys({kill}, {pid}, 9), sys({kill}, -1, 9), sys({readv}, {pid}, iov, 1, iov, 1, 0))",
        ptrace = libc::SYS_ptrace,
        kill = libc::SYS_kill,
        readv = libc::SYS_process_vm_readv,
    ));
    let id = world.start("first", spec);
    assert_eq!(world.jail.inspect(&id).unwrap().unwrap().record.uid, uid, "the same id gets the same uid");
    world.exited(&id);
    let seen = world.output(&id, Stream::Stdout);
    let alive = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(alive);
    let answers: Vec<i32> = seen.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(answers.iter().all(|answer| [-libc::ESRCH, -libc::EPERM].contains(answer)), "{seen}");
    assert!(world.jail.clean(&id).unwrap());
}

#[test]
fn sees_nothing_of_its_monitor() {
    let world = World::new();
    let seen = world.run(world.spec("ls -l /proc/self/fd | sed 's/.*-> //'; cat /proc/self/mountinfo; cat /proc/keys; cat /proc/self/sessionid; hostname"));
    assert!(!seen.stdout.contains("instances/only"), "{}", seen.stdout);
    assert!(!seen.stdout.contains("spec.json") && !seen.stdout.contains("lock"), "{}", seen.stdout);
    assert!(seen.stdout.ends_with("jailed\n"), "{}", seen.stdout);
}
