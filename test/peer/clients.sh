#!/bin/bash
# Runs those tests of libnbd or nbdkit that call qemu-img or qemu-nbd, from Debian's source
# package, first with QEMU's programs and then with cowl first on PATH. It fails if a test
# passes with QEMU's and not with cowl, or if one that NAME.txt says to differ passes.
#
#   clients.sh libnbd|nbdkit      some minutes: it builds the package at its first run
#
#   COWL_PEER   where the packages are unpacked and built (default /var/cache/cowl-test)
set -u
here=$(cd "$(dirname "$0")" && pwd)
home=${COWL_PEER:-/var/cache/cowl-test}
name=$1 tree=$home/$1
case $name in
libnbd) folders="interop copy info dump" sources='*.sh' ;;
nbdkit) folders="tests" sources='test-*.sh' ;;
*) sed -n '2,9p' "$0"; exit 2 ;;
esac
# Python of Debian: nbdsh needs its modules.
export PATH=/usr/bin:/usr/sbin:/bin:/sbin:$PATH

reason=$("$here/source.sh" "$name" "$tree") || { echo "skipped: $reason"; exit 0; }
if [ ! -e "$tree/.built" ]; then
	[ "$(id -u)" != 0 ] || DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends gcc make pkg-config \
		autoconf automake libtool libgnutls28-dev libxml2-dev zlib1g-dev liblzma-dev libzstd-dev \
		gnutls-bin jq xz-utils python3-libnbd libnbd-bin nbd-server nbdkit >/dev/null 2>&1
	off=
	for language in ocaml python perl golang rust ruby tcl lua fuse ublk; do
		off="$off --disable-$language"
	done
	# shellcheck disable=SC2086
	(cd "$tree" && { [ -e configure ] || autoreconf -i; } && ./configure $off && make -j"$(nproc)") >"$tree/build.log" 2>&1 ||
		{ echo "skipped: $name cannot be built here, see $tree/build.log"; exit 0; }
	touch "$tree/.built"
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/cowl-clients-XXXXXX")
trap 'rm -rf "$work"; exit 130' INT TERM
(cd "$here/../.." && CGO_ENABLED=0 go build -o "$work/cowl" ./cmd/cowl) || exit 1
# libnbd's tests set GODEBUG=cgocheck=2 for their own Go programs; with that set no
# program that was built with Go starts.
mkdir "$work/bin"
for p in qemu-img qemu-nbd; do
	printf '#!/bin/bash\nunset GODEBUG\nexec -a %s %s/cowl "$@"\n' $p "$work" >"$work/bin/$p"
	chmod +x "$work/bin/$p"
done

# results WHOSE: runs the tests, prints "RESULT: FOLDER/TEST".
results() {
	local folder tests t
	for folder in $folders; do
		cd "$tree/$folder" || exit 1
		tests=$(grep -l -E 'qemu-(img|nbd)' $sources | grep -v -e functions.sh -e vddk)
		if [ "$folder" = interop ]; then
			tests="$tests $(grep -o -E '^[a-z_]+_qemu_nbd[a-z_]*_SOURCES' Makefile.am | sed 's/_SOURCES//' | tr _ -)"
		fi
		timeout "${LIMIT:-900}" make -k check TESTS="$(echo $tests)" >"$work/$folder.$1.log" 2>&1 </dev/null
		mkdir -p "$work/logs.$1"
		for t in $tests; do
			cp "$t.log" "$work/logs.$1/" 2>/dev/null
		done
		sed -nE "s,^(PASS|FAIL|SKIP|XFAIL|ERROR): ,\1: $folder/,p" "$work/$folder.$1.log"
	done | sort -u -k2
}
results qemu >"$work/qemu.txt"
PATH=$work/bin:$PATH results cowl >"$work/cowl.txt"

status=0
grep -q '^PASS' "$work/qemu.txt" || { echo "$name: no test passes with QEMU's programs"; status=1; }
while read -r result test; do
	with=$(awk -v t="$test" '$2 == t {print $1}' "$work/cowl.txt")
	why=$(sed -n "s|^differs $test ||p" "$here/$name.txt")
	[ "$result" = PASS: ] || continue
	if [ "$with" = PASS: ]; then
		[ -z "$why" ] || { echo "$name $test: passes, and the list says that it differs ($why)"; status=1; }
	elif [ -z "$why" ]; then
		echo "$name $test: ${with:-no result} with cowl, PASS: with QEMU"
		status=1
	fi
done <"$work/qemu.txt"
version=$(sed -n "s/^PACKAGE_VERSION=.\(.*\)./\1/p" "$tree/configure")
echo "$name $version: QEMU's programs pass $(grep -c '^PASS' "$work/qemu.txt"), cowl $(grep -c '^PASS' "$work/cowl.txt") of $(wc -l <"$work/qemu.txt"), $(grep -c '^SKIP' "$work/qemu.txt") are left out by $name itself"
if [ $status = 0 ]; then rm -rf "$work"; else echo "logs: $work"; fi
exit $status
