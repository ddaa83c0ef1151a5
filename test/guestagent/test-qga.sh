#!/bin/sh
# Builds the test of QEMU's guest agent from QEMU's source, with a C compiler and GLib
# alone, and runs it against an agent: test-qga.sh SOURCE AGENT. It works in a folder
# of its own, and says how many tests there are and which fail.
set -eu
src=$(cd "$1" && pwd)
agent=$(realpath "$2")
version=$(cat "$src/VERSION")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir qapi qga tests
ln -s "$src/tests/data" tests/data
cp "$agent" qga/qemu-ga
python3 "$src/scripts/qapi-gen.py" -b -o qapi "$src/qapi/qapi-schema.json" >/dev/null
for d in CONFIG_LINUX CONFIG_POSIX CONFIG_IOVEC CONFIG_MADVISE CONFIG_POSIX_MADVISE HOST_X86_64 HAVE_STRCHRNUL HAVE_SYSTEM_FUNCTION; do
	echo "#define $d 1"
done >config-host.h
cat >>config-host.h <<X
#define QEMU_VERSION "$version"
#define CONFIG_QEMU_CONFDIR "/etc/qemu"
#define CONFIG_PREFIX "/usr"
#define CONFIG_BINDIR "/usr/bin"
X
: >config-poison.h
cat >rest.c <<'X'
#include <sys/socket.h>
int error_printf(const char *f, ...) { return 0; }
void error_report(const char *f, ...) {}
void warn_report(const char *f, ...) {}
ssize_t qemu_send_full(int fd, const void *p, size_t n) { return send(fd, p, n, 0); }
X
glib="glib-2.0 gio-unix-2.0"
# shellcheck disable=SC2086,SC2046
cc $(pkg-config --cflags $glib) -w -std=gnu11 -O0 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DCOMPILING_SYSTEM_VS_USER=1 -I. -I"$src" \
	-I"$src/include" -I"$src/host/include/generic" -I"$src/host/include/x86_64" -I"$src/tests" -I"$src/linux-headers" \
	-ffunction-sections -fdata-sections -Wl,--gc-sections -o test-qga rest.c "$src/tests/unit/test-qga.c" "$src/tests/qtest/libqmp.c" \
	"$src"/qobject/json-lexer.c "$src"/qobject/json-parser.c "$src"/qobject/json-streamer.c "$src"/qobject/json-writer.c \
	"$src"/qobject/q[bdjlnos]*.c "$src"/util/error.c "$src"/util/unicode.c "$src"/util/cutils.c "$src"/qapi/qapi-util.c \
	"$src"/qapi/qapi-dealloc-visitor.c qapi/qapi-types-error.c qapi/qapi-builtin-types.c $(pkg-config --libs $glib) -lm
# The test insists on the version that its source has.
printf '[general]\nreport-version=%s\n' "$version" >conf
QGA_CONF=$dir/conf G_TEST_SRCDIR=$src/tests/unit G_TEST_BUILDDIR=$dir ./test-qga --tap -k
