package differential

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// vmdkSpec is options of an image by chance.
func vmdkSpec(r *rand.Rand) []string {
	var o []string
	sub := []string{"", "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"}[r.IntN(6)]
	if sub != "" {
		o = append(o, "subformat="+sub)
	}
	if !strings.HasSuffix(sub, "Flat") && sub != "streamOptimized" && r.IntN(2) == 0 {
		o = append(o, "zeroed_grain=on")
	}
	if r.IntN(2) == 0 {
		o = append(o, "adapter_type="+[]string{"ide", "lsilogic", "buslogic", "legacyESX"}[r.IntN(4)])
	}
	switch r.IntN(4) {
	case 0:
		o = append(o, "compat6=on")
	case 1:
		o = append(o, "hwversion=9", "toolsversion=7")
	}
	if o == nil {
		return nil
	}
	return []string{"-o", strings.Join(o, ",")}
}

// TestVmdkRandom: images of random options that one program makes, and the other (or
// the same) changes, are read alike by both, are without fault for both, and have the
// same description and map.
func TestVmdkRandom(t *testing.T) {
	tools := needCLI(t)
	n := testkit.Count(16)
	for seed := range uint64(n) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := testkit.Rand(seed)
			dir := t.TempDir()
			disk := make([]byte, 512*(1+r.IntN(20000)))
			testkit.FillDisk(r, disk)
			for range 3 { // holes
				off := r.IntN(len(disk))
				clear(disk[off:min(len(disk), off+1<<20)])
			}
			raw := filepath.Join(dir, "raw.img")
			if err := os.WriteFile(raw, disk, 0o600); err != nil {
				t.Fatal(err)
			}
			programs := []string{tools.img, tools.ours}
			run := func(program string, args ...string) outcome {
				o := runIn(t, dir, program, args...)
				if o.code != 0 {
					t.Fatalf("%s %v: %s%s", program, args, o.stdout, o.stderr)
				}
				return o
			}
			spec := vmdkSpec(r)
			run(programs[seed%2], append(append([]string{"convert", "-f", "raw", "-O", "vmdk"}, spec...), raw, "a.vmdk")...)
			stream := strings.Contains(strings.Join(spec, " "), "streamOptimized")
			for range 6 {
				if stream {
					break
				}
				// qemu-io and dd of ours write in turn.
				off, length := r.IntN(len(disk)/512)*512, 512*(1+r.IntN(400))
				length = min(length, len(disk)-off)
				fill := byte(1 + r.IntN(255))
				if r.IntN(2) == 0 {
					zero := ""
					if r.IntN(3) == 0 {
						zero, fill = "-z ", 0
					}
					cmd := fmt.Sprintf("write %s-P %d %d %d", zero, fill, off, length)
					if zero != "" {
						cmd = fmt.Sprintf("write -z %d %d", off, length)
					}
					run(tools.io, "-f", "vmdk", "-c", cmd, "a.vmdk")
				} else {
					// Writing zeroes is what our programs are asked for by copying over.
					copy(disk[off:off+length], bytes.Repeat([]byte{fill}, length))
					if err := os.WriteFile(raw, disk, 0o600); err != nil {
						t.Fatal(err)
					}
					run(tools.ours, "convert", "-n", "-f", "raw", "-O", "vmdk", raw, "a.vmdk")
				}
				copy(disk[off:off+length], bytes.Repeat([]byte{fill}, length))
			}
			if !stream && r.IntN(2) == 0 {
				disk = append(disk, make([]byte, 512*r.IntN(40000))...)
				run(tools.ours, "resize", "-f", "vmdk", "a.vmdk", fmt.Sprint(len(disk)))
				off := max(0, len(disk)-512*(1+r.IntN(400)))
				run(tools.io, "-f", "vmdk", "-c", fmt.Sprintf("write -P 77 %d %d", off, len(disk)-off), "a.vmdk")
				copy(disk[off:], bytes.Repeat([]byte{77}, len(disk)-off))
			}
			for _, p := range programs {
				run(p, "check", "a.vmdk")
			}
			readsAs(t, tools, "vmdk", filepath.Join(dir, "a.vmdk"), disk)
			for _, args := range [][]string{{"info", "--output=json", "a.vmdk"}, {"map", "--output=json", "a.vmdk"}, {"check", "--output=json", "a.vmdk"}, {"info", "a.vmdk"}} {
				want, got := run(tools.img, args...), run(tools.ours, args...)
				if !sameOutput(want.stdout, got.stdout) {
					t.Errorf("%v: %s\nwant %s", args, got.stdout, want.stdout)
				}
			}
		})
	}
}

