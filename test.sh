#!/bin/sh
# Runs every test. On a Debian machine as root it first installs the programs
# that the tests compare with. Takes half an hour on two cores.
#
#   ./test.sh            everything, long tests in their short form
#   ./test.sh long       everything in full; before a release
#   ./test.sh quick      formatting, vet, unit and conformance tests
#   ./test.sh STEP…      some of: setup format lint unit whole race cross fuzz peer
#   ./test.sh peer [FORMAT[:PROTOCOL]…]     QEMU's own test suite with cowl in it
#   ./test.sh peer libnbd|nbdkit            those of their tests that call qemu-img or qemu-nbd
set -eu
from=$PWD
cd "$(dirname "$0")"
root=$PWD
export CGO_ENABLED=0
processors=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Nobody debugs what is built here: without debug information the compiler needs a sixth less time.
case " ${GOFLAGS:-}" in
*" -gcflags"*) ;;
*) export GOFLAGS="${GOFLAGS:+$GOFLAGS }-gcflags=all=-dwarf=false" ;;
esac

began=$(date +%s)
[ "${1:-}" != long ] || export COWL_LONG=1
fuzztime=${FUZZTIME:-$([ "${COWL_LONG:-}" = 1 ] && echo 5s || echo 2s)}
step() { printf '\n== %s (%d s)\n' "$*" $(($(date +%s) - began)); }

# The tools come from Debian's backports suite, which has the current original;
# its source is the machine's own with the suite's name changed.
setup() {
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || {
		step "setup left out: it needs root and apt-get; tests skip where a program is missing"
		return 0
	}
	export DEBIAN_FRONTEND=noninteractive
	# Every Debian that has booted has it; the NFS server looks for file systems there.
	[ -e /etc/mtab ] || ln -s ../proc/self/mounts /etc/mtab
	# libvirt insists on this user, which a package makes that is not needed otherwise.
	id libvirt-qemu >/dev/null 2>&1 || useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin libvirt-qemu
	wanted="file fdisk qemu-utils qemu-guest-agent busybox-static lvm2 mdadm kmod qemu-system-x86 e2fsprogs btrfs-progs xfsprogs cryptsetup-bin nbdkit libnbd-bin nbd-client nbd-server fio gnutls-bin dpkg-dev bsdextrautils socat libvirt-clients libvirt-daemon-driver-qemu gcc libc6-dev libglib2.0-dev pkg-config python3 7zip dmg2img cloop-utils bximage libvhdi-utils libvmdk-utils libqcow-utils python3-libvhdi python3-libvmdk python3-libqcow squashfs-tools dosfstools mtools attr acl lz4 zstd nginx-light qemu-block-extra openssh-server gdisk bzip2 vsftpd tgt libiscsi-bin rpcbind nfs-ganesha nfs-ganesha-vfs ceph-mon ceph-osd ceph-common glusterfs-server uidmap ovmf"
	newer=incus-base # of a suite that is newer than bookworm
	missing=
	for p in $wanted $newer; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
	done
	kernel=$(ls /boot/vmlinuz-*-cloud-* 2>/dev/null | head -1)
	[ -n "$kernel" ] || missing="$missing linux-image-cloud-$(dpkg --print-architecture)"
	if [ -z "$missing" ] && qemu-img --version | grep -q 'version 1[0-9]'; then
		qemu_source
		incus_peers
		return 0
	fi
	step "installing:$missing"
	. /etc/os-release
	suite=
	src=/etc/apt/sources.list.d/debian.sources
	if [ "${VERSION_CODENAME:-}" = bookworm ]; then
		suite=bookworm-backports
		new=/etc/apt/sources.list.d/cowl-test.sources
		if [ -f "$src" ]; then
			# The first stanza is the main archive.
			sed -e '/^$/,$d' -e "s/^Suites:.*/Suites: $suite/" "$src" >"$new"
		elif [ -f /etc/apt/sources.list ]; then
			sed -n "s/^\(deb [^ ]* \)bookworm \(.*\)/\1$suite \2/p" /etc/apt/sources.list | head -1 >"${new%.sources}.list"
		fi
	fi
	apt-get update -q >/dev/null
	# The servers among them are started by the tests, not by their packages.
	policy=/usr/sbin/policy-rc.d quiet=
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		quiet=yes
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	# shellcheck disable=SC2086
	apt-get install -q -y --no-install-recommends $wanted "linux-image-cloud-$(dpkg --print-architecture)" >/dev/null
	if [ -n "$suite" ]; then
		apt-get install -q -y --no-install-recommends -t "$suite" qemu-utils qemu-block-extra qemu-system-x86 qemu-guest-agent glusterfs-server $newer >/dev/null
	else
		apt-get install -q -y --no-install-recommends $newer >/dev/null
	fi
	if [ "$quiet" ]; then
		rm -f $policy
		trap - EXIT
	fi
	qemu-img --version | head -1
	qemu_source
	incus_peers
}

