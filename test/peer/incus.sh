#!/bin/sh
# Fetches what images for Incus are compared with: incus.sh FOLDER
#
#   FOLDER/distrobuilder                 the newest of Debian, run with its own libraries
#   FOLDER/usr/share/distrobuilder-images    the official definitions
#   FOLDER/boot                          shim and GRUB as they are signed for Secure Boot
#
# Packages are unpacked there; none is installed. Exits with 3 and one line where they
# cannot be had.
set -eu
folder=$1
[ ! -e "$folder" ] || exit 0

cannot() {
	echo "distrobuilder cannot be had: $1"
	exit 3
}
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || cannot "it needs root and apt-get"
[ "$(dpkg --print-architecture)" = amd64 ] || cannot "its package is taken for amd64 only"
part=$folder.part
trap 'rm -rf "$part"' EXIT
trap 'exit 1' INT TERM
mkdir -p "$part/lists/partial" "$part/cache/archives/partial" "$part/debs" "$part/tree/boot"

# Lists of their own: the machine's packages stay those of its suite.
archive=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
[ -n "$archive" ] || archive=$(awk '/^deb / {print $2; exit}' /etc/apt/sources.list 2>/dev/null || true)
[ -n "$archive" ] || cannot "no archive of Debian is named in the sources of apt"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive sid main" >"$part/sources.list"
cat >"$part/apt.conf" <<END
Dir::State::lists "$part/lists";
Dir::Cache "$part/cache";
Dir::Etc::sourcelist "$part/sources.list";
Dir::Etc::sourceparts "/dev/null";
APT::Sandbox::User "root";
END
export APT_CONFIG=$part/apt.conf
apt-get update -qq >/dev/null 2>&1 || cannot "apt-get update fails"
cd "$part/debs"
libraries=$(apt-cache depends distrobuilder | sed -n 's/^ *Depends: \(libgpgme[^ ]*\)$/\1/p' | head -1)
libraries="$libraries $(apt-cache depends "$libraries" | sed -n 's/^ *Depends: \(lib\(assuan\|gpg-error\)[^ ]*\)$/\1/p' | tr '\n' ' ')"
# shellcheck disable=SC2086
apt-get download -qq distrobuilder distrobuilder-images libc6 $libraries >/dev/null 2>&1 || cannot "the download fails"
for deb in *.deb; do
	dpkg-deb -x "$deb" "$part/tree"
	rm "$deb"
done
unset APT_CONFIG
# What is signed comes from the machine's own suite, as its kernel does.
apt-get download -qq shim-signed grub-efi-amd64-signed >/dev/null 2>&1 || cannot "the download of shim and GRUB fails"
for deb in *.deb; do
	dpkg-deb -x "$deb" "$part/tree/boot"
done
cat >"$part/tree/distrobuilder" <<'END'
#!/bin/sh
dir=$(dirname "$(readlink -f "$0")")
lib=$dir/usr/lib/x86_64-linux-gnu
exec "$lib/ld-linux-x86-64.so.2" --argv0 distrobuilder --library-path "$lib" "$dir/usr/bin/distrobuilder" "$@"
END
chmod +x "$part/tree/distrobuilder"
"$part/tree/distrobuilder" --version >/dev/null 2>&1 || cannot "it does not run here"
mv "$part/tree" "$folder"
