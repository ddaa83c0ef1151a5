#!/bin/sh
# Fetches a Debian source package and unpacks it: source.sh PACKAGE FOLDER
#
# The version is that of the installed PACKAGE-utils, PACKAGE-bin or PACKAGE if the
# archive still has it, else the newest. Exits with 3 and one line where the package
# cannot be had.
set -eu
package=$1 folder=$2
[ ! -e "$folder" ] || exit 0

cannot() {
	echo "the source package of $package cannot be had: $1"
	exit 3
}
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || cannot "it needs root and apt-get"
export DEBIAN_FRONTEND=noninteractive

# The machine's own archive, with the suites that the programs are installed from, and
# the next release's for sources that it no longer has.
from=/etc/apt/sources.list.d/debian.sources
to=/etc/apt/sources.list.d/cowl-test-source
. /etc/os-release
suites=$VERSION_CODENAME
[ "$VERSION_CODENAME" != bookworm ] || suites="bookworm bookworm-backports trixie"
if [ -f $from ]; then
	sed -e '/^$/,$d' -e 's/^Types:.*/Types: deb-src/' -e "s/^Suites:.*/Suites: $suites/" $from >$to.sources
elif [ -f /etc/apt/sources.list ]; then
	for suite in $suites; do
		sed -n "s/^deb \(.* \)$VERSION_CODENAME \(.*\)/deb-src \1$suite \2/p" /etc/apt/sources.list | head -1
	done >$to.list
fi
trap 'rm -rf "$folder.part" $to.sources $to.list' EXIT
trap 'exit 1' INT TERM
mkdir -p "$folder.part/archives"
cd "$folder.part/archives"
apt-get update -qq >/dev/null 2>&1 || cannot "apt-get update fails"
command -v dpkg-source >/dev/null || apt-get install -qq -y --no-install-recommends dpkg-dev >/dev/null

version=
for p in "$package-utils" "$package-bin" "$package"; do
	version=$(dpkg-query -W -f '${source:Version}' "$p" 2>/dev/null) && [ -n "$version" ] && break
done
# Of a version that was superseded, archives sometimes keep only the file that is needed here.
apt-get source -qq --download-only "$package${version:+=$version}" >log 2>&1 || true
if ! ls "${package}"_*.orig.tar.*z >/dev/null 2>&1; then
	apt-get source -qq --download-only "$package" >log 2>&1 || cannot "$(grep '^E:' log | head -1)"
fi
archive=$(ls "${package}"_*.orig.tar.*z | head -1)
tree=$folder.part/tree
mkdir "$tree"
tar -C "$tree" --strip-components=1 -xf "$archive"
mv "$tree" "$folder"
