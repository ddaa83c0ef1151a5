package differential

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// inDir runs a shell script of QEMU's tools in a new directory.
func inDir(t *testing.T, script string) string {
	t.Helper()
	testkit.Tool(t, "qemu-img")
	testkit.Tool(t, "qemu-io")
	dir := t.TempDir()
	cmd := exec.Command("sh", "-e", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestLongChain opens a chain of 200 images, each of which has one cluster of
// its own, and reads it.
func TestLongChain(t *testing.T) {
	const images, cluster = 200, 65536
	dir := inDir(t, `
i=0
qemu-img create -q -f qcow2 0 13107200
while [ $i -lt 199 ]; do
	n=$((i + 1))
	qemu-img create -q -u -f qcow2 -b $i -F qcow2 $n 13107200
	i=$n
done`)
	want := make([]byte, images*cluster)
	for i := range images {
		img := library(t, filepath.Join(dir, fmt.Sprint(i)), true)
		p := bytes.Repeat([]byte{byte(i + 1)}, cluster)
		copy(want[i*cluster:], p)
		if _, err := img.WriteAt(t.Context(), p, int64(i*cluster)); err != nil {
			t.Fatal(err)
		}
		closeLibrary(t, img)
	}
	top := filepath.Join(dir, fmt.Sprint(images-1))
	start := testkit.CPUTime() // of this process: others may keep the machine busy
	img := library(t, top, false)
	opened := testkit.CPUTime() - start
	got := readLibrary(t, img)
	closeLibrary(t, img)
	spent := testkit.CPUTime() - start
	t.Logf("opened in %v, read in %v", opened, spent-opened)
	if limit := 2 * time.Second; spent > limit && !testkit.Race {
		t.Errorf("opening and reading took %v", spent)
	}
	if !bytes.Equal(got, want) {
		t.Error("the content differs")
	}
	sameCommand(t, "map", "--output=json", top)
	sameCommand(t, "info", "--backing-chain", "--output=json", top)
}

// TestChainLoops opens images that are their own backing or data file by some
// way. That is an error, at once.
func TestChainLoops(t *testing.T) {
	dir := inDir(t, `
qemu-img create -q -u -f qcow2 -b self -F qcow2 new 1M
mv new self
qemu-img create -q -u -f qcow2 -b b -F qcow2 a 1M
qemu-img create -q -u -f qcow2 -b a -F qcow2 b 1M
qemu-img create -q -u -f qcow2 -b link2 -F qcow2 vialink 1M
ln -s vialink link
ln -s link link2
qemu-img create -q -u -f qcow2 -b ./sub/../dots -F qcow2 new 1M
mv new dots
mkdir sub
qemu-img create -q -u -f qcow2 -b "$PWD/abs" -F qcow2 new 1M
mv new abs
qemu-img create -q -u -f qcow2 -b 'json:{"driver":"qcow2","file":{"driver":"file","filename":"'"$PWD"'/js"}}' -F qcow2 new 1M
mv new js
qemu-img create -q -u -f qcow2 -b file:fileself -F qcow2 new 1M
mv new fileself
ln vialink hard
qemu-img create -q -u -f qcow2 -b c2 -F qcow2 c1 1M
qemu-img create -q -u -f qcow2 -b c3 -F qcow2 c2 1M
qemu-img create -q -u -f qcow2 -b c1 -F qcow2 c3 1M
qemu-img create -q -f qcow2 -o data_file=dataself.raw dataself 1M
rm dataself.raw
ln -s dataself dataself.raw
`)
	tools := needCLI(t)
	for _, name := range []string{"self", "a", "vialink", "dots", "abs", "js", "fileself", "hard", "c1"} {
		for _, args := range [][]string{{"map"}, {"convert", "-O", "raw"}, {"info", "--backing-chain"}, {"compare"}, {"resize"}, {"check"}, {"info"}} {
			t.Run(name+" "+args[0], func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				line := append(args, name)
				switch args[0] {
				case "convert":
					line = append(line, "out")
				case "compare":
					line = append(line, "self")
				case "resize":
					line = append(line, "2M")
				}
				cmd := exec.CommandContext(ctx, tools.ours, line...)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				// The processor's time: others may keep the machine busy.
				if st := cmd.ProcessState; st != nil && st.UserTime()+st.SystemTime() > time.Second && !testkit.Race {
					t.Errorf("took %v", st.UserTime()+st.SystemTime())
				}
				alone := len(args) == 1 && args[0] == "info"
				if (err == nil) != alone {
					t.Errorf("%v\n%s", err, out)
				}
				// Writers meet their own image lock where the name does not tell.
				locked := args[0] == "resize" && bytes.Contains(out, []byte("Failed to get"))
				if !alone && args[0] != "info" && !locked && !bytes.Contains(out, []byte("is a loop")) {
					t.Errorf("%.500s", out)
				}
				if bytes.Contains(out, []byte("goroutine ")) {
					t.Errorf("it crashed: %.500s", out)
				}
			})
		}
	}
	// The image locks see to it that the data file is not the image itself.
	for _, args := range [][]string{{"map", "dataself"}, {"resize", "dataself", "2M"}} {
		got := runIn(t, dir, tools.ours, args...)
		if args[0] == "resize" && got.code == 0 {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

// TestChainNames names backing files in every way. Both programs find the same
// files, say the same of them and fail alike.
func TestChainNames(t *testing.T) {
	dir := inDir(t, `
mkdir -p sub/deep other
qemu-img create -q -f raw base.raw 1M
qemu-io -f raw -c 'write -q -P 1 0 1M' base.raw
qemu-img create -q -f qcow2 base.q 2M
qemu-io -f qcow2 -c 'write -q -P 2 0 2M' base.q
cp base.q 'co:lon.q'
cp base.q 'sp ace,comma.q'
cp base.q 'sub/ünï.q'
u() { qemu-img create -q -u -f qcow2 "$@"; }
u -b base.q -F qcow2 rel.q 1M
u -b ../base.q -F qcow2 sub/rel.q 3M
u -b ../../base.raw -F raw sub/deep/rel.q 3M
u -b "$PWD/base.q" -F qcow2 abs.q 2M
u -b 'file:co:lon.q' -F qcow2 colon1.q 2M
u -b './co:lon.q' -F qcow2 colon2.q 2M
u -b 'co:lon.q' -F qcow2 colon3.q 2M
u -b 'sp ace,comma.q' -F qcow2 space.q 2M
u -b 'sub/ünï.q' -F qcow2 unicode.q 2M
u -b 'json:{"driver":"qcow2","file.driver":"file","file.filename":"'"$PWD"'/base.q"}' -F qcow2 json1.q 2M
u -b 'json:{"driver":"raw","file":{"driver":"file","filename":"'"$PWD"'/base.raw"}}' -F raw json2.q 2M
u -b 'json:{"driver":"raw","offset":4096,"file":{"driver":"file","filename":"'"$PWD"'/base.raw"}}' -F raw json3.q 2M
u -b 'json:{"driver":"qcow2","file.driver":"file","file.filename":"base.q"}' -F qcow2 json4.q 2M
u -b 'json:{bad' -F qcow2 json5.q 2M
u -b 'json:{"driver":"nope"}' -F raw json6.q 2M
u -b nowhere.q -F qcow2 gone.q 2M
u -b gone.q -F qcow2 overgone.q 2M
u -b base.raw -F qcow2 wrongformat.q 2M
u -b base.q -F raw asraw.q 2M
u -b base.q -F qcow2 bogus.q 2M
printf bogus | dd of=bogus.q bs=1 seek=120 conv=notrunc status=none
u -b nbd://localhost:1/x -F raw nbd.q 2M
u -b rel.q -F qcow2 top.q 4M
u -b sub/rel.q -F qcow2 topsub.q 2560k
ln -s ../sub/rel.q other/linked.q
ln -s sub/rel.q linked.q
u -b base.q noformat.q 1M || true
`)
	tools := needCLI(t)
	// Both fail, with other messages: of the parser, and of a protocol that we lack.
	otherWords := map[string]bool{"json5.q": true, "json6.q": true, "nbd.q": true}
	names, err := filepath.Glob(filepath.Join(dir, "*.q"))
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"sub/*.q", "sub/deep/*.q", "other/*.q"} {
		more, err := filepath.Glob(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, more...)
	}
	for _, name := range names {
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(rel, func(t *testing.T) {
			t.Parallel()
			for _, args := range [][]string{{"info", "--output=json", "--backing-chain"}, {"info", "--backing-chain"}, {"map", "--output=json"}, {"info"}} {
				for _, as := range []string{"./" + rel, name, "file:" + rel} {
					if line := append(args, as); !otherWords[rel] {
						sameIn(t, tools, dir, line...)
					} else if a, b := runIn(t, dir, tools.img, line...), runIn(t, dir, tools.ours, line...); a.code != b.code {
						t.Errorf("%v: exit code %d, want %d", line, b.code, a.code)
					}
				}
			}
			a, b := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "raw")
			want := runIn(t, dir, tools.img, "convert", "-f", "qcow2", "-O", "raw", "./"+rel, a)
			got := runIn(t, dir, tools.ours, "convert", "-f", "qcow2", "-O", "raw", "./"+rel, b)
			if got.code != want.code || normal(got.stderr) != normal(want.stderr) && !otherWords[rel] {
				t.Fatalf("convert: %+v, want %+v", got, want)
			}
			if want.code == 0 {
				x, errX := os.ReadFile(a)
				y, errY := os.ReadFile(b)
				if errX != nil || errY != nil || !bytes.Equal(x, y) {
					t.Fatalf("the content differs (%v, %v)", errX, errY)
				}
			}
		})
	}
}

// sameIn runs one command line with both programs as processes.
func sameIn(t *testing.T, tools cliBinaries, dir string, args ...string) {
	t.Helper()
	want := runIn(t, dir, tools.img, args...)
	got := runIn(t, dir, tools.ours, args...)
	if got.code != want.code || !sameOutput(got.stdout, want.stdout) || normal(got.stderr) != normal(want.stderr) {
		t.Errorf("%s: exit code %d\n%s%s\nwant %d\n%s%s", strings.Join(args, " "), got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
	}
}

// TestChainOverrides names other backing files than the images do.
func TestChainOverrides(t *testing.T) {
	t.Parallel()
	dir := inDir(t, `
qemu-img create -q -f raw one.raw 1M
qemu-io -f raw -c 'write -q -P 1 0 1M' one.raw
qemu-img create -q -f qcow2 two.q 2M
qemu-io -f qcow2 -c 'write -q -P 2 0 2M' two.q
qemu-img create -q -u -f qcow2 -b gone -F qcow2 over.q 3M
qemu-io -f qcow2 -c 'write -q -P 3 1500k 4k' over.q 2>/dev/null || true
qemu-img create -q -f qcow2 -b two.q -F qcow2 top.q 3M
`)
	tools := needCLI(t)
	for _, image := range []string{
		"driver=qcow2,file.filename=over.q,backing.driver=raw,backing.file.filename=one.raw",
		"driver=qcow2,file.filename=over.q,backing.driver=qcow2,backing.file.filename=two.q",
		"driver=qcow2,file.filename=over.q,backing.file.filename=two.q",
		"driver=qcow2,file.filename=over.q,backing.filename=two.q",
		"driver=qcow2,file.filename=over.q",
		"driver=qcow2,file.filename=top.q,backing.driver=raw,backing.file.filename=two.q",
		"driver=qcow2,file.filename=top.q,backing.driver=qcow2",
		"driver=qcow2,file.filename=top.q,backing.driver=raw",
		"driver=qcow2,file.filename=top.q,backing.driver=bogus",
		"driver=qcow2,file.filename=top.q,backing.bogus=1",
		"driver=qcow2,file.filename=two.q,backing.driver=raw,backing.file.filename=one.raw",
		"driver=qcow2,file.filename=top.q,backing.backing.driver=raw,backing.backing.file.filename=one.raw",
		"file.filename=top.q,backing.file.filename=nowhere",
		"driver=qcow2,file.driver=file,file.filename=top.q,backing.driver=null-co,backing.size=1M",
		"driver=qcow2,file.driver=file,file.filename=top.q,backing.driver=null-co,backing.size=1M,backing.read-zeroes=on",
		`json:{"driver":"qcow2","file":{"driver":"file","filename":"top.q"},"backing":null}`,
		`json:{"driver":"qcow2","file":{"driver":"file","filename":"over.q"},"backing":null}`,
		`json:{"driver":"qcow2","file":{"driver":"file","filename":"over.q"},"backing":{"driver":"raw","file":{"driver":"file","filename":"one.raw"}}}`,
		`json:{"driver":"qcow2","file":{"driver":"file","filename":"over.q"},"backing":{"driver":"raw","size":65536,"file":{"driver":"file","filename":"one.raw"}}}`,
		`json:{"driver":"qcow2","file":"top.q"}`,
	} {
		t.Run(image, func(t *testing.T) {
			opt := []string{"--image-opts"}
			if strings.HasPrefix(image, "json:") {
				opt = nil
			}
			// No info: QEMU opens the image alone for it, and then knows no
			// options about the backing file; we take them.
			for _, args := range [][]string{{"map", "--output=json"}, {"measure", "-O", "qcow2"}, {"measure", "-O", "raw", "--output=json"}, {"bench", "-c", "1"}} {
				sameIn(t, tools, dir, append(append(args, opt...), image)...)
			}
		})
	}
}