// TestVmdkLayout: a new image has the same bytes as one of QEMU, apart from the
// content ID.
func TestVmdkLayout(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	for _, args := range []string{
		"10M", "-o zeroed_grain=on 1G", "-o subformat=monolithicFlat 3M", "-o subformat=twoGbMaxExtentSparse 5G", "-o subformat=twoGbMaxExtentFlat 5G",
		"-o adapter_type=lsilogic,hwversion=9,toolsversion=7 100M", "-o compat6=on 1000", "0", "-o adapter_type=legacyESX 64G",
	} {
		left, right := t.TempDir(), t.TempDir()
		line := words("create -q -f vmdk " + args)
		line = append(line[:len(line)-1], "a.vmdk", line[len(line)-1])
		for dir, program := range map[string]string{left: tools.img, right: tools.ours} {
			if o := runIn(t, dir, program, line...); o.code != 0 {
				t.Fatalf("%s: %s", args, o.stderr)
			}
		}
		sameLengths(t, left, right)
		for _, name := range tree(t, left) {
			a, errA := os.Open(filepath.Join(left, name))
			b, errB := os.Open(filepath.Join(right, name))
			if errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			// What is behind the tables of these is a hole.
			x, y := make([]byte, 8<<20), make([]byte, 8<<20)
			n, _ := a.Read(x)
			m, _ := b.Read(y)
			x, y = x[:n], y[:m]
			// The ID is of one to eight digits, and moves what is behind it in its area.
			withoutID := func(p []byte) []byte { return vmdkCID.ReplaceAll(p, []byte("${1}0")) }
			if bytes.HasPrefix(x, []byte("KDMV")) {
				const area = 21 * 512
				dx, dy := bytes.Trim(withoutID(x[512:area]), "\x00"), bytes.Trim(withoutID(y[512:area]), "\x00")
				if !bytes.Equal(x[:512], y[:512]) || !bytes.Equal(dx, dy) {
					t.Errorf("%s: %s: other header or descriptor:\n%s\nwant\n%s", args, name, dy, dx)
				}
			} else if x, y = withoutID(x), withoutID(y); !bytes.Equal(bytes.TrimRight(x, "\x00"), bytes.TrimRight(y, "\x00")) {
				t.Errorf("%s: %s:\n%s\nwant\n%s", args, name, y[:min(len(y), 1000)], x[:min(len(x), 1000)])
			}
			a.Close()
			b.Close()
		}
	}
}

var vmdkCID = regexp.MustCompile(`((?m)^CID=)[0-9a-f]+`)

const vmdkFixtures = `
set -e
truncate -s 1M raw.img
"$IO" -f raw -c 'write -P 5 64k 128k' -c 'write -P 6 1000k 4k' raw.img
"$IMG" create -q -f vmdk odd 1M
"$IO" -f vmdk -c 'write -P 9 0 64k' odd
for s in monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat streamOptimized; do
	"$IMG" convert -O vmdk -o subformat=$s raw.img $s.vmdk
done
"$IMG" convert -O vmdk -o zeroed_grain=on raw.img zero.vmdk
"$IMG" create -q -f vmdk -b monolithicSparse.vmdk -F vmdk over.vmdk
"$IO" -f vmdk -c 'write -P 7 100k 10k' over.vmdk
"$IMG" create -q -f vmdk -b monolithicSparse.vmdk -F vmdk changed.vmdk
sed -i 's/^parentCID=.*/parentCID=77/' changed.vmdk
"$IMG" create -q -f qcow2 q.qcow2 1M
head -c 70000 monolithicSparse.vmdk > cut.vmdk
head -c 100 monolithicSparse.vmdk > tiny.vmdk
printf 'abc' > three.vmdk
patch() { cp monolithicSparse.vmdk $1.vmdk; printf "$3" | dd of=$1.vmdk bs=1 seek=$2 conv=notrunc status=none; }
patch version 4 '\004'
patch v3 4 '\003'
patch grain 24 '\377\377\377\377'
patch entries 44 '\000\000\001\000'
patch noentries 44 '\000\000\000\000'
patch capacity 16 '\377\377\377\000'
patch over 64 '\377\377\377'
text() { printf '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n%b' "$2" > $1.vmdk; }
text type 'createType="foo"\nRW 2048 FLAT "raw.img" 0\n'
text notype 'RW 2048 FLAT "raw.img" 0\n'
text missing 'createType="monolithicFlat"\nRW 2048 FLAT "missing.img" 0\n'
text line 'createType="monolithicFlat"\nRW 2048 FLAT "raw.img"\n'
text vmfs 'createType="vmfs"\nRW 2048 VMFS "raw.img"\n'
text vmfs1 'createType="vmfs"\nRW 2048 VMFS "raw.img" 1\n'
text vmfs0 'createType="vmfs"\nRW 2048 VMFS "raw.img" 0\n'
text part 'createType="monolithicFlat"\nRW 1000 FLAT "raw.img" 24\nRW 1000 FLAT "raw.img" 1024\n'
text zeroes 'createType="monolithicFlat"\nRW 1024 FLAT "raw.img" 0\nRW 1024 ZERO\n'
text rdonly 'createType="monolithicFlat"\nRDONLY 2048 FLAT "raw.img" 0\n'
text mixed 'createType="monolithicFlat"\nRW 2048 FLAT "raw.img" 0\nRW 2048 SPARSE "monolithicSparse.vmdk"\n'
printf '# Disk DescriptorFile\nversion=4\n' > four.vmdk
printf '<html>' > html.vmdk
`