# distrobuilder, the official definitions and the boot files for Secure Boot.
incus_peers() {
	[ -e /var/cache/cowl-test/incus ] || {
		step "distrobuilder"
		./test/peer/incus.sh /var/cache/cowl-test/incus || echo "images for Incus are not compared with it"
	}
}

# QEMU's source of the version that is installed: its own tests of the guest agent and of
# the programs for images.
qemu_source() {
	[ -e /var/cache/cowl-test/qemu ] || {
		step "QEMU's source"
		./test/peer/source.sh qemu /var/cache/cowl-test/qemu || echo "its own tests are left out"
	}
}

formatted() {
	unformatted=$(gofmt -l .)
	[ -z "$unformatted" ] || { echo "not formatted: $unformatted"; exit 1; }
}

format() {
	step "gofmt, vet"
	formatted
	go vet ./...
}

# The analyzers of go vet for the given systems, on both modules with their tests, in one
# process for each. "go vet" itself starts one for each package, those of others as well,
# and compiles what they import: three times as much work as long as nothing of it is kept.
# A Go that has more analyzers than the one for which tools/vet was written does it itself.
vet() (
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	go build -C tools -ldflags='-s -w' -o "$dir/" ./vet
	go tool vet help >"$dir/theirs" 2>&1
	"$dir/vet" help >"$dir/ours" 2>&1
	sed -n 's/^    \([a-z0-9]*\) .*/\1/p' "$dir/ours" >"$dir/names"
	missing=$(sed -n 's/^    \([a-z0-9]*\) .*/\1/p' "$dir/theirs" | grep -vxF -f "$dir/names" || true)
	by="$dir/vet"
	if [ -n "$missing" ] || ! grep -q '^    printf ' "$dir/theirs"; then
		echo "tools/vet lacks what this go vet has, or that cannot be told:" $missing
		by="go vet"
	fi
	for target; do
		for module in . test; do
			(cd $module && GOOS=${target%/*} GOARCH=${target#*/} $by ./...)
		done
	done
)

lint() {
	step "gofmt, vet, staticcheck"
	formatted
	vet "$(go env GOOS)/$(go env GOARCH)"
	for module in . test; do
		(cd "$module" && go tool -modfile="$root/tools/go.mod" staticcheck ./...)
	done
}

unit() {
	step "unit, conformance and command-line tests"
	# Lint vets what is tested here. Without debug information a test links in half the time.
	go test -vet=off -ldflags=-w -timeout 10m ./...
}

whole() {
	step "differential, crash and end-to-end tests"
	# Modules of their own: what only they need is not in go.mod.
	(cd test && go test -vet=off -ldflags=-w -timeout 40m ./...)
	(cd test/library && GOFLAGS="$GOFLAGS -ldflags=-w" go test ./...)
}

race() {
	step "race detector"
	# The race detector needs cgo. Codecs and parsers work in one goroutine each.
	if command -v cc >/dev/null; then
		# A race is reported when it happens: there is no need to wait for a second at the end of each package.
		packages=$(go list ./block/... ./crypto/... ./filter/... ./format/... ./guestagent/... ./iscsi/... ./nbd/... ./nfs/... ./ova/... ./protocol/... ./sheepdog/... ./ops/... ./opts/... ./internal/...)
		packages=$(echo "$packages" | grep -v -E '/internal/(deflate|fat|huffman|inflate|plist|xz|zstd)$')
		# shellcheck disable=SC2086
		GORACE=atexit_sleep_ms=50 COWL_LONG='' CGO_ENABLED=1 go test -vet=off -ldflags=-w -race -short -timeout 15m $packages
	else
		echo "left out: the race detector needs a C compiler"
	fi
}

