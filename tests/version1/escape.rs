//! The host is protected from what runs in a distro, root in it included: each thing that
//! a distro must not reach is tried from inside.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Uid;

use crate::fixture::{OwnHome, home, in_distro, running, shell};
use crate::support::wait_for;

crate::as_root_and_as_user! {
    sysrq_and_kernel_settings_cannot_be_written
    sys_cannot_be_written
    what_tells_too_much_of_the_kernel_is_masked
    no_module_is_loaded_and_no_kernel
    dangerous_system_calls_are_denied
    nothing_is_mounted_and_no_mask_is_taken_off
    no_device_of_the_host_is_reached
    no_host_process_is_seen_or_signalled
    no_link_of_a_process_leads_to_the_hosts_root
    a_double_chroot_does_not_break_out
    a_set_user_id_program_does_not_reach_other_users_of_the_host
    set_user_id_programs_work_inside
    nothing_of_the_hosts_environment_or_files_is_seen
    the_executable_cannot_be_written_through_a_process
    a_user_namespace_inside_takes_no_mask_off
    a_distro_sees_its_own_cgroup_only
    the_first_process_cannot_be_killed_from_inside
    everything_dies_with_the_service
    everything_dies_with_the_process_that_serves_it
}

/// Runs a shell line as root of the default distro, which must fail.
#[track_caller]
fn refused(line: &str) {
    let output = in_distro(&["sh", "-c", line]);
    // A program that is not there proves nothing.
    let missing = matches!(output.status.code(), Some(126 | 127));
    assert!(!output.status.success() && !missing, "{line}: {output:?}");
}

/// What a perl program prints in the default distro.
#[track_caller]
fn perl(program: &str) -> String {
    let output = in_distro(&["perl", "-e", program]);
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn sysrq_and_kernel_settings_cannot_be_written() {
    // Of its commands this one only prints help.
    refused("echo h > /proc/sysrq-trigger");
    let path = "/proc/sys/kernel/core_pattern";
    let before = fs::read(path).unwrap();
    refused(&format!("echo '|/escape' > {path}"));
    refused("echo 1 > /proc/sys/vm/drop_caches");
    refused("echo 0 > /proc/sys/kernel/randomize_va_space");
    assert_eq!(fs::read(path).unwrap(), before);
    refused("echo x > /proc/irq/default_smp_affinity");
}

fn sys_cannot_be_written() {
    refused("mkdir /sys/x");
    refused("mount -o remount,rw /sys");
    let writable =
        "find /sys -path /sys/fs/cgroup -prune -o -type f -perm /200 -print | head -200 |
        while read -r f; do (: >> \"$f\") 2>/dev/null && echo \"$f\"; done; true";
    assert_eq!(shell(writable), "");
}

fn what_tells_too_much_of_the_kernel_is_masked() {
    let line = "for f in kcore keys key-users latency_stats timer_list sched_debug interrupts; do
        [ ! -e /proc/$f ] || head -c 64 /proc/$f; done; ls /proc/acpi /proc/scsi /sys/firmware \
        2>/dev/null | grep -v : ; true";
    assert_eq!(shell(line).trim(), "");
}

fn no_module_is_loaded_and_no_kernel() {
    // init_module, finit_module, delete_module, kexec_load, kexec_file_load: not one of them
    // comes as far as looking at its arguments.
    let calls = "for (175, 313, 176, 246, 320) { syscall($_, 0, 0, 0, 0, 0); print $!+0, ' ' }";
    assert_eq!(perl(calls), "1 1 1 1 1 ");
}

fn dangerous_system_calls_are_denied() {
    // add_key, request_key, keyctl, perf_event_open, open_by_handle_at, bpf, userfaultfd,
    // iopl, ioperm.
    let calls = "for (248, 249, 250, 298, 304, 321, 323, 172, 173) {
        syscall($_, 0, 0, 0, 0, 0); print $!+0, ' ' }";
    assert_eq!(perl(calls), "1 1 1 1 1 1 1 1 1 ");
    // The x32 interface: getpid.
    assert_eq!(perl("syscall(0x40000000 + 39); print $!+0"), "38");
}

fn nothing_is_mounted_and_no_mask_is_taken_off() {
    refused("mount -t tmpfs none /mnt");
    refused("mount -t proc proc /mnt");
    refused("mount --bind /proc/sys /mnt");
    refused("umount /proc/sys");
    refused("umount -l /proc");
    refused("mount -o remount,rw /proc/sys");
    refused("mount -o remount,rw,bind /proc/sys");
    refused("mount -o remount,dev /");
}

fn no_device_of_the_host_is_reached() {
    let disk = fs::metadata("/").unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(disk), nix::sys::stat::minor(disk));
    refused("mknod /tmp/mem c 1 1");
    refused(&format!("mknod /tmp/disk b {major} {minor}"));
    refused(&format!("mount -t ext4 -o ro /dev/disk-{major} /mnt"));
    for path in ["/dev/mem", "/dev/kmsg", "/dev/port", "/dev/sda", "/dev/vda", "/dev/kvm"] {
        refused(&format!("head -c 1 {path}"));
    }
    let names = "full null random tty urandom zero";
    let listed = shell(
        "cd /dev; find * -path pts -prune -o ! -type d ! -type l -print | sort | tr '\\n' ' '",
    );
    assert_eq!(listed.trim(), names);
    let bound = shell(&format!("cd /dev; for f in {names}; do stat -c %t:%T $f; done"));
    assert_eq!(bound, "1:7\n1:3\n1:8\n5:0\n1:9\n1:5\n");
    // Nodes that were among the distro's files from the start.
    if Uid::effective().is_root() {
        let node = rootfs(home()).join("planted");
        let _ = fs::remove_file(&node);
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&node, SFlag::S_IFCHR, mode, makedev(1, 1)).unwrap();
        let opened = in_distro(&["head", "-c", "1", "/planted"]);
        fs::remove_file(&node).unwrap();
        let said = String::from_utf8_lossy(&opened.stderr);
        assert!(!opened.status.success() && said.contains("Permission denied"), "{opened:?}");
    }
}