const vmdkTable = `
create -f vmdk -o help
create -f vmdk -o help new
create -f vmdk new 10M && info new && map --output=json new && check new
create -f vmdk new 1000 && info new
create -f vmdk new 0 && info new
create -f vmdk new
create -q -f vmdk -o subformat=foo new 1M
create -f vmdk -o adapter_type=foo new 1M
create -f vmdk -o adapter_type=lsilogic new 1M
create -f vmdk -o toolsversion=1,subformat=monolithicSparse,adapter_type=ide,zeroed_grain=on,hwversion=4,compat6=off new 1M
create -f vmdk -o foo=bar new 1M
create -f vmdk -o compat6=on new 1M
create -f vmdk -o compat6=on,hwversion=9 new 1M
create -f vmdk -o hwversion=9,toolsversion=7,zeroed_grain=on new 1M
create -f vmdk -o subformat=monolithicFlat,zeroed_grain=on new 1M
create -f vmdk -o subformat=monolithicFlat -b monolithicSparse.vmdk -F vmdk new
create -f vmdk -o subformat=monolithicFlat new.vmdk 1M && info new.vmdk && map --output=json new.vmdk
create -f vmdk -o subformat=twoGbMaxExtentSparse new.vmdk 5G && info --output=json new.vmdk && map new.vmdk
create -f vmdk -o subformat=twoGbMaxExtentFlat new 3G && info new
create -f vmdk -b raw.img -F raw new
create -f vmdk -b q.qcow2 -F qcow2 new
create -f vmdk -b monolithicSparse.vmdk -F vmdk new && info new && map --output=json new && compare new raw.img
create -f vmdk -b monolithicSparse.vmdk -F vmdk new 2M && map --output=json new
create -f vmdk -b nowhere.vmdk -F vmdk new 1M
create -f vmdk -o preallocation=metadata new 1M
create -f vmdk -o size=2M new && info new
info monolithicSparse.vmdk
info --output=json monolithicSparse.vmdk
info monolithicFlat.vmdk
info --output=json monolithicFlat.vmdk
info twoGbMaxExtentSparse.vmdk
info --output=json twoGbMaxExtentFlat.vmdk
info streamOptimized.vmdk
info --output=json streamOptimized.vmdk
info over.vmdk
info --backing-chain over.vmdk
info --output=json --backing-chain over.vmdk
info changed.vmdk
info -f vmdk raw.img
info -f vmdk tiny.vmdk
info -f vmdk three.vmdk
info version.vmdk
info v3.vmdk
info grain.vmdk
info entries.vmdk
info noentries.vmdk
info capacity.vmdk
info over2.vmdk
info type.vmdk
info notype.vmdk
info missing.vmdk
info line.vmdk
info vmfs.vmdk
info vmfs0.vmdk
info vmfs1.vmdk
info part.vmdk
info --output=json part.vmdk
info zeroes.vmdk
info mixed.vmdk
info four.vmdk
info html.vmdk
info -f vmdk html.vmdk
info --image-opts driver=vmdk,file.filename=monolithicSparse.vmdk
info --image-opts driver=vmdk,file.filename=monolithicSparse.vmdk,bogus=1
info 'json:{"driver":"vmdk","file":{"driver":"file","filename":"monolithicSparse.vmdk"}}'
map monolithicSparse.vmdk
map --output=json monolithicSparse.vmdk
map monolithicFlat.vmdk
map --output=json twoGbMaxExtentSparse.vmdk
map --output=json streamOptimized.vmdk
map streamOptimized.vmdk
map --output=json zero.vmdk
map --output=json over.vmdk
map part.vmdk
check monolithicSparse.vmdk
check --output=json monolithicSparse.vmdk
check monolithicFlat.vmdk
check streamOptimized.vmdk
check -r all monolithicSparse.vmdk
check -r leaks zero.vmdk
check over.vmdk
compare monolithicSparse.vmdk raw.img
compare -s monolithicSparse.vmdk raw.img
compare monolithicFlat.vmdk streamOptimized.vmdk
compare over.vmdk raw.img
compare changed.vmdk raw.img
measure -O vmdk --size 1G
measure -O qcow2 monolithicSparse.vmdk
convert -O vmdk raw.img new && info new && compare new raw.img
convert -O vmdk -o subformat=streamOptimized raw.img new && compare new raw.img && map --output=json new
convert -c -O vmdk raw.img new && compare new raw.img
convert -O vmdk -o subformat=twoGbMaxExtentFlat raw.img new.vmdk && compare new.vmdk raw.img
convert -O vmdk -o subformat=monolithicFlat raw.img new.vmdk && compare new.vmdk raw.img
convert -O vmdk -B monolithicSparse.vmdk -F vmdk over.vmdk new && compare new over.vmdk && map --output=json new
convert -n -O vmdk raw.img odd && compare odd raw.img
convert -O qcow2 over.vmdk new && compare new over.vmdk
convert -O raw twoGbMaxExtentSparse.vmdk new && compare new raw.img
convert changed.vmdk new
dd if=monolithicSparse.vmdk of=new bs=64k count=4
dd -O vmdk if=raw.img of=new bs=64k && compare new raw.img
resize monolithicSparse.vmdk 2M
resize monolithicFlat.vmdk 2M
resize --shrink zero.vmdk 512k
commit over.vmdk && compare monolithicSparse.vmdk raw.img
commit -d over.vmdk
commit over.vmdk && compare over.vmdk monolithicSparse.vmdk && info over.vmdk
commit monolithicSparse.vmdk
rebase -u -b '' over.vmdk
rebase -b raw.img -F raw over.vmdk
snapshot -l monolithicSparse.vmdk
snapshot -c a monolithicSparse.vmdk
amend -f vmdk -o help
amend -o foo=bar monolithicSparse.vmdk
bench -w -c 10 zero.vmdk
bench -c 10 -s 4096 streamOptimized.vmdk
`

