//go:build unix

package differential

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// nbdClientSessions are command lines of qemu-img on exports. SOCK is a socket on
// which QEMU serves EXP, read-only, RW one where a raw disk of 1 MiB can be
// written, under the empty name.
const nbdClientSessions = `
info nbd://127.0.0.1:1
info nbd+unix:///x?socket=/nosock
info nbd+unix:///nope?socket=SOCK
info nbd+unix:///exp?socket=SOCK
info nbd+unix://exp?socket=SOCK
info nbd:unix:SOCK:exportname=exp
info nbd:unix:SOCK
info nbd:localhost
info nbd:
info nbd://
info nbdx://foo
info --image-opts driver=nbd
info --image-opts driver=nbd,server.type=unix
info --image-opts driver=nbd,server.type=unix,server.path=SOCK,export=exp
info --image-opts driver=nbd,path=SOCK,export=exp
info --image-opts driver=nbd,host=localhost,path=SOCK
info --image-opts driver=nbd,server.type=inet,server.host=localhost
info --image-opts driver=nbd,server.type=bogus,server.path=x
info --image-opts driver=nbd,server.type=unix,server.path=SOCK,export=exp,bogus=1
info --image-opts driver=nbd,server.type=unix,server.path=SOCK,export=exp,tls-creds=x
info --image-opts driver=nbd,server.type=unix,server.path=SOCK,export=exp,x-dirty-bitmap=foo
info --image-opts driver=nbd,server.type=unix,server.path=SOCK,export=exp,reconnect-delay=x
info --image-opts driver=nbd,server.type=unix,server.path=/nosock,open-timeout=1
info --output=json nbd+unix:///exp?socket=SOCK
info --output=json --image-opts driver=nbd,server.type=unix,server.path=SOCK,export=exp
info json:{"driver":"nbd","server":{"type":"unix","path":"SOCK"},"export":"exp"}
info nbd+unix:///exp%20x?socket=SOCK
map --output=json nbd+unix:///exp?socket=SOCK
map --output=json -f raw nbd+unix:///exp?socket=SOCK
map --output=json --image-opts driver=nbd,server.type=unix,server.path=BM,x-dirty-bitmap=qemu:dirty-bitmap:one
map --output=json --image-opts driver=nbd,server.type=unix,server.path=BM,x-dirty-bitmap=qemu:allocation-depth
map nbd+unix:///exp?socket=SOCK
compare nbd+unix:///exp?socket=SOCK raw.img
compare -f raw -F qcow2 nbd+unix:///?socket=RW a.qcow2
check nbd+unix:///exp?socket=SOCK
measure -O qcow2 nbd+unix:///exp?socket=SOCK
bench -w -c 1 -f raw nbd+unix:///exp?socket=SOCK
resize -f raw nbd+unix:///?socket=RW 8M
create -f raw nbd+unix:///?socket=RW 8M
create -f raw nbd+unix:///?socket=RW 1M
create -f raw -o bogus=1 nbd+unix:///?socket=RW 1M
convert -n -O raw a.qcow2 nbd+unix:///?socket=RW
convert -O raw a.qcow2 nbd+unix:///?socket=RW
compare nbd+unix:///?socket=RW a.qcow2
convert -O raw large.img nbd+unix:///?socket=RW
convert -O qcow2 a.qcow2 nbd+unix:///?socket=RW
info nbd+unix:///?socket=RW
check nbd+unix:///?socket=RW
map --output=json nbd+unix:///?socket=RW
convert -O qcow2 nbd+unix:///exp?socket=SOCK out.qcow2
compare out.qcow2 raw.img
dd if=nbd+unix:///exp?socket=SOCK of=out.raw bs=64k count=2
create -f qcow2 -b nbd+unix:///exp?socket=SOCK -F raw over.qcow2
info over.qcow2
info --backing-chain over.qcow2
map --output=json over.qcow2
convert -O raw over.qcow2 over.raw
compare over.qcow2 raw.img
`

// nbdClientDiffers are the sessions whose text differs on purpose.
var nbdClientDiffers = map[string]string{}

// TestNBDCommands compares what both programs say and do on exports of QEMU
// server.
func TestNBDCommands(t *testing.T) {
	theirs, _ := nbdPrograms(t)
	tools := needCLI(t)
	var got [2][]outcome
	var lines []string
	for i, program := range []string{tools.img, tools.ours} {
		dir := fixtures(t, tools)
		testkit.Run(t, "truncate", "-s", "4M", filepath.Join(dir, "rw.img"))
		serve := func(args string) string {
			sock, stop := nbdServe(t, dir, theirs, strings.Fields(args)...)
			t.Cleanup(stop)
			return sock
		}
		places := strings.NewReplacer("SOCK", serve("-r -e 9 -x exp -f raw raw.img"), "RW", serve("-e 9 -f raw rw.img"),
			"BM", serve("-r -e 9 -A -B one -f qcow2 bitmap.qcow2"))
		back := strings.NewReplacer(places.Replace("SOCK"), "SOCK", places.Replace("RW"), "RW", places.Replace("BM"), "BM")
		for line := range strings.Lines(strings.TrimSpace(nbdClientSessions)) {
			line = strings.TrimSpace(line)
			if i == 0 {
				lines = append(lines, line)
			}
			args := strings.Fields(line)
			for k := range args {
				args[k] = places.Replace(args[k])
			}
			o := runNBD(t, dir, program, args...)
			o.stdout, o.stderr = back.Replace(o.stdout), back.Replace(o.stderr)
			got[i] = append(got[i], o)
		}
	}
	for k, line := range lines {
		a, b := got[0][k], got[1][k]
		a.stdout, b.stdout = nbdVolatile(a.stdout), nbdVolatile(b.stdout)
		if a == b {
			continue
		}
		if reason := nbdClientDiffers[line]; reason != "" && a.code == b.code {
			t.Logf("%s: %s", line, reason)
			continue
		}
		t.Errorf("%s\noriginal: %+v\nours:     %+v", line, a, b)
	}
}

// nbdVolatile removes what differs between two files with the same content.
func nbdVolatile(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		if !strings.Contains(line, "disk size") && !strings.Contains(line, "actual-size") && !strings.Contains(line, "bytes (") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}
