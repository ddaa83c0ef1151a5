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
. "$here/tools/debian-system.sh"
[ $# -gt 0 ] || set -- ./demo.sh ./test.sh
debian_system
rm -f "$system/etc/hosts"
mkdir -p "$system/go" "$system/src"
mount --bind "$(go env GOROOT)" "$system/go"
rm -rf "$system/root/project"
git clone -q --no-hardlinks "$here" "$system/root/project"

for command; do
	echo "== fresh Debian: $command"
	inside "cd /root/project && $command"
done
