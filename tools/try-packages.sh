#!/bin/sh
# Builds the packages of two versions and tries them on a fresh Debian: alone, beside
# QEMU's packages (installed before and after), upgraded, removed; the RPM packages in a root
# of their own. Needs root, debootstrap and some minutes.
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
is qemu-io 0.1.0
is qemu-nbd 0.1.0
inside 'qemu-img create -q -f qcow2 /root/disk 1G && cowl check -q /root/disk && test -e /usr/share/bash-completion/completions/cowl'

step "what comes with it"
inside 'cowl-incus --version && man=$(ls /usr/share/man/man1/cowl*.1.gz | wc -l) && test "$man" = 3' >/dev/null
if [ -c /dev/fuse ]; then
	inside 'mkdir -p /root/mnt && { cowl mount /root/disk /root/mnt >/dev/null & } && mounted= &&
		for i in $(seq 300); do if grep -q " /root/mnt " /proc/mounts; then mounted=yes; break; fi; sleep 0.1; done &&
		test "$mounted" && test "$(stat -c %s /root/mnt/*)" = 1073741824 && umount /root/mnt && wait'
fi
text=$(inside 'cowl info rbd:pool/image 2>&1' || true)
case "$text" in
*"install the package librbd1"*) ;;
*) echo "without librbd it says \"$text\"" >&2; exit 1 ;;
esac

step "QEMU's package comes later"
inside 'apt-get install -y -qq --no-install-recommends qemu-utils' >/dev/null
is qemu-img 0.1.0
is qemu-img.distrib QEMU
is qemu-io 0.1.0
is qemu-io.distrib QEMU

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
is qemu-io QEMU
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
none qemu-io
none cowl
inside 'test -z "$(dpkg-divert --list "*qemu*")"'

step "the guest agent takes the place of QEMU's"
inside "apt-get install -y -qq --no-install-recommends qemu-guest-agent && apt-get install -y -qq /root/0.2.0/cowl-guest-agent_*.deb" >/dev/null 2>&1
is qemu-ga 0.2.0
inside 'dpkg -r cowl-guest-agent' >/dev/null
none qemu-ga

# in_root runs a program of the RPM root, which has nothing but the packages.
in_root() { chroot "$system/root/rpm" "$@"; }
rpm() { inside "rpm --force-debian --root /root/rpm $*"; }
is_rpm() {
	case "$(in_root "/usr/bin/$1" --version | head -1)" in
	*"(cowl $2)"*) ;;
	*) echo "$1 of the RPM packages is not $2" >&2; exit 1 ;;
	esac
}

step "RPM: alone"
inside 'apt-get install -y -qq --no-install-recommends rpm' >/dev/null 2>&1
inside 'mkdir -p /root/rpm && rpm --root /root/rpm --initdb'
! rpm '-i /root/0.1.0/cowl-qemu-utils-*.rpm' 2>/dev/null || { echo "cowl-qemu-utils came without cowl" >&2; exit 1; }
rpm '-i /root/0.1.0/cowl-0.1.0-*.rpm /root/0.1.0/cowl-qemu-utils-*.rpm /root/0.1.0/cowl-guest-agent-*.rpm'
rpm -V cowl cowl-qemu-utils cowl-guest-agent
for name in qemu-img qemu-io qemu-nbd; do is_rpm $name 0.1.0; done
in_root /usr/bin/qemu-img create -q -f qcow2 /disk 1G
in_root /usr/bin/cowl check -q /disk
test -e "$system/root/rpm/usr/share/zsh/site-functions/_cowl"

step "RPM: upgrade, and QEMU's package is refused"
rpm '-U /root/0.2.0/cowl-0.2.0-*.rpm /root/0.2.0/cowl-qemu-utils-*.rpm'
rpm -V cowl cowl-qemu-utils
is_rpm qemu-img 0.2.0
inside 'mkdir -p /root/spec && printf "Name: qemu-img\nVersion: 8.2\nRelease: 1\nSummary: a name\nLicense: none\nBuildArch: noarch\n%%description\n%%files\n" >/root/spec/q.spec && rpmbuild -bb --quiet --define "_rpmdir /root/spec" /root/spec/q.spec' >/dev/null 2>&1
text=$(rpm '-i /root/spec/noarch/qemu-img-8.2-1.noarch.rpm' 2>&1) && { echo "qemu-img came beside cowl-qemu-utils" >&2; exit 1; }
case "$text" in
*conflicts*) ;;
*) echo "$text" >&2; exit 1 ;;
esac

step "RPM: removed"
rpm -e cowl-qemu-utils cowl-guest-agent cowl
rpm '-i /root/spec/noarch/qemu-img-8.2-1.noarch.rpm'
left=$(cd "$system/root/rpm" && find . ! -type d ! -path './var/*' ! -path './root/.rpmdb/*' ! -path ./disk)
[ -z "$left" ] || { echo "left: $left" >&2; exit 1; }
step "passed"
