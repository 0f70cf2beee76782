# shellcheck shell=bash
# A guest of QEMU that answers commands over SSH, made in a machine of the rig of what is in
# the rig's own system: what benchmarks compare a distro with. To be sourced there.

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
    # shellcheck disable=SC2034
    peer_pid=$!
    for _ in $(seq 120); do
        over_ssh "$port" true </dev/null 2>/dev/null && return
        sleep 1
    done
    cat "/bench/$name.qemu.log" "/bench/$name.log" >&2
    return 1
}

# Runs a command in the guest whose shell is on that port.
over_ssh() {
    local port=$1
    shift
    dbclient -y -y -i /bench/key -p "$port" root@127.0.0.1 "$@" 2>/dev/null
}
