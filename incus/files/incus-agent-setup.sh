#!/bin/sh
# Fetches the agent of Incus and its keys from the host into /run/incus_agent. The host
# offers them as a shared directory ("config" over 9p or virtiofs) or on a CD-ROM.
set -eu

run=/run/incus_agent
from=/run/incus_agent.mnt
cdrom=/dev/disk/by-id/scsi-0QEMU_QEMU_CD-ROM_incus_agent

attach() {
	modprobe 9pnet_virtio 2>/dev/null || :
	mount -t 9p -o access=0,trans=virtio,size=1048576 config "$from" 2>/dev/null && return
	mount -t virtiofs config "$from" 2>/dev/null && return
	[ -e "$cdrom" ] && mount "$cdrom" "$from" 2>/dev/null
}

mkdir -p "$from"
if ! attach; then
	rmdir "$from" 2>/dev/null || :
	if [ -x "$run/incus-agent" ]; then
		echo "no share and no CD-ROM of Incus: the agent that is there is started again"
		exit 0
	fi
	umount -l "$run" 2>/dev/null || :
	eject "$cdrom" 2>/dev/null || :
	echo "no share and no CD-ROM of Incus: no agent" >&2
	exit 1
fi

umount -l "$run" 2>/dev/null || :
mkdir -p "$run"
mount -t tmpfs -o mode=0700,size=50M tmpfs "$run"
cp -R "$from/." "$run/"
umount "$from"
rmdir "$from"
eject "$cdrom" 2>/dev/null || :
chown -R root:root "$run"
restorecon -R "$run" 2>/dev/null || :
