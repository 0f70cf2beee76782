# shellcheck shell=bash disable=SC2034,SC2054
# What the rig's commands share: where things are kept, and how a machine is started.
#
# The rig is a machine in QEMU's software CPU, which has a real /dev/kvm inside. Everything
# it needs is prepared once and kept in WSLR_RIG_CACHE (default: ~/.cache/wslr/rig).

set -euo pipefail

rig_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rig_cache=${WSLR_RIG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/wslr/rig}
rig_mirror=${WSLR_DEBIAN_MIRROR:-http://deb.debian.org/debian}
rig_memory=${WSLR_RIG_MEMORY:-3500}
rig_processors=${WSLR_RIG_PROCESSORS:-2}
export rig_source rig_cache rig_mirror

fail() {
    echo "rig: $*" >&2
    exit 1
}

# The directory of the machine called $1.
machine_directory() {
    [[ $1 =~ ^[A-Za-z0-9_.-]+$ ]] || fail "'$1' is not a machine name"
    echo "$rig_cache/machines/$1"
}

# Whether the machine in directory $1 runs.
machine_runs() {
    [[ -s $1/pid ]] && kill -0 "$(<"$1/pid")" 2>/dev/null
}

# Fills the array `ssh_command` for the machine in directory $1.
use_ssh() {
    ssh_command=(
        ssh -F none -i "$rig_cache/key" -p "$(<"$1/port")" -o BatchMode=yes -o LogLevel=ERROR
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
        -o ControlMaster=auto -o ControlPath="$1/control" -o ControlPersist=yes
        root@127.0.0.1
    )
}

# Checks for QEMU 10 or newer: older software CPUs fault guests with two processors.
need_qemu() {
    command -v qemu-system-x86_64 >/dev/null || fail "qemu-system-x86_64 is not installed (package qemu-system-x86)"
    local version
    version=$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9]*\).*/\1/p')
    ((version >= 10)) || fail "QEMU $version is too old, 10.0 is needed (Debian 12: apt-get install -t bookworm-backports qemu-system-x86)"
}

# Fills the array `qemu_command` with the machine, without its channels. Words are added to
# the kernel's command line. On a busy host the check of the timer would fail. Under many
# interrupts between its processors, as the split of a huge page under a guest makes them, the
# software CPU now and then carries out a guest's exit twice: the guest stands still or faults.
use_qemu() {
    qemu_command=(
        qemu-system-x86_64 -accel tcg,thread=multi -cpu EPYC-Milan,+svm,+npt
        -smp "$rig_processors" -M q35 -m "$rig_memory" -nodefaults -nographic -no-reboot
        -kernel "$rig_cache/kernel/vmlinux" -initrd "$rig_cache/initramfs"
        -append "console=ttyS0 panic=-1 mitigations=off quiet no_timer_check cryptomgr.notests transparent_hugepage=never $*"
        -device virtio-scsi-pci,id=scsi -device virtio-rng-pci
        -drive "file=$rig_cache/root.img,format=raw,if=none,id=root,snapshot=on,cache=unsafe,discard=unmap"
        -device scsi-hd,bus=scsi.0,lun=0,drive=root
        -drive "file=$rig_cache/data/kernels/current/modules.img,format=raw,if=none,id=modules,readonly=on"
        -device scsi-hd,bus=scsi.0,lun=1,drive=modules
    )
}
