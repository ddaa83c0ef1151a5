# Sourced by the scripts that need a Debian of their own: debian_system makes what
# debootstrap calls a minimal system in $system, with the machine's way to its package
# archives, and mounts what programs expect. It is removed when the script ends, unless KEEP
# is set. FRESH names the folder, SUITE another version of Debian than the machine's.
[ "$(id -u)" = 0 ] || { echo "$0: needs root" >&2; exit 1; }
command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null

clean() {
	for m in src go sys dev/pts dev/shm dev proc; do
		umount -l "$system/$m" 2>/dev/null || true
	done
	umount -l "$system" 2>/dev/null || true
	[ -n "${KEEP:-}" ] || rm -rf --one-file-system "$system"
}

debian_system() {
	. /etc/os-release
	system=${FRESH:-$(mktemp -d /var/tmp/cowl-fresh-XXXXXX)}
	# The root of a system is open to all users: those of services read files in it.
	mkdir -p "$system"
	chmod 755 "$system"
	sources=/etc/apt/sources.list.d/debian.sources
	mirror=$(awk '/^URIs:/ {print $2; exit}' $sources 2>/dev/null || awk '/^deb / {print $2; exit}' /etc/apt/sources.list)
	trap clean EXIT
	trap 'exit 1' INT TERM
	if [ ! -e "$system/etc/debian_version" ]; then
		debootstrap --variant=minbase "${SUITE:-${VERSION_CODENAME:-bookworm}}" "$system" "$mirror" >/dev/null
	fi
	if [ -n "${SUITE:-}" ]; then
		echo "deb $mirror $SUITE main" >"$system/etc/apt/sources.list"
	elif [ -e $sources ]; then
		cp $sources "$system$sources"
		: >"$system/etc/apt/sources.list"
	fi
	for f in /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf.d/*registry*; do
		[ ! -e "$f" ] || cp "$f" "$system/etc/apt/apt.conf.d/"
	done
	cp /etc/resolv.conf "$system/etc/resolv.conf"
	cp /etc/ssl/certs/ca-certificates.crt "$system/root/roots.pem"
	# Its root is a mount, as that of a machine is: tests make mounts of their own in it.
	mount --bind "$system" "$system"
	mount --make-private "$system"
	for m in proc dev dev/pts dev/shm; do
		mount --bind "/$m" "$system/$m"
	done
	mount --rbind /sys "$system/sys" # with the control groups
	mount --make-rslave "$system/sys"
}

# inside runs a command of the shell in the system, with the system's own environment. It is
# the root of a mount namespace: in a mere chroot the kernel makes no user namespaces.
inside() {
	env -i HOME=/root TERM="${TERM:-dumb}" PATH=/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		GOFLAGS=-buildvcs=false GOPROXY="$(go env GOPROXY)" GOTOOLCHAIN=local SSL_CERT_FILE=/root/roots.pem DEBIAN_FRONTEND=noninteractive \
		unshare --mount --propagation private sh -c 'cd "$0" && pivot_root . . && umount -l . && exec sh -c "$1"' "$system" "$1"
}
