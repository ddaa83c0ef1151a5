#!/bin/sh
# Builds what is released of a version, from the last commit: programs for each system, static
# ones but for cowl-native, archives with manuals, completions and licences, Debian and RPM packages, a list
# of the modules in each program, and checksums. The same commit gives the same bits.
#
#   ./release.sh VERSION [DIR]        VERSION like 1.2.3; DIR is "dist" if not given
#
# TARGETS="linux/amd64 …" builds for these systems only.
set -eu
cd "$(dirname "$0")"
version=${1:?usage: ./release.sh VERSION [DIR]}
version=${version#v}
echo "$version" | grep -Eq '^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$' || {
	echo "$0: $version is not a version like 1.2.3" >&2
	exit 2
}
[ -z "$(git status --porcelain)" ] || {
	echo "$0: the tree has changes that are in no commit; commit or remove them first" >&2
	exit 1
}
mkdir -p "${2:-dist}"
dist=$(cd "${2:-dist}" && pwd)
[ -z "$(ls -A "$dist")" ] || {
	echo "$0: $dist is not empty" >&2
	exit 1
}
targets=${TARGETS:-linux/amd64 linux/arm64 linux/riscv64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 freebsd/amd64}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# A clone with the tag: the toolchain writes its name into the programs. The heap begins
# where its first arena does, so that a limit of the address space leaves all of it.
git clone -q --no-hardlinks . "$work/source"
git -C "$work/source" -c advice.detachedHead=false checkout -q "$(git rev-parse HEAD)"
git -C "$work/source" tag -f "v$version" >/dev/null
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH VERSION="$version" CGO_ENABLED=0 GOFLAGS=-trimpath GOEXPERIMENT=norandomizedheapbase64 LC_ALL=C TZ=UTC
release_tool() { GOEXPERIMENT='' GOFLAGS='' go tool -modfile="$work/source/tools/release/go.mod" "$@"; }
# The tool that lists modules runs here, for the system that the programs are for.
build_lister() { GOEXPERIMENT="" GOFLAGS="" go build -C "$work/source/tools/release" -o "$work/cyclonedx-gomod" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod; }

# licences prints the texts of cowl and of every module that the program holds.
licences() {
	cat LICENSE
	go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/cowl ./cmd/cowl-incus ./cmd/cowl-mount ./cmd/cowl-native | sort -u | while read -r path v dir; do
		printf '\n\n==== %s %s ====\n\n' "$path" "$v"
		found=
		for f in "$dir"/LICENSE* "$dir"/LICENCE* "$dir"/COPYING* "$dir"/NOTICE*; do
			[ ! -f "$f" ] || { cat "$f"; found=yes; }
		done
		[ "$found" ] || { echo "$0: $path has no licence file" >&2; exit 1; }
	done
}

cd "$work/source"
go build -o "$work/native" ./cmd/cowl
build_lister
for target in $targets; do
	GOOS=${target%/*} GOARCH=${target#*/}
	export GOOS GOARCH
	name=cowl-$version-$GOOS-$GOARCH
	tree=$work/$name
	echo "$target"
	mkdir -p "$tree/man" "$tree/completions"
	suffix=
	[ "$GOOS" != windows ] || suffix=.exe
	go build -ldflags='-s -w -buildid=' -o "$tree/cowl$suffix" ./cmd/cowl
	go build -ldflags='-s -w -buildid=' -o "$tree/cowl-incus$suffix" ./cmd/cowl-incus
	[ "$GOOS" = windows ] || go build -ldflags='-s -w -buildid=' -o "$tree/cowl-mount" ./cmd/cowl-mount
	# Where the libraries cannot be loaded it says so: the packages of all processors are alike.
	[ "$GOOS" != linux ] || go build -ldflags='-s -w -buildid=' -o "$tree/cowl-native" ./cmd/cowl-native
	case $GOOS in
	linux | freebsd | windows) go build -ldflags='-s -w -buildid=' -o "$tree/cowl-agent$suffix" ./cmd/cowl-agent ;;
	esac
	for page in docs/man/*; do
		gzip -9nc "$page" >"$tree/man/$(basename "$page").gz"
	done
	for shell in bash zsh fish; do
		"$work/native" completion "$shell" >"$tree/completions/cowl.$shell"
	done
	cp README.md CHANGELOG.md "$tree/"
	licences >"$tree/LICENSES.txt"
	GOEXPERIMENT= GOFLAGS= "$work/cyclonedx-gomod" app -json -noserial -licenses -main cmd/cowl-incus -output "$work/sbom.json" . 2>"$work/sbom.log" || {
		cat "$work/sbom.log" >&2
		exit 1
	}
	sed "s/^\( *\"timestamp\": \)\"[^\"]*\"/\1\"$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)\"/" "$work/sbom.json" >"$dist/$name.cdx.json"
	find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf - "$name" |
		gzip -9n >"$dist/$name.tar.gz"
	[ "$GOOS" = linux ] || continue
	export TREE="$tree" ARCH="$GOARCH"
	for package in cowl cowl-guest-agent cowl-qemu-utils; do
		for kind in deb rpm; do
			# The packages for every architecture are the same each time.
			GOOS='' GOARCH='' release_tool nfpm package -f "packaging/nfpm/$package.yaml" -p "$kind" -t "$dist/" >/dev/null
		done
	done
done
unset GOOS GOARCH
cd "$dist"
sha256sum -- * >"$work/sums"
mv "$work/sums" SHA256SUMS
echo "$dist:"
ls
