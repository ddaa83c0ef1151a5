#!/bin/sh
# Converts a real disk image: builds cowl, makes an ext4 file system that holds
# this source tree (or takes the image given as the argument), converts it to
# compressed qcow2 and back, and shows that nothing changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '\n$ %s\n' "$*"; "$@"; }

cd "$here"
CGO_ENABLED=0 go build -o "$work/cowl" ./cmd/cowl
if [ $# -gt 0 ]; then
	disk=$1
else
	disk=$work/disk.raw
	mkfs=$(command -v mkfs.ext4 || echo /sbin/mkfs.ext4)
	"$mkfs" -q -F -d "$here" "$disk" 1G
fi
PATH=$work:$PATH
say cowl convert -p -O qcow2 -c -o compression_type=zstd "$disk" "$work/disk.qcow2"
say cowl info "$work/disk.qcow2"
say cowl check "$work/disk.qcow2"
say cowl convert -O raw "$work/disk.qcow2" "$work/back.raw"
say cowl compare "$disk" "$work/back.raw"
say cowl checksum "$disk" 
say cowl checksum "$work/disk.qcow2"
