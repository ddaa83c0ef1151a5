package differential

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/file"
)

// bitmapDifferences are the command lines in which we differ on purpose.
var bitmapDifferences = map[string]string{
	"bitmap --add zero.qcow2 b":                           "QEMU finds out when it closes the image",
	"bitmap --remove-all b.qcow2":                         "later versions have the option",
	"bitmap --remove-all --add b.qcow2 n":                 "later versions have the option",
	"bitmap --remove-all empty.qcow2":                     "later versions have the option",
	"bitmap --remove-all b.qcow2 one":                     "later versions have the option",
	"bitmap --add -g 4294967808 empty.qcow2 b":            "QEMU takes the lower 32 bits",
	"convert --bitmaps -n -O qcow2 b2.qcow2 b2copy.qcow2": "QEMU goes through the bitmaps backwards, and so another one fails",
	"convert --bitmaps -n -O qcow2 b2.qcow2 big.qcow2":    "QEMU goes through the bitmaps backwards, and so another one fails",
}

const bitmapTable = `
bitmap
bitmap b.qcow2
bitmap b.qcow2 one
bitmap --bogus
bitmap -Z b.qcow2 one
bitmap --add
bitmap --add b.qcow2
bitmap --add b.qcow2 one two
bitmap --merge
bitmap --add --merge b.qcow2 one
bitmap --clear -g 64k b.qcow2 one
bitmap --clear -g 0 b.qcow2 one
bitmap --clear -F qcow2 b.qcow2 one
bitmap --clear -b b2.qcow2 b.qcow2 one
bitmap --merge one -F qcow2 b.qcow2 two
bitmap --add b.qcow2 one
bitmap --add b.qcow2 new
bitmap --ad b.qcow2 new
bitmap b.qcow2 new --add
bitmap --add b.qcow2 ''
bitmap --add -g 100 b.qcow2 new
bitmap --add -g 256 b.qcow2 new
bitmap --add -g 768 b.qcow2 new
bitmap --add -g 512 b.qcow2 new
bitmap --add -g512 b.qcow2 new
bitmap --add --granularity=1M b.qcow2 new
bitmap --add --gran 2G b.qcow2 new
bitmap --add -g 4G b.qcow2 new
bitmap --add -g foo b.qcow2 new
bitmap --add -g -1 b.qcow2 new
bitmap --add -g 0 b.qcow2 new
bitmap --add -g 4294967808 empty.qcow2 b
bitmap --add -f qcow2 b.qcow2 new
bitmap --add -f raw b.qcow2 new
bitmap --add -f bogus b.qcow2 new
bitmap --add -f raw raw.img new
bitmap --add raw.img new
bitmap --add old.qcow2 new
bitmap --add nope new
bitmap --add zero.qcow2 b
bitmap --add huge.qcow2 b -g 512
bitmap --add huge.qcow2 b -g 64k
bitmap --add small.qcow2 n && info small.qcow2
bitmap --add big.qcow2 n && info big.qcow2
bitmap --add --image-opts driver=qcow2,file.filename=b.qcow2 new
bitmap --add --image-opts -f qcow2 driver=qcow2,file.filename=b.qcow2 new
bitmap --add --object bad b.qcow2 new
bitmap --add --object secret,id=s,data=x b.qcow2 new
bitmap --add orphan.qcow2 new
bitmap --add ext.qcow2 new && info ext.qcow2
bitmap --add sub.qcow2 new && info sub.qcow2
bitmap --add snap.qcow2 new && snapshot -c s2 snap.qcow2 && snapshot -a s2 snap.qcow2 && bitmap --remove snap.qcow2 new && snapshot -a s2 snap.qcow2
bitmap --add snap.qcow2 new && snapshot -c s2 snap.qcow2 && snapshot -d s2 snap.qcow2 && snapshot -l snap.qcow2
bitmap --remove b.qcow2 one
bitmap --remove b.qcow2 nope
bitmap --remove b.qcow2 bad
bitmap --remove raw.img one
bitmap --remove empty.qcow2 one
bitmap --remove b.qcow2 one && bitmap --remove b.qcow2 two && bitmap --remove b.qcow2 three && bitmap --remove b.qcow2 bad && info b.qcow2
bitmap --remove --add -g 1M b.qcow2 one && info --output=json b.qcow2
bitmap --remove --remove b.qcow2 one
bitmap --add --remove b.qcow2 new
bitmap --clear b.qcow2 one
bitmap --clear b.qcow2 bad
bitmap --clear b.qcow2 nope
bitmap --clear b.qcow2 three && info b.qcow2
bitmap --enable b.qcow2 two && info b.qcow2
bitmap --enable b.qcow2 bad
bitmap --enable b.qcow2 nope
bitmap --disable b.qcow2 one && info b.qcow2
bitmap --disable b.qcow2 bad
bitmap --disable --enable --disable b.qcow2 one && info b.qcow2
bitmap --add --disable b.qcow2 new && info --output=json b.qcow2
bitmap --add --disable --clear --enable --merge one b.qcow2 new
bitmap --merge one b.qcow2 two
bitmap --merge one b.qcow2 three
bitmap --merge three b.qcow2 one
bitmap --merge one b.qcow2 one
bitmap --merge one --merge two b.qcow2 three
bitmap --merge one --clear b.qcow2 two
bitmap --merge nope b.qcow2 one
bitmap --merge bad b.qcow2 one
bitmap --merge one b.qcow2 bad
bitmap --merge one b.qcow2 nope
bitmap --clear --merge nope b.qcow2 one
bitmap --merge x -b b2.qcow2 b.qcow2 two
bitmap --merge x --source-file b2.qcow2 --source-format qcow2 b.qcow2 two
bitmap --merge x -b b2.qcow2 -F raw b.qcow2 two
bitmap --merge x -b raw.img -F raw b.qcow2 two
bitmap --merge x -b raw.img b.qcow2 two
bitmap --merge x -b old.qcow2 b.qcow2 two
bitmap --merge x -b nope b.qcow2 two
bitmap --merge one -b b2.qcow2 -F bogus b.qcow2 two
bitmap --merge y -b big.qcow2 b.qcow2 two
bitmap --merge x -b b2.qcow2 --add b.qcow2 new
bitmap --add --merge x -b b2.qcow2 -g 64k b.qcow2 new && info b.qcow2
bitmap --remove-all b.qcow2
bitmap --remove-all --add b.qcow2 n
bitmap --remove-all empty.qcow2
bitmap --remove-all b.qcow2 one
convert --bitmaps -O qcow2 b2.qcow2 out && info out
convert --bitmaps -O qcow2 b.qcow2 out
convert --bitmaps --skip-broken-bitmaps -O qcow2 b.qcow2 out && info out
convert --skip-broken-bitmaps -O qcow2 b.qcow2 out
convert --bitmaps -O qcow2 two-bad.qcow2 out
convert --bitmaps --skip-broken-bitmaps -O qcow2 two-bad.qcow2 out && info out
convert --bitmaps -c -O qcow2 -o cluster_size=4k b2.qcow2 out && info out
convert --bitmaps -O qcow2 -o cluster_size=512,refcount_bits=1 b2.qcow2 out
convert --bitmaps -O qcow2 -o compat=0.10 b2.qcow2 out
convert --bitmaps -O raw b2.qcow2 out
convert --bitmaps -f raw -O qcow2 b2.qcow2 out
convert --bitmaps -O qcow2 raw.img out
convert --bitmaps -O qcow2 old.qcow2 out
convert --bitmaps -O qcow2 empty.qcow2 out && info out
convert --bitmaps -O qcow2 b2.qcow2 b2.qcow2 out
convert --bitmaps -n -O qcow2 b2.qcow2 empty.qcow2 && info empty.qcow2
convert --bitmaps -n -O qcow2 b2.qcow2 b2copy.qcow2
convert --bitmaps -n -O qcow2 b2.qcow2 big.qcow2
convert --bitmaps -n -O raw b2.qcow2 raw.img
convert --bitmaps -l nope -O qcow2 b2.qcow2 out
measure -O qcow2 b.qcow2
measure -O qcow2 --output=json b2.qcow2
measure -O qcow2 -o cluster_size=512 b2.qcow2
measure -O qcow2 empty.qcow2
measure -O qcow2 old.qcow2
measure -O raw b2.qcow2
info b.qcow2
info --output=json b.qcow2
check b.qcow2
check -r all b.qcow2 && info b.qcow2
check -r all lost.qcow2 && info lost.qcow2
info lost.qcow2
bitmap --add lost.qcow2 n && info lost.qcow2
resize b.qcow2 8M
resize b2.qcow2 8M && info b2.qcow2
resize b2.qcow2 1G && info b2.qcow2
resize --shrink b2.qcow2 1M && info b2.qcow2
resize --shrink b2.qcow2 1M && resize b2.qcow2 4M
resize --shrink b.qcow2 0
resize --shrink b2.qcow2 0
amend -o compat=0.10 b2.qcow2 && info b2.qcow2 && check b2.qcow2 && amend -o compat=1.1 b2.qcow2 && info b2.qcow2
amend -o lazy_refcounts=on b2.qcow2 && info b2.qcow2
amend -o refcount_bits=64 b2.qcow2 && info b2.qcow2 && check b2.qcow2
amend -o size=8M b2.qcow2 && info b2.qcow2
commit over.qcow2 && info b2.qcow2
commit -d over.qcow2 && info b2.qcow2
rebase -b '' overb.qcow2 && info overb.qcow2
rebase -u -b b2copy.qcow2 -F qcow2 overb.qcow2 && info overb.qcow2
compare b2.qcow2 b2copy.qcow2
dd bs=64k count=4 -f qcow2 -O qcow2 if=b2.qcow2 of=out && info out
bench -w -c 20 -s 4096 -S 8192 -f qcow2 b2.qcow2 --pattern 7
`

