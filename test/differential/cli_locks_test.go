package differential

import (
	"bufio"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// holdOpen opens an image with QEMU until the test ends.
func holdOpen(t *testing.T, tools cliBinaries, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command(tools.io, args...)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	// The answer to a command says that the image is open.
	if _, err := io.WriteString(in, "length\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("qemu-io %v: %q, %v", args, line, err)
	}
}

// TestCLILocks runs command lines while QEMU has the images open.
func TestCLILocks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("image locks are those of Linux")
	}
	tools := needCLI(t)
	dir := fixtures(t, tools)
	holdOpen(t, tools, dir, "-f", "raw", "raw.img")
	holdOpen(t, tools, dir, "-f", "raw", "-r", "same.img")
	holdOpen(t, tools, dir, "-f", "qcow2", "a.qcow2")
	holdOpen(t, tools, dir, "-f", "qcow2", "-r", "old.qcow2")
	for _, line := range strings.Split(`info raw.img
info a.qcow2
info -U a.qcow2
info --backing-chain top.qcow2
info old.qcow2
map raw.img
map a.qcow2
map -U a.qcow2
map mid.qcow2
check a.qcow2
check -U a.qcow2
check -r all a.qcow2
check old.qcow2
check -r all old.qcow2
compare a.qcow2 raw.img
compare -U a.qcow2 raw.img
compare raw.img same.img
measure a.qcow2
measure -U a.qcow2
resize a.qcow2 2M
resize old.qcow2 4M
resize -f raw raw.img 2M
resize -f raw same.img 2M
create -f qcow2 a.qcow2 1M
create raw.img 1M
create -f qcow2 old.qcow2 1M
create -f qcow2 -b a.qcow2 -F qcow2 new.qcow2
convert a.qcow2 out
convert -U a.qcow2 out
convert mid.qcow2 out
convert raw.img out
convert -f raw raw.img out
convert large.img raw.img
convert large.img a.qcow2
convert large.img same.img
convert -n empty.img raw.img
convert -n -O qcow2 empty.img a.qcow2
convert -n -O qcow2 empty.img old.qcow2
convert -O qcow2 empty.img old.qcow2
dd if=a.qcow2 of=out
dd -U if=a.qcow2 of=out
dd if=empty.img of=raw.img
bench -c 1 a.qcow2
bench -c 1 -U a.qcow2
bench -c 1 -w -f raw raw.img
bench -c 1 -w a.qcow2
info --image-opts driver=qcow2,force-share=on,file.filename=a.qcow2
info --image-opts driver=qcow2,file.locking=off,file.filename=a.qcow2`, "\n") {
		t.Run(line, func(t *testing.T) {
			want := runIn(t, dir, tools.img, words(line)...)
			got := runIn(t, dir, tools.ours, words(line)...)
			if got.code != want.code || !sameOutput(got.stdout, want.stdout) || normal(got.stderr) != normal(want.stderr) {
				t.Errorf("exit code %d\n%s%s\nwant %d\n%s%s", got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
			}
		})
	}
}
