# shellcheck shell=bash
# What benchmarks in a machine of the rig share. To be sourced, from the top of the repository
# where they begin, and in the machine, where BENCH_INSIDE is set.
#
# In the machine there is a distro D, of version 2, and a guest of QEMU that answers commands
# over SSH, made of what is in the rig's own system: what a distro is compared with.

# Runs this benchmark's script in a machine of the rig: its name, then its arguments. Files of
# the directory `files` come along.
in_rig() {
    local script=$1 machine=$1-benchmark file
    shift
    # shellcheck disable=SC2064
    trap "tests/rig/stop '$machine'; rm -rf '$files'" EXIT
    tests/rig/start "$machine"
    tar --sparse -cf "$files/files.tar" -C "$(dirname "$wslr")" "$(basename "$wslr")" \
        -C "$rig_cache" distro.tar data/kernels
    for file in "$files"/*.tar; do tests/rig/put "$machine" "$file" "/bench/${file##*/}"; done
    for file in "$script" rig.sh; do tests/rig/put "$machine" "benches/$file" "/bench/benches/$file"; done
    tests/rig/exec "$machine" env BENCH_INSIDE=1 bash "/bench/benches/$script" "$@" && return
    echo "$script: failed; what the machine said last:" >&2
    tail -n 30 "$rig_cache/machines/$machine/console.log" "$rig_cache/machines/$machine/qemu.log" >&2
    return 1
}

# In the machine: a home with what came along, in /bench.
enter_home() {
    export HOME=/bench XDG_RUNTIME_DIR=/bench/run WSLR_DATA_DIR=/bench/data WSL_DISABLE_WARNINGS=1
    wslr=/bench/wslr tar=/bench/distro.tar
    mkdir -m 700 -p "$XDG_RUNTIME_DIR"
    # busybox prefers its own tar, which knows no sparse files.
    /usr/bin/tar -C /bench -xf /bench/files.tar
}

# Installs D in the home, with the settings of all benchmarks; arguments are the installation's.
install_distro() {
    printf '%s\n' '[general]' instanceIdleTimeout=-1 '[wsl2]' processors=1 memory=768MB swap=0 \
        kernelBootTimeout=300000 distributionStartTimeout=300000 >"$HOME/.wslconfig"
    "$wslr" --install --no-launch --name D --from-file "$tar" "$@" >/dev/null
}

# Makes the key, and the initramfs /bench/peer.cpio with these programs and what they need.
make_peer() {
    local tree=/bench/peer file
    mkdir -p "$tree"/{bin,dev,proc,sys,etc/dropbear,root/.ssh,run,tmp,modules}
    for file in /bin/busybox "$(type -P dropbear)" "$(type -P true)" "$@"; do
        # The programs and the libraries that they name.
        { echo "$file"; ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true; } |
            while read -r file; do install -D "$file" "$tree$file"; done
    done
    ln -sf busybox "$tree/bin/sh"
    echo 'root::0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
    echo /bin/sh >"$tree/etc/shells"
    dropbearkey -t ed25519 -f /bench/key | grep '^ssh-' >"$tree/root/.ssh/authorized_keys"
    chmod -R go= "$tree/root"
    # A module that is loaded already is refused, which does no harm.
    local number=100
    while read -r file; do
        install -D "$file" "$tree/modules/$number-${file##*/}"
        number=$((number + 1))
    done <<<"$(modprobe --show-depends -a virtio_pci virtio_net | sed -n 's/^insmod \([^ ]*\).*/\1/p')"
    cat >"$tree/init" <<'END'
#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts
busybox mount -t devpts dev /dev/pts
for module in /modules/*; do busybox insmod "$module"; done
busybox ip link set lo up
read -r line </proc/cmdline
case $line in *peer.mtu=*) mtu=${line##*peer.mtu=}; busybox ip link set eth0 mtu "${mtu%% *}" ;; esac
busybox ip link set eth0 up
busybox ip addr add 10.0.2.15/24 dev eth0
busybox ip route add default via 10.0.2.2
exec /usr/sbin/dropbear -F -R -s -p 22
END
    chmod 0755 "$tree/init"
    (cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null) >/bench/peer.cpio
}

# Starts the guest $1, whose shell is on the host's port $2; $3 are words for its kernel, the
# rest are QEMU's own. Its process is in `peer_pid`.
start_peer() {
    local name=$1 port=$2 words=$3
    shift 3
    setsid qemu-system-x86_64 -M q35 -accel kvm -cpu host -smp 1 -m 768 -nodefaults -nographic \
        -kernel /bench/data/kernels/current/vmlinux -initrd /bench/peer.cpio \
        -append "console=ttyS0 quiet no_timer_check panic=-1 $words" -serial "file:/bench/$name.log" \
        "$@" </dev/null >"/bench/$name.qemu.log" 2>&1 &
    peer_pid=$!
    for _ in $(seq 120); do
        over_ssh "$port" true </dev/null 2>/dev/null && return
        sleep 1
    done
    cat "/bench/$name.qemu.log" "/bench/$name.log" >&2
    return 1
}

# Ends the guest that was started last.
stop_peer() {
    kill "$peer_pid" 2>/dev/null || true
    wait "$peer_pid" 2>/dev/null || true
}

# Runs a command in the guest whose shell is on that port, for two minutes at most; what is said
# of it is kept in /bench/ssh.log.
over_ssh() {
    local port=$1
    shift
    timeout 120 dbclient -y -y -i /bench/key -p "$port" root@127.0.0.1 "$@" 2>>/bench/ssh.log
}
