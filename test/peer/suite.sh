#!/bin/bash
# Runs QEMU's own test suite with cowl as qemu-img and qemu-nbd in it. The scripts come
# from Debian's source package of the installed version; they are run where they are
# unpacked, and nothing of them is in this project. qemu-io, the storage daemon and the
# emulator (started by some scripts without a guest) are QEMU's own.
#
#   suite.sh [FORMAT[:PROTOCOL]…]        default: all that have a list
#
# FORMAT[-PROTOCOL].txt beside this script names the scripts, one a line: "pass NAME" or
# "differs NAME REASON". It fails if one of the first does not pass, and if one of the
# second does: the lists tell what is so, in both directions. "varies NAME REASON" is for
# scripts that depend on something else; they are run and their result is printed.
# "io-differs NAME REASON" is beside another line: so it is with cowl as qemu-io; with
# "io-waits NAME REASON" the script would not end with it, and is not run.
#
#   COWL_PEER       where the suite is unpacked (default /var/cache/cowl-test)
#   COWL_PROGRAMS   a folder with qemu-img and qemu-nbd to use in place of cowl: with
#                   /usr/bin all scripts of both kinds must pass
#   COWL_IO         if set, cowl is qemu-io, too
#   JOBS            scripts at a time (default: the number of processors)
set -u
here=$(cd "$(dirname "$0")" && pwd)
home=${COWL_PEER:-/var/cache/cowl-test}
suite=$home/qemu
[ $# -gt 0 ] || set -- raw qcow2 luks vdi vmdk qed qcow parallels vpc vhdx bochs cloop dmg vvfat raw:nbd

for p in qemu-io qemu-storage-daemon qemu-system-x86_64 python3; do
	command -v "$p" >/dev/null || { echo "skipped: QEMU's suite needs $p, which ./test.sh setup installs"; exit 0; }
done
reason=$("$here/source.sh" qemu "$suite") || { echo "skipped: $reason"; exit 0; }
version=$(cat "$suite/VERSION")

work=$(mktemp -d "${TMPDIR:-/var/tmp}/cowl-suite-XXXXXX")
trap 'rm -rf "$work/bin" "$work/build" "$work/scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
build=$work/build/tests/qemu-iotests # the suite wants to be called from a build folder
mkdir -p "$work/bin" "$work/scratch" "$build"
ln -s "$suite/tests/qemu-iotests/check" "$build/check"

# Debian's emulator is built without the accelerator for tests. No script of the lists
# starts a guest, so that the other one does as well.
cat >"$work/bin/emulator" <<'END'
#!/bin/bash
exec qemu-system-x86_64 "${@/#qtest/tcg}"
END
chmod +x "$work/bin/emulator"
if [ -n "${COWL_PROGRAMS:-}" ]; then
	ln -s "$COWL_PROGRAMS/qemu-img" "$COWL_PROGRAMS/qemu-nbd" "$work/bin/"
else
	(cd "$here/../.." && CGO_ENABLED=0 go build -o "$work/bin/cowl" ./cmd/cowl) || exit 1
	ln -s cowl "$work/bin/qemu-img"
	ln -s cowl "$work/bin/qemu-nbd"
	ln -s cowl "$work/bin/qemu-io"
fi
export TEST_DIR=$work/scratch
export QEMU_PROG=$work/bin/emulator QEMU_IO_PROG QSD_PROG
export QEMU_IMG_PROG=$work/bin/qemu-img QEMU_NBD_PROG=$work/bin/qemu-nbd
QEMU_IO_PROG=$(command -v qemu-io)
[ -z "${COWL_IO:-}" ] || QEMU_IO_PROG=$work/bin/qemu-io
QSD_PROG=$(command -v qemu-storage-daemon)

# one FORMAT[:PROTOCOL]: runs the scripts of one list and compares with it.
one() {
	local name=${1/:/-} format=${1%%:*} protocol=file
	case $1 in *:*) protocol=${1#*:} ;; esac
	local list=$here/$name.txt log=$work/$name.log bad=0 kind test why verdict
	local -A result=() io=()
	local -a tests
	[ -f "$list" ] || { echo "no list $list"; return 1; }
	local lines
	lines=$(grep -E '^(pass|differs|varies) ' "$list")
	[ -z "${COWL_IO:-}" ] || while read -r _ test why; do lines=$(grep -v " $test\( \|\$\)" <<<"$lines"); done < <(grep '^io-waits ' "$list")
	mapfile -t tests < <(awk '{print $2}' <<<"$lines")
	(cd "$build" &&
		timeout "${LIMIT:-1800}" ./check "-$format" "-$protocol" -j "${JOBS:-$(nproc)}" --color off "${tests[@]}") >"$log" 2>&1 </dev/null
	# Two scripts that end at once may have their results in one line.
	while read -r test verdict; do
		result[$test]=$verdict
	done < <(tr '\r' '\n' <"$log" | grep -oE '[^ ]+ +(pass|fail|not run) +\[' | sed -E 's/^([^ ]+) +(pass|fail|not run) .*/\1 \2/')
	[ -z "${COWL_IO:-}" ] || while read -r _ test why; do io[$test]=$why; done < <(grep '^io-differs ' "$list")
	local passed=0 differ=0
	while read -r kind test why; do
		[ -z "${io[$test]:-}" ] || kind=differs why=${io[$test]}
		[ "$kind" != differs ] || differ=$((differ + 1))
		verdict=${result[$test]:-no result}
		[ "$verdict" != pass ] || passed=$((passed + 1))
		[ -z "${COWL_PROGRAMS:-}" ] || kind=pass
		case $kind:$verdict in
		pass:pass | differs:fail | varies:pass) ;;
		varies:fail) echo "$name $test: fails, as it may: $why" ;;
		differs:pass)
			echo "$name $test: passes, and the list says that it differs ($why)"
			bad=1
			;;
		*)
			echo "$name $test: $verdict"
			bad=1
			;;
		esac
	done <<<"$lines"
	echo "$name: $passed of ${#tests[@]} pass, $differ differ for reasons that the list tells"
	[ $bad = 0 ] || echo "$name: differences are in $log"
	return $bad
}

echo "QEMU's suite, version $version, in $suite"
[ "$version" = 10.0.2 ] || echo "the lists are for version 10.0.2: others may differ elsewhere"
status=0
for f; do
	one "$f" || status=1
done
[ $status != 0 ] || rm -rf "$work"
exit $status
