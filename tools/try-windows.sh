#!/bin/sh
# Runs the builds for Windows under Wine 10, in a Debian 13 of its own: images, names, locks,
# NBD, the guest agent. Needs root, debootstrap and some minutes.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tools/debian-system.sh"
SUITE=trixie debian_system
inside 'apt-get update -qq && apt-get install -y -qq --no-install-recommends wine wine64 >/dev/null'
cd "$here"
go vet -C test -tags wine ./windows
COWL_WINE=$system go test -C test -tags wine -count=1 -v ./windows
