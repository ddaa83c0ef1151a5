#!/bin/sh
# Builds the Debian packages of two versions and tries them on a fresh Debian: alone, beside
# QEMU's packages (installed before and after), upgraded, removed. Needs root, debootstrap and
# some minutes.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tools/debian-system.sh"
debian_system
arch=$(go env GOARCH)
for v in 0.1.0 0.2.0; do
	mkdir -p "$system/root/$v"
	TARGETS=linux/$arch "$here/release.sh" $v "$system/root/$v" >/dev/null
done

# is NAME PROGRAM: the name is that of cowl, of a version, or of QEMU.
is() {
	text=$(inside "$1 --version" | head -1)
	case "$2:$text" in
	QEMU:*cowl*) ;;
	QEMU:*Debian*) return 0 ;;
	*)
		case "$text" in
		*"(cowl $2)"*) return 0 ;;
		esac
		;;
	esac
	echo "$1 is \"$text\", not $2" >&2
	exit 1
}
none() {
	! inside "command -v $1" >/dev/null || { echo "$1 is left" >&2; exit 1; }
}
step() { printf '== %s\n' "$*"; }

inside 'apt-get update -qq'
step "alone"
inside "dpkg -i /root/0.1.0/cowl_*.deb /root/0.1.0/cowl-qemu-utils_*.deb" >/dev/null
is qemu-img 0.1.0
is qemu-nbd 0.1.0
inside 'qemu-img create -q -f qcow2 /root/disk 1G && cowl check -q /root/disk && test -e /usr/share/bash-completion/completions/cowl'

step "QEMU's package comes later"
inside 'apt-get install -y -qq --no-install-recommends qemu-utils' >/dev/null
is qemu-img 0.1.0
is qemu-img.distrib QEMU
inside 'qemu-io --version' >/dev/null

step "upgrade"
inside "dpkg -i /root/0.2.0/cowl_*.deb /root/0.2.0/cowl-qemu-utils_*.deb" >/dev/null
is qemu-img 0.2.0
inside 'update-alternatives --display qemu-img' | grep -q '/usr/bin/qemu-img.distrib - priority 40' || {
	echo "QEMU's program is no alternative" >&2
	exit 1
}

step "chosen by hand"
inside 'update-alternatives --set qemu-img /usr/bin/qemu-img.distrib' >/dev/null
is qemu-img QEMU
is qemu-nbd 0.2.0

step "removed: QEMU's programs are back"
inside 'dpkg -r cowl-qemu-utils' >/dev/null
is qemu-img QEMU
is qemu-nbd QEMU
none qemu-img.distrib
inside '! test -L /usr/bin/qemu-img && ! update-alternatives --list qemu-img' 2>/dev/null

step "QEMU's package is there before, and goes"
inside "dpkg -i /root/0.2.0/cowl-qemu-utils_*.deb" >/dev/null
is qemu-img 0.2.0
inside 'apt-get remove -y -qq qemu-utils' >/dev/null
is qemu-img 0.2.0
inside 'dpkg -r cowl-qemu-utils cowl' >/dev/null
none qemu-img
none qemu-nbd
none cowl
inside 'test -z "$(dpkg-divert --list "*qemu*")"'

step "the guest agent takes the place of QEMU's"
inside "apt-get install -y -qq --no-install-recommends qemu-guest-agent && apt-get install -y -qq /root/0.2.0/cowl-guest-agent_*.deb" >/dev/null 2>&1
is qemu-ga 0.2.0
inside 'dpkg -r cowl-guest-agent' >/dev/null
none qemu-ga
step "passed"