// bitmapFixtures makes images with bitmaps, with QEMU.
func bitmapFixtures(t *testing.T, tools cliBinaries) string {
	t.Helper()
	dir := scriptDir(t, tools, `
set -e
truncate -s 1M raw.img
"$IMG" create -q -f qcow2 b.qcow2 4M
"$IMG" bitmap --add -g 512 b.qcow2 one
"$IMG" bitmap --add --disable b.qcow2 two
"$IMG" bitmap --add -g 32k b.qcow2 three
"$IMG" bitmap --add b.qcow2 bad
"$IO" -c 'write -P 3 1000k 10k' -c 'write -P 4 3M 200k' b.qcow2
cp b.qcow2 two-bad.qcow2
"$IMG" create -q -f qcow2 b2.qcow2 4M
"$IMG" bitmap --add -g 4k b2.qcow2 x
"$IMG" bitmap --add --disable b2.qcow2 y
"$IO" -c 'write -P 5 1M 300k' -c 'write -z 2M 64k' b2.qcow2
cp b2.qcow2 b2copy.qcow2
"$IMG" create -q -f qcow2 -b b2.qcow2 -F qcow2 over.qcow2
"$IO" -c 'write -P 6 512k 100k' over.qcow2
"$IMG" create -q -f qcow2 -b b2.qcow2 -F qcow2 overb.qcow2
"$IMG" bitmap --add -g 4k overb.qcow2 z
"$IMG" create -q -f qcow2 empty.qcow2 4M
"$IMG" create -q -f qcow2 -o compat=0.10 old.qcow2 4M
"$IMG" create -q -f qcow2 zero.qcow2 0
"$IMG" create -q -f qcow2 huge.qcow2 16T
"$IMG" create -q -f qcow2 -o cluster_size=512 small.qcow2 4M
"$IMG" create -q -f qcow2 -o cluster_size=2M big.qcow2 8M
"$IMG" bitmap --add -g 4k big.qcow2 y
"$IMG" create -q -f qcow2 -o data_file=ext.data ext.qcow2 1M
"$IMG" create -q -f qcow2 -o extended_l2=on,cluster_size=64k sub.qcow2 1M
"$IMG" create -q -f qcow2 snap.qcow2 1M
"$IMG" snapshot -c s snap.qcow2
"$IMG" create -q -f qcow2 -u -b nowhere.qcow2 -F qcow2 orphan.qcow2 1M
cp b2.qcow2 lost.qcow2
printf '\0' | dd of=lost.qcow2 bs=1 seek=95 conv=notrunc status=none
`)
	flagInUse(t, filepath.Join(dir, "b.qcow2"), "bad")
	flagInUse(t, filepath.Join(dir, "two-bad.qcow2"), "one")
	flagInUse(t, filepath.Join(dir, "two-bad.qcow2"), "bad")
	return dir
}

