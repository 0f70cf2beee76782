#!/bin/sh
# Configures the packages that were unpacked when this distro was made. Runs as root at the
# first start, may be interrupted at any time and run again, and removes itself at the end.
set -eu

state=/usr/lib/wslr
info=/var/lib/dpkg/info

export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
export HOME=/root LANG=C.UTF-8 LC_ALL=C.UTF-8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset DEBIAN_HAS_FRONTEND DEBCONF_REDIR

# The scripts that dpkg runs before it unpacks. They find their files unpacked already, as
# they do when a package is unpacked a second time.
run_preinst() {
    DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$1 DPKG_MAINTSCRIPT_ARCH=$2 \
        DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT='' \
        "$info/$3.preinst" install </dev/null
}

run_preinsts() {
    # The users that everything else belongs to come first.
    for first in yes no; do
        while read -r package architecture file; do
            case $package in
            base-passwd) [ "$first" = yes ] || continue ;;
            *) [ "$first" = no ] || continue ;;
            esac
            run_preinst "$package" "$architecture" "$file" || {
                echo "the preinst script of $package failed" >&2
                return 1
            }
        done <"$state/preinst"
    done
}

main() {
    cd /
    umask 022
    if [ ! -e "$state/prepared" ]; then
        run_preinsts
        : >"$state/prepared"
    fi
    dpkg --configure -a </dev/null
    unfinished=$(dpkg --audit)
    if [ -n "$unfinished" ]; then
        echo "$unfinished" >&2
        return 1
    fi
    rm -f /usr/sbin/policy-rc.d
    # Whoever finds no script knows that all is done.
    rm -f "$state/configure"
    rm -rf "$state"
    sync
}

# The shell has read everything when it starts to remove this file.
main
exit