cross() {
	step "cross-builds"
	# No file is for one of the two processors of darwin: linux has files of both.
	more=
	plain='-gcflags=all=-N -l -dwarf=false'
	[ "${COWL_LONG:-}" != 1 ] || more=darwin/amd64
	for target in linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64 $more; do
		echo "$target"
		# Nobody runs what is built here: it is not optimised, which takes two thirds of the time.
		GOOS=${target%/*} GOARCH=${target#*/} go build "$plain" -ldflags='-s -w' ./...
	done
	# shellcheck disable=SC2086
	vet linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64 $more
}

# The engine sometimes reports its own end of time as a failure of the target
# ("context deadline exceeded", and no failing input). Such a run is made again;
# whatever else fails, fails.
fuzz_one() {
	log=$(mktemp)
	for try in 1 2 3; do
		if (cd "$from" && "$3" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$fuzztime" -test.fuzzminimizetime 1x -test.parallel 1 \
			-test.fuzzcachedir "$(go env GOCACHE)/fuzz/$1") >"$log" 2>&1; then
			echo "$1 $2: $(grep -o 'execs: [0-9]*' "$log" | tail -1)"
			rm -f "$log"
			return 0
		fi
		cat "$log"
		grep -q '^    context deadline exceeded$' "$log" && ! grep -q -i 'failing input' "$log" || break
		echo "$1 $2: the engine ran out of time, once more (try $try)"
	done
	rm -f "$log"
	return 1
}

# All targets of the package in whose folder it is called. Go calls it with the program
# of the package's tests and its arguments.
fuzz_package() {
	package=github.com/cowl-disk/cowl${from#"$root"}
	targets=$(cd "$from" && "$1" -test.list '^Fuzz')
	for target in $targets; do
		fuzz_one "$package" "$target" "$1"
	done
}

# One package for each processor at a time. Coverage guides in the code of modules; the
# long form has the standard library as well, all of which is compiled for that once more,
# and which takes much of the time of each run.
fuzz() {
	step "fuzzing, $fuzztime each target"
	counted='-gcflags=github.com/...=-d=libfuzzer -dwarf=false' at_once='-n 1000'
	[ "${COWL_LONG:-}" != 1 ] || counted=-fuzz=. at_once="-n 1 -P $(nproc)"
	for module in . test; do
		# shellcheck disable=SC2086
		go list -C "$module" -f '{{.ImportPath}} {{.Dir}} {{range .TestGoFiles}}{{.}} {{end}}{{range .XTestGoFiles}}{{.}} {{end}}' ./... |
			while read -r pkg dir files; do
				[ -z "$files" ] || ! (cd "$dir" && grep -q '^func Fuzz' $files) || echo "$pkg"
			done | xargs $at_once go test -C "$module" -vet=off -ldflags=-w "$counted" -count=1 -timeout 0 -v -exec "'$root/test.sh' fuzz-package"
	done
}

# Suites of others with cowl as their qemu-img and qemu-nbd: QEMU's own, libnbd's and nbdkit's.
peer() {
	case "${1:-}" in
	libnbd | nbdkit)
		step "tests of $1 that call qemu-img or qemu-nbd"
		./test/peer/clients.sh "$1"
		;;
	*)
		step "QEMU's test suite${*:+: }$*"
		./test/peer/suite.sh "$@"
		;;
	esac
}

# A step beside another one that mostly waits. The first gives way; what it prints comes
# at the end. A background job ignores Ctrl-C: it is a group of processes of its own, which
# ends when this script does.
beside() {
	log=$(mktemp)
	setsid nice "$root/test.sh" "$1" >"$log" 2>&1 &
	other=$!
	trap 'kill -- -$other 2>/dev/null; cat "$log"; rm -f "$log"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	"$2"
	failed=
	wait $other || failed=yes
	trap - EXIT INT TERM
	cat "$log"
	rm -f "$log"
	[ -z "$failed" ] || exit 1
}

case "${1:-all}" in
all | long)
	setup
	unit
	beside lint whole
	race
	fuzz
	beside cross peer
	step "passed: all"
	exit
	;;
quick) set -- format unit ;;
fuzz-package)
	fuzz_package "$2"
	exit
	;;
peer)
	"$@"
	step "passed: $*"
	exit
	;;
esac
for s in "$@"; do
	case "$s" in
	setup | format | lint | unit | whole | race | cross | fuzz | peer) "$s" ;;
	*) sed -n '2,11p' "$0"; exit 2 ;;
	esac
done
step "passed: $*"