// flagInUse makes a bitmap inconsistent, as a crash does.
func flagInUse(t *testing.T, path, name string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ondisk.DecodeHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	exts, _ := ondisk.DecodeExtensions(b[h.HeaderLength:h.ClusterSize()])
	for _, e := range exts {
		if e.Type != ondisk.ExtBitmaps {
			continue
		}
		x, _ := ondisk.DecodeBitmapsExtension(e.Data)
		dir := b[x.DirectoryOffset:][:x.DirectorySize]
		list, err := ondisk.DecodeBitmapDirectory(dir, int(x.Count))
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			if list[i].Name == name {
				dir[ondisk.BitmapFlagsOffset+3] |= byte(ondisk.BitmapInUse)
			}
			dir = dir[list[i].Size():]
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

var nodeName = regexp.MustCompile(`(persistent (?:bitmaps to|in)) '?[^ ]+`)

var places = regexp.MustCompile(`(file length:|Image end offset:|(?:Leaked|Repairing) cluster) [0-9]+.*`)

// normalInfo takes out what depends on where clusters were put.
func normalInfo(s string) string { return places.ReplaceAllString(trimLengths(s), "$1 X") }

// normalNode takes out what QEMU calls its nodes.
func normalNode(s string) string {
	s = strings.ReplaceAll(normalInfo(normal(s)), "to fix.Leaked", "to fix.\nLeaked") // the hint of QEMU ends no line
	return nodeName.ReplaceAllString(s, "$1 NODE")
}

func TestBitmapCommands(t *testing.T) {
	if testkit.Race {
		t.Skip("the programs are built without the race detector: there is nothing to find")
	}
	tools := needCLI(t)
	base := bitmapFixtures(t, tools)
	eachLine(t, bitmapTable, bitmapDifferences, func(t *testing.T, line string) {
		left, right := copyTree(t, base), copyTree(t, base)
		reason := bitmapDifferences[line]
		equal := true
		for _, l := range strings.Split(line, " && ") {
			want := runIn(t, left, tools.img, words(l)...)
			got := runIn(t, right, tools.ours, words(l)...)
			same := got.code == want.code && sameOutput(normalInfo(got.stdout), normalInfo(want.stdout)) && normalNode(got.stderr) == normalNode(want.stderr)
			equal = equal && same
			if w := words(l); w[0] == "convert" && got.code != 0 {
				// QEMU keeps the target of a conversion that failed, ours removes it.
				target := w[len(w)-1]
				if _, err := os.Stat(filepath.Join(base, target)); err != nil {
					if _, err := os.Stat(filepath.Join(right, target)); err == nil {
						t.Errorf("%s: the target is left behind", l)
					}
					os.Remove(filepath.Join(left, target))
				}
			}
			if !same && reason == "" {
				t.Errorf("%s:\ngot  %d %q %q\nwant %d %q %q", l, got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
			}
		}
		if reason != "" && equal {
			t.Errorf("listed as an intended difference (%s), but there is none", reason)
		}
		if reason == "" {
			sameFiles(t, tools, left, right)
			for _, name := range tree(t, left) {
				if a, b := allBits(t, filepath.Join(left, name)), allBits(t, filepath.Join(right, name)); a != b {
					t.Errorf("bitmaps of %s:\n%s\nwant\n%s", name, b, a)
				}
			}
		}
		if !strings.Contains(line, "compat=0.10") { // those leave leaks, as QEMU does
			checkChanged(t, tools, base, right)
		}
	})
}

// allBits describes the bitmaps of a file in words.
func allBits(t *testing.T, path string) string {
	t.Helper()
	ctx := t.Context()
	img, err := block.Open(ctx, block.NewRegistry(qcow2.New(), file.New()), block.Source{Filename: path, Format: "qcow2"},
		block.OpenOptions{Gate: driver.AllowAll, Chain: block.ChainUse{NoBacking: true}})
	if err != nil {
		return ""
	}
	defer img.Close(ctx)
	list, _, err := img.Bitmaps().List(ctx)
	if err != nil {
		t.Error(err)
	}
	var out strings.Builder
	for _, b := range list {
		describeBitmap(t, &out, img, b)
	}
	return out.String()
}