// TestVmdkCommands runs command lines by QEMU and by us.
func TestVmdkCommands(t *testing.T) {
	const (
		parent  = "QEMU says no more than 'Invalid argument'"
		dropped = "QEMU leaves extents of zeroes out"
		larger  = "QEMU resizes no image of the format"
		empty   = "QEMU cannot open the image of no length that it makes"
	)
	otherLengths := map[string]string{
		"create -f vmdk -o preallocation=metadata new 1M":                                                          "QEMU leaves an empty file behind",
		"convert -O vmdk -o subformat=streamOptimized raw.img new && compare new raw.img && map --output=json new": "QEMU writes no end of the stream",
	}
	formatSessionsBut(t, vmdkFixtures, vmdkTable, map[string]string{
		"info zeroes.vmdk": dropped, "convert changed.vmdk new": parent, "compare changed.vmdk raw.img": parent,
		"info vmfs0.vmdk":                    "VMware writes the offset",
		"check -r all monolithicSparse.vmdk": "QEMU repairs no image of the format",
		"check -r leaks zero.vmdk":           "QEMU repairs no image of the format",
		"measure -O vmdk --size 1G":          "QEMU does not measure the format",
		"resize monolithicSparse.vmdk 2M":    larger,
		"resize monolithicFlat.vmdk 2M":      larger,
		"resize --shrink zero.vmdk 512k":     larger,
		"create -f vmdk new 0 && info new":   empty,
	}, otherLengths)
}

// TestVmdkForeignParent: what an image lacks cannot be read from a parent that it was not
// made on, and qemu-io says so by the same error; what it has can.
func TestVmdkForeignParent(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	dir := scriptDir(t, tools, vmdkFixtures+`"$IMG" create -q -f vmdk alone.vmdk 1M
"$IO" -f vmdk -c 'write -P 5 64k 64k' alone.vmdk
`)
	ours := filepath.Join(filepath.Dir(tools.ours), "qemu-io")
	if err := os.Symlink(tools.ours, ours); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	for name, options := range map[string]string{
		"modified":          "driver=vmdk,file.filename=changed.vmdk",
		"made without one":  "driver=vmdk,file.filename=alone.vmdk,backing.driver=vmdk,backing.file.filename=monolithicSparse.vmdk",
		"of another format": "driver=vmdk,file.filename=alone.vmdk,backing.driver=raw,backing.file.filename=raw.img",
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"--image-opts", "-r", options, "-c", "read 512k 4k", "-c", "read 0 512"}
			if strings.Contains(options, "alone") {
				args = append(args, "-c", "read -P 5 64k 64k")
			}
			want, got := runIn(t, dir, tools.io, args...), runIn(t, dir, ours, args...)
			for _, o := range []*outcome{&want, &got} {
				o.stdout = figures.ReplaceAllString(o.stdout, "TIME")
			}
			if got != want || !strings.Contains(want.stdout+want.stderr, "Invalid argument") {
				t.Errorf("%+v\nwant %+v", got, want)
			}
		})
	}
}
