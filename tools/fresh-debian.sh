#!/bin/sh
# Runs the project's commands on a fresh Debian: the minimal system that debootstrap
# makes, with Go and nothing else, so that what the tests need and the set-up does not
# install comes to light. Needs root, debootstrap, some 6 GB, and most of an hour.
#
#   tools/fresh-debian.sh                      ./demo.sh and ./test.sh
#   tools/fresh-debian.sh './test.sh setup' …  these commands
#
# FRESH names the folder of the system; it is removed at the end unless KEEP is set.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" = 0 ] || { echo "$0: needs root" >&2; exit 1; }
command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null
[ $# -gt 0 ] || set -- ./demo.sh ./test.sh
. /etc/os-release
system=${FRESH:-$(mktemp -d /var/tmp/cowl-fresh-XXXXXX)}
sources=/etc/apt/sources.list.d/debian.sources
mirror=$(awk '/^URIs:/ {print $2; exit}' $sources 2>/dev/null || awk '/^deb / {print $2; exit}' /etc/apt/sources.list)

clean() {
	for m in src go sys dev/pts dev/shm dev proc; do
		umount -l "$system/$m" 2>/dev/null || true
	done
	[ -n "${KEEP:-}" ] || rm -rf --one-file-system "$system"
}
trap clean EXIT
trap 'exit 1' INT TERM

if [ ! -e "$system/etc/debian_version" ]; then
	debootstrap --variant=minbase "${VERSION_CODENAME:-bookworm}" "$system" "$mirror" >/dev/null
fi
# The machine's way to its package archives.
[ ! -e $sources ] || { cp $sources "$system$sources"; : >"$system/etc/apt/sources.list"; }
for f in /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf.d/*registry*; do
	[ ! -e "$f" ] || cp "$f" "$system/etc/apt/apt.conf.d/"
done
cp /etc/resolv.conf "$system/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$system/root/roots.pem"
rm -f "$system/etc/hosts"
mkdir -p "$system/go" "$system/src" "$system/root/project"
mount --bind "$(go env GOROOT)" "$system/go"
for m in proc dev dev/pts dev/shm sys; do
	mount --bind "/$m" "$system/$m"
done
rm -rf "$system/root/project"
git clone -q --no-hardlinks "$here" "$system/root/project"

for command; do
	echo "== fresh Debian: $command"
	# -count: results of an earlier run do not count. The environment is the system's own.
	env -i HOME=/root TERM="${TERM:-dumb}" PATH=/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		GOFLAGS=-buildvcs=false GOPROXY="$(go env GOPROXY)" GOTOOLCHAIN=local SSL_CERT_FILE=/root/roots.pem \
		chroot "$system" sh -c "cd /root/project && $command"
done