/// The files of a home's first distro, on the host.
fn rootfs(home: &crate::support::Home) -> std::path::PathBuf {
    let distros = home.data("distros");
    let mut entries = fs::read_dir(distros).unwrap();
    entries.next().unwrap().unwrap().path().join("rootfs")
}

/// A process of the host, ended at the end.
struct Outside(Child);

impl Outside {
    fn new() -> Self {
        let mut command = Command::new("sleep");
        home().as_owner(&mut command);
        Self(command.arg("1000").spawn().unwrap())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn no_host_process_is_seen_or_signalled() {
    // A distro of its own: what this kills would be the sessions of other tests.
    let home = OwnHome::with_distro("D", "");
    let in_distro = |line: &str| home.wslr(["--", "sh", "-c", line]).command().output().unwrap();
    let mut outside = Outside::new();
    let pid = outside.0.id();
    let seen = in_distro("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(seen.status.success(), "{seen:?}");
    assert!(!String::from_utf8_lossy(&seen.stdout).contains("sleep 1000"), "{seen:?}");
    // A process id of the host means nothing inside.
    let killed = in_distro(&format!("[ ! -e /proc/{pid} ] && ! kill -9 {pid} 2>/dev/null"));
    assert!(killed.status.success(), "{killed:?}");
    // This takes all sessions, but neither the distro nor the host.
    in_distro("sleep 100 & kill -9 -1");
    let left = in_distro("! pgrep -x sleep");
    assert!(left.status.success(), "{left:?}");
    assert!(outside.0.try_wait().unwrap().is_none());
}

fn no_link_of_a_process_leads_to_the_hosts_root() {
    // The host has the home's own files; the distro has not.
    let marker = home().write("marker", "outside");
    let marker = marker.display();
    assert!(Path::new(&marker.to_string()).exists());
    let line = format!(
        "for p in /proc/[0-9]* /proc/self /proc/thread-self; do
            for l in root root/.. root/../.. cwd cwd/.. cwd/../../..; do
                [ ! -e $p/$l{marker} ] || echo $p/$l; done;
            for f in $p/fd/*; do [ ! -e $f{marker} ] && [ ! -e $f/..{marker} ] || echo $f; done;
        done; [ ! -e {marker} ]"
    );
    let found = in_distro(&["sh", "-c", &line]);
    assert!(found.status.success() && found.stdout.is_empty(), "{found:?}");
    let standard = shell("readlink /proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2 | sort -u");
    assert!(standard.lines().count() == 1 && standard.ends_with("/null\n"), "{standard}");
}

fn a_double_chroot_does_not_break_out() {
    let marker = home().write("marker", "outside");
    let program = format!(
        "mkdir '/tmp/jail'; opendir(my $out, '/'); chroot('/tmp/jail') or die;
         chdir($out) if 0; for (1..100) {{ chdir('..') }} chroot('.');
         mkdir 'again'; chroot('again'); for (1..100) {{ chdir('..') }} chroot('.');
         print((-e '{}') ? 'out' : 'in')",
        marker.display()
    );
    assert_eq!(perl(&program), "in");
}

fn a_set_user_id_program_does_not_reach_other_users_of_the_host() {
    shell("cp /usr/bin/id /planted-id && chmod 4755 /planted-id");
    let planted = rootfs(home()).join("planted-id");
    let metadata = fs::symlink_metadata(&planted).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o4755);
    assert_eq!(metadata.uid(), home().owner().unwrap_or(0));
    if Uid::effective().is_root() {
        use std::os::unix::process::CommandExt;
        // The home itself is open here, so that only the distro's own directory protects.
        let open: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let mut above = planted.parent().unwrap().parent().unwrap().parent();
        while let Some(directory) = above.filter(|path| path.starts_with(home().path(""))) {
            fs::set_permissions(directory, open.clone()).unwrap();
            above = directory.parent();
        }
        let mut stranger = Command::new(&planted);
        stranger.uid(54_322).gid(54_322).stdin(Stdio::null());
        let error = stranger.output().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
    shell("rm /planted-id");
}

fn set_user_id_programs_work_inside() {
    assert_eq!(shell("grep NoNewPrivs /proc/self/status"), "NoNewPrivs:\t0\n");
    shell("cp /usr/bin/perl /tmp/p && chmod 4755 /tmp/p");
    let output = home()
        .wslr(["-u", "nobody", "--", "/tmp/p", "-U", "-e", "print $>"])
        .command()
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0", "{output:?}");
}

fn nothing_of_the_hosts_environment_or_files_is_seen() {
    let home = OwnHome::with_distro("D", "");
    let test = home.wslr(["--", "sh", "-c", "cat /proc/1/environ /proc/1/cmdline; env"]);
    let output = test.env("ESCAPE_SECRET", "hidden").into_command().output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).replace('\0', "\n");
    assert!(output.status.success());
    assert!(!seen.contains("hidden") && !seen.contains("XDG_RUNTIME_DIR"), "{seen}");
}

fn the_executable_cannot_be_written_through_a_process() {
    let executable = Path::new(env!("CARGO_BIN_EXE_wslr"));
    let mode = fs::metadata(executable).unwrap().mode();
    for path in ["/proc/1/exe", "/init"] {
        refused(&format!(": >> {path}"));
        refused(&format!("chmod 777 {path}"));
        refused(&format!("chown 1 {path}"));
    }
    // That of the relay, which is the parent of a command.
    refused("chmod 777 /proc/$PPID/exe");
    assert_eq!(fs::metadata(executable).unwrap().mode(), mode);
}

fn a_user_namespace_inside_takes_no_mask_off() {
    // A distro's users may make user namespaces, but mounts from outside of them stay.
    let inside = |line: &str| format!("unshare -Urmpf sh -c '{line}'");
    shell(&inside("true"));
    refused(&inside("umount /proc/sys"));
    refused(&inside("mount -t proc proc /proc"));
    refused(&inside("mount -o remount,rw,bind /proc/sys"));
    refused(&inside("echo x > /proc/sys/kernel/core_pattern"));
}

fn a_distro_sees_its_own_cgroup_only() {
    let mounted = shell("grep -c ' /sys/fs/cgroup cgroup2 ' /proc/self/mounts || true");
    match mounted.trim() {
        "0" => assert_eq!(shell("ls /sys/fs/cgroup | wc -l"), "0\n"),
        _ => {
            assert_eq!(shell("cat /proc/self/cgroup | grep ^0::"), "0::/\n");
            assert_eq!(shell("cat /sys/fs/cgroup/cgroup.procs | grep -cx 0 || true"), "0\n");
        }
    }
}

fn the_first_process_cannot_be_killed_from_inside() {
    shell("kill -9 1; kill -15 1; kill -1 1; true");
    assert_eq!(shell("echo alive"), "alive\n");
}

/// The process ids of the host whose command line is this.
fn processes(words: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pid = |entry: fs::DirEntry| -> Option<i32> {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        (String::from_utf8_lossy(&line).replace('\0', " ").trim() == words).then_some(pid)
    };
    entries.filter_map(pid).collect()
}

/// Starts a distro with a daemon that nothing but its end takes with it, kills what `find`
/// gives, and waits for the daemon's end.
fn kill_and_wait(seconds: &str, find: impl Fn(&OwnHome) -> i32) {
    let home = OwnHome::with_distro("D", "");
    let line = format!("trap '' HUP TERM; setsid sleep {seconds} </dev/null >/dev/null 2>&1 &");
    home.wslr(["--", &line]).run();
    let words = format!("sleep {seconds}");
    wait_for("the daemon", || processes(&words).len() == 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(find(&home)), nix::sys::signal::SIGKILL)
        .unwrap();
    wait_for("the daemon to die", || processes(&words).is_empty());
    // And the distro can be used again.
    home.wslr(["echo", "again"]).stdout("again\n").run();
    assert_eq!(running(&home), "D\n");
}

fn service(home: &OwnHome) -> i32 {
    let status = crate::fixture::status(home);
    i32::try_from(status["service"]["process"].as_i64().unwrap()).unwrap()
}

fn everything_dies_with_the_service() {
    let unique = format!("7{}", std::process::id() + home().owner().unwrap_or(0));
    kill_and_wait(&unique, service);
}

fn everything_dies_with_the_process_that_serves_it() {
    let unique = format!("8{}", std::process::id() + home().owner().unwrap_or(0));
    kill_and_wait(&unique, |home| {
        let parent = format!("PPid:\t{}\n", service(home));
        let is_child = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|text| text.contains(&parent))
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children: Vec<i32> = all.filter(is_child).collect();
        assert_eq!(children.len(), 1, "{children:?}");
        children[0]
    });
}
