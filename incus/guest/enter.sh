# enter.sh ROOT (--script | --command) NAME=VALUE… COMMAND… runs a command in the root file
# system of a folder; with --script, /tmp/cowl-action there is what comes on the standard
# input. Mounts are those of this process's own name space.
set -eu
root=$1
kind=$2
shift 2

for dir in proc sys dev run tmp; do
	if [ -L "$root/$dir" ] || [ ! -d "$root/$dir" ]; then
		echo "/$dir of the root file system is no directory" >&2
		exit 125
	fi
done
mount --make-rprivate /
# the name that the generator "hosts" replaces; that of the host would depend on it
hostname distrobuilder 2>/dev/null || echo distrobuilder 2>/dev/null >/proc/sys/kernel/hostname || :
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/shm" "$root/dev/pts"
for node in null zero full random urandom tty; do
	: >"$root/dev/$node"
	mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

# the host's name servers
made= bound=
if [ -r /etc/resolv.conf ] && [ -d "$root/etc" ] && [ ! -L "$root/etc" ]; then
	conf=$root/etc/resolv.conf
	if [ -L "$conf" ]; then
		target=$(readlink "$conf")
		case $target in
		*/../*..*) ;;
		/run/* | ../run/*)
			target=$root/run/${target#*run/}
			mkdir -p "${target%/*}"
			cp /etc/resolv.conf "$target"
			;;
		esac
	else
		if [ ! -e "$conf" ]; then
			: >"$conf"
			made=$conf
		fi
		mount --bind /etc/resolv.conf "$conf"
		bound=$conf
	fi
fi

# no services are started
policy=$(chroot "$root" /bin/sh -c 'if [ -d /usr/sbin ] && [ ! -e /usr/sbin/policy-rc.d ]; then
	printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d && echo made
fi' 2>/dev/null || :)

if [ "$kind" = --script ]; then
	cat >"$root/tmp/cowl-action"
	chmod 755 "$root/tmp/cowl-action"
fi
status=0
chroot "$root" env -i "$@" </dev/null || status=$?

[ -z "$policy" ] || chroot "$root" /bin/sh -c 'rm -f /usr/sbin/policy-rc.d' || :
[ -z "$bound" ] || umount "$bound" || :
[ -z "$made" ] || rm -f "$made"
exit $status
