#!/bin/sh
# A generator of systemd (systemd.generator(7)) that fits a system to the containers of
# Incus and LXC: it turns off what units may not do there. It does nothing elsewhere.
set -eu
LC_ALL=C
export LC_ALL

grep -q --text container=lxc /proc/1/environ || exit 0

units=/run/systemd/system

# dropin UNIT adds standard input to the settings of a unit.
dropin() {
	mkdir -p "$units/$1.d"
	cat >"$units/$1.d/zzz-lxc.conf"
}

# mask UNIT turns a unit off.
mask() {
	ln -sf /dev/null "$units/$1"
}

program() {
	for dir in /usr/lib/systemd /lib/systemd /usr/bin /bin /usr/sbin /sbin; do
		if [ -x "$dir/$1" ]; then
			echo "$dir/$1"
			return
		fi
	done
	return 1
}

systemd=$(program systemd) || exit 0
version=$("$systemd" --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
[ -n "$version" ] || exit 0
mkdir -p "$units"

privileged=no
if grep -qw '4294967295$' /proc/self/uid_map; then
	privileged=yes
fi

# The settings by which services shut themselves off need mounts and name spaces that a
# container may not make.
sandbox() {
	since() { if [ "$version" -ge "$1" ]; then echo "$2"; fi; }
	echo "[Service]"
	since 232 ProtectControlGroups=no
	since 232 ProtectKernelTunables=no
	since 239 NoNewPrivileges=no
	since 247 ProcSubset=all
	since 247 ProtectProc=default
	since 249 LoadCredential=
	since 254 PrivateNetwork=no
	since 256 ImportCredential=
	if [ "$privileged" = yes ]; then
		echo ProtectHome=no
		echo ProtectSystem=no
		echo PrivateDevices=no
		echo PrivateTmp=no
		since 231 ReadWritePaths=
		since 231 ReadOnlyPaths=
		since 232 ProtectKernelModules=no
		since 244 ProtectKernelLogs=no
		since 254 ImportCredential=
	fi
}
if [ "$version" -ge 244 ]; then
	sandbox | dropin service
else # no settings for all services at once
	find /etc/systemd/system /lib/systemd/system /usr/lib/systemd/system -name '*.service' -type f 2>/dev/null |
		while read -r unit; do sandbox | dropin "${unit##*/}"; done
fi

# udev takes a writable /sys for that of a machine.
if [ "$privileged" = no ]; then
	for unit in systemd-networkd systemd-resolved; do
		printf '[Service]\nBindReadOnlyPaths=/sys\n' | dropin "$unit.service"
	done
fi
printf '[Service]\nReadWritePaths=/run\n' | dropin systemd-nsresourced.service

# What the kernel refuses here is no failure.
if udevadm=$(program udevadm); then
	printf '[Service]\nExecStart=\nExecStart=-%s trigger --type=subsystems --action=add\nExecStart=-%s trigger --type=devices --action=add\n' \
		"$udevadm" "$udevadm" | dropin systemd-udev-trigger.service
fi
if sysctl=$(program systemd-sysctl); then
	printf '[Service]\nExecStart=\nExecStart=-%s\n' "$sysctl" | dropin systemd-sysctl.service
fi

for unit in auditd.service colord.service dev-hugepages.mount mdmonitor.service run-ribchester-general.mount systemd-binfmt.service \
	systemd-firstboot.service systemd-hwdb-update.service systemd-journald-audit.socket systemd-modules-load.service \
	systemd-pstore.service ua-messaging.service; do
	mask "$unit"
done
if [ ! -e /dev/tty1 ]; then
	mask vconsole-setup-kludge@tty1.service
fi

# The message bus must not ask for a policy of AppArmor that it cannot read.
if [ -d /etc/dbus-1/system.d ]; then
	conf=/etc/dbus-1/system.d/zzz-lxc-disable-apparmor.conf
	rm -f "$conf" 2>/dev/null || :
	access=/sys/kernel/security/apparmor/.access
	if [ -e "$access" ] && ! (: >>"$access") 2>/dev/null; then
		cat >"$conf" 2>/dev/null <<-EOF || :
			<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
			<busconfig><apparmor mode="disabled"/></busconfig>
		EOF
	fi
fi

# NetworkManager leaves veth devices alone, unless it is told, and takes one that is up
# for one that others configured.
if [ -d /etc/udev ]; then
	mkdir -p /run/udev/rules.d
	echo 'ACTION=="add|change|move", ENV{ID_NET_DRIVER}=="veth", ENV{INTERFACE}=="eth[0-9]*", ENV{NM_UNMANAGED}="0"' >/run/udev/rules.d/90-lxc-net.rules
fi
if program NetworkManager >/dev/null && [ -e /sys/class/net/eth0 ] && ip=$(program ip) && [ "$(readlink /etc/systemd/system/network-device-down.service || :)" != /dev/null ]; then
	cat >"$units/network-device-down.service" <<-EOF
		[Unit]
		Description=Takes the network device down before its manager starts
		Before=NetworkManager.service systemd-networkd.service

		[Service]
		Type=oneshot
		RemainAfterExit=true
		# not where the default route is by 169.254.0.1: that of a routed device
		ExecCondition=/bin/sh -c '! grep -qs 00000000.0100FEA9 /proc/net/route'
		ExecStart=-$ip link set eth0 down
	EOF
	mkdir -p "$units/default.target.wants"
	ln -sf "$units/network-device-down.service" "$units/default.target.wants/network-device-down.service"
fi

# The console of a container is no terminal line with a speed.
if [ "$version" -ge 258 ] && agetty=$(program agetty); then
	printf '[Service]\nExecStart=\nExecStart=-%s --noreset --noclear --keep-baud 115200,57600,38400,9600 console\nStandardInput=null\nStandardOutput=null\n' \
		"$agetty" | dropin console-getty.service
fi
