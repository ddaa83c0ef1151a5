package differential

import (
	"path/filepath"
	"strings"
	"testing"
)

// chainFixtures adds chains of images of many kinds to those of fixtures.
func chainFixtures(t *testing.T, tools cliBinaries) string {
	t.Helper()
	return scriptIn(t, fixtures(t, tools), tools, chainScript)
}

const chainScript = `
set -e
truncate -s 960k base.raw
"$IO" -f raw -c 'write -P 1 0 64k' -c 'write -P 2 512k 96k' -c 'write -P 3 900k 60k' base.raw
"$IMG" create -q -f qcow2 -b base.raw -F raw l1.qcow2 1M
"$IO" -c 'write -P 4 64k 70k' -c 'write -z 512k 64k' -c 'write -P 5 1000k 24k' l1.qcow2
"$IMG" create -q -f qcow2 -o cluster_size=4k -b l1.qcow2 -F qcow2 l2.qcow2 2M
"$IO" -c 'write -P 6 100k 8k' -c 'write -z 900k 8k' -c 'write -P 7 1500k 20k' l2.qcow2
"$IMG" create -q -f qcow2 -o extended_l2=on -b l2.qcow2 -F qcow2 l3.qcow2 1536k
"$IO" -c 'write -P 8 102k 2k' -c 'write -z 0 64k' -c 'write -P 9 1400k 64k' l3.qcow2
"$IMG" create -q -f qcow2 -o compat=0.10 -b base.raw -F raw v2.qcow2
"$IO" -c 'write -P 4 64k 70k' v2.qcow2
"$IMG" create -q -f qcow2 -u -b nope.raw -F raw lost.qcow2 1M
cp base.raw other.raw
"$IO" -f raw -c 'write -P 99 300k 100k' -c 'write -z 512k 32k' other.raw
truncate -s 3M longer.raw
"$IO" -f raw -c 'write -P 98 300k 2000k' longer.raw
truncate -s 128k short.raw
"$IO" -f raw -c 'write -P 97 0 128k' short.raw
"$IMG" create -q -f qcow2 -o data_file=top.data -b base.raw -F raw ext2.qcow2
"$IO" -c 'write -P 4 64k 70k' ext2.qcow2
cp l1.qcow2 snap2.qcow2
"$IMG" snapshot -c one snap2.qcow2
"$IO" -c 'write -P 44 64k 70k' snap2.qcow2
mkdir d
cp base.raw d/base.raw
"$IMG" create -q -f qcow2 -b base.raw -F raw d/o.qcow2
"$IO" -c 'write -P 4 64k 70k' d/o.qcow2
"$IMG" create -q -f qcow2 -b base.raw d/none.qcow2 -F raw -u 1M
"$IMG" create -q -f qcow2 -o lazy_refcounts=on lazy.qcow2 1M
"$IO" -c 'write -P 4 64k 70k' lazy.qcow2
"$IMG" create -q -f qcow2 -o compression_type=zstd zstd.qcow2 1M
"$IMG" create -q -f qcow2 -o refcount_bits=1,cluster_size=8k rc1.qcow2 1M
"$IMG" create -q -f qcow2 -o extended_l2=on ext_l2.qcow2 1M
"$IMG" convert -q -c -O qcow2 -o compression_type=zstd raw.img zstdc.qcow2
"$IMG" create -q -f qcow2 -o data_file=r.data,data_file_raw=on draw.qcow2 1M
"$IMG" create -q -f qcow2 -o cluster_size=512 tiny.qcow2 1M
`

// chainDifferences are the command lines in which we differ on purpose. What
// they leave behind is checked all the same.
var chainDifferences = map[string]string{
	"rebase -c -b other.raw -F raw l3.qcow2": "QEMU fails an assertion on a part of a cluster",
	"rebase -B raw -b other.raw l1.qcow2":    "later versions have the letter",
	"rebase -F raw -B other.raw l1.qcow2":    "later versions have the letter",
}

func TestChainCommands(t *testing.T) {
	tools := needCLI(t)
	base := chainFixtures(t, tools)
	eachLine(t, chainTable, chainDifferences, func(t *testing.T, line string) {
		left, right := copyTree(t, base), copyTree(t, base)
		reason := chainDifferences[line]
		equal := true
		for _, l := range strings.Split(line, " && ") {
			want := runIn(t, left, tools.img, words(l)...)
			got := runIn(t, right, tools.ours, words(l)...)
			same := got.code == want.code && sameOutput(got.stdout, want.stdout) && normal(got.stderr) == normal(want.stderr)
			equal = equal && same
			if !same && reason == "" {
				t.Errorf("%s:\ngot  %d %q %q\nwant %d %q %q", l, got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
			}
		}
		if reason != "" && equal {
			t.Errorf("listed as an intended difference (%s), but there is none", reason)
		}
		if reason == "" {
			sameFiles(t, tools, left, right)
		}
		checkChanged(t, tools, base, right)
	})
}

// checkChanged lets QEMU check the images that a command line changed in dir, a copy of
// base by copyTree.
func checkChanged(t *testing.T, tools cliBinaries, base, dir string) {
	t.Helper()
	for _, name := range tree(t, dir) {
		if !strings.HasSuffix(name, ".qcow2") || strings.HasPrefix(name, "bitmap") {
			continue
		}
		if untouched(filepath.Join(dir, name)) {
			continue
		}
		if same, err := sameData(filepath.Join(base, name), filepath.Join(dir, name)); err == nil && same {
			continue
		}
		res := runIn(t, dir, tools.img, "check", name)
		if res.code > 1 && runIn(t, base, tools.img, "check", name).code == 0 { // 1: what the image names is not there
			t.Errorf("check %s: %s%s", name, res.stdout, res.stderr)
		}
	}
}

const chainTable = `
# commit
commit
commit a b
commit nope
commit --bogus
commit -f raw raw.img
commit raw.img
commit a.qcow2
commit -t bad l1.qcow2
commit -r bad l1.qcow2
commit -b nope l1.qcow2
commit -b base.raw l1.qcow2
commit -b base.raw l2.qcow2
commit -b l1.qcow2 l2.qcow2
commit -b ./l1.qcow2 l3.qcow2
commit -b base.raw l3.qcow2
commit -d l2.qcow2
commit l1.qcow2
commit l2.qcow2
commit l3.qcow2
commit -p l3.qcow2
commit -p -q l3.qcow2
commit -q l2.qcow2 && commit l1.qcow2
commit l3.qcow2 && commit l2.qcow2 && commit l1.qcow2
commit v2.qcow2
commit ext2.qcow2
commit lost.qcow2
commit snap2.qcow2
commit d/o.qcow2
commit -b d/base.raw d/o.qcow2
commit -b base.raw d/o.qcow2
commit --image-opts driver=qcow2,file.filename=l1.qcow2
commit --image-opts -f qcow2 l1.qcow2
commit -f qcow2 l1.qcow2
commit -f bogus l1.qcow2
commit -f raw l1.qcow2
commit -t none l1.qcow2
commit -t unsafe l1.qcow2
commit -t writethrough l1.qcow2
commit -r 1M l1.qcow2
commit -b '' l1.qcow2
commit orphan.qcow2
commit top.qcow2
commit mid.qcow2
commit --object bad l1.qcow2
commit --image-opts driver=raw,file.filename=nope
commit dir
commit ''
commit -U l1.qcow2

# rebase
rebase
rebase a b
rebase l1.qcow2
rebase -b x
rebase --bogus
rebase -b nope -F raw l1.qcow2
rebase -b nope l1.qcow2
rebase -b other.raw l1.qcow2
rebase -b other.raw -F raw l1.qcow2
rebase -b other.raw -F bogus l1.qcow2
rebase -b other.raw -F qcow2 l1.qcow2
rebase -b longer.raw -F raw l1.qcow2
rebase -b short.raw -F raw l1.qcow2
rebase -b '' l1.qcow2
rebase -b '' l2.qcow2
rebase -b '' l3.qcow2
rebase -b base.raw -F raw l2.qcow2
rebase -b base.raw -F raw l3.qcow2
rebase -b l1.qcow2 -F qcow2 l3.qcow2
rebase -b longer.raw -F raw l3.qcow2
rebase -b other.raw -F raw l2.qcow2
rebase -p -b other.raw -F raw l2.qcow2
rebase -p -q -b other.raw -F raw l2.qcow2
rebase -c -b other.raw -F raw l2.qcow2
rebase -c -b other.raw -F raw l1.qcow2
rebase -c -b other.raw -F raw l3.qcow2
rebase -c -b '' l1.qcow2
rebase -c -b x raw.img
rebase -c -u -b x -F raw raw.img
rebase -b x -F raw raw.img
rebase -b other.raw -F raw raw.img
rebase -u -b other.raw -F raw raw.img
rebase -b '' raw.img
rebase -f raw -b '' raw.img
rebase -u -b other.raw -F raw l1.qcow2
rebase -u -b other.raw l1.qcow2
rebase -u l1.qcow2
rebase -u -b '' l1.qcow2
rebase -u -b nope -F qcow2 l1.qcow2
rebase -u -b nope -F bogus l1.qcow2
rebase -u -c -b nope -F raw l1.qcow2
rebase -u -F raw l1.qcow2
rebase -b other.raw -F raw lost.qcow2
rebase -u -b other.raw -F raw lost.qcow2
rebase -b '' lost.qcow2
rebase -b '' v2.qcow2
rebase -b other.raw -F raw v2.qcow2
rebase -b longer.raw -F raw v2.qcow2
rebase -b '' ext2.qcow2
rebase -b other.raw -F raw ext2.qcow2
rebase -b '' snap2.qcow2
rebase -b a.qcow2 -F qcow2 a.qcow2
rebase -b a.qcow2 -F qcow2 draw.qcow2
rebase -u -b a.qcow2 -F qcow2 draw.qcow2
rebase -b '' a.qcow2
rebase -b base.raw -F raw a.qcow2
rebase -b l2.qcow2 -F qcow2 a.qcow2
rebase -t bad -b '' l1.qcow2
rebase -T bad -b '' l1.qcow2
rebase -t none -T none -b '' l1.qcow2
rebase -B raw -b other.raw l1.qcow2
rebase -F raw -B other.raw l1.qcow2
rebase -U -b other.raw -F raw l1.qcow2
rebase -b ../other.raw -F raw d/o.qcow2
rebase -b other.raw -F raw d/o.qcow2
rebase -u -b ../other.raw -F raw d/o.qcow2
rebase --image-opts -b other.raw -F raw driver=qcow2,file.filename=l1.qcow2
rebase --image-opts -f qcow2 -b '' l1.qcow2
rebase -b 'json:{"driver":"raw","file.filename":"other.raw"}' -F raw l1.qcow2
rebase --image-opts -b '' driver=raw,file.filename=base.raw,backing.driver=raw,backing.file.filename=other.raw
rebase --image-opts -b '' driver=raw,file.filename=base.raw,backing=foo
rebase --image-opts -b '' driver=qcow2,file.filename=l1.qcow2,backing=foo
rebase -u --image-opts -b '' driver=qcow2,file.filename=l1.qcow2,backing=foo
rebase -u --image-opts -b '' driver=raw,file.filename=base.raw,backing.driver=raw,backing.file.filename=other.raw
rebase -b file:other.raw -F raw l1.qcow2
rebase -b foo:other.raw -F raw l1.qcow2
rebase -b dir -F raw l1.qcow2
rebase -b corrupt.qcow2 -F qcow2 l1.qcow2
rebase -b orphan.qcow2 -F qcow2 l1.qcow2
rebase -f bogus -b '' l1.qcow2
rebase -f raw -b '' l1.qcow2
rebase nope -b ''
rebase -u -b x -F qcow2qcow2qcow2qcow2 l1.qcow2
rebase --object bad -b '' l1.qcow2
rebase -u -b xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx -F raw l1.qcow2
rebase -u -b yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy -F raw tiny.qcow2
rebase -u -b yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy -F raw tiny.qcow2

# amend
amend
amend a.qcow2
amend -o help
amend -f qcow2 -o help
amend -f raw -o help
amend -f bogus -o help
amend -o help a.qcow2
amend -o help raw.img
amend -o '' a.qcow2
amend -o compat=0.10 a.qcow2 b
amend -o compat=0.10
amend -o compat=0.10 nope
amend -o compat=0.10 raw.img
amend -f raw -o compat=0.10 raw.img
amend -o compat=0.10 a.qcow2
amend -o compat=v2 a.qcow2 && amend -o compat=v3 a.qcow2
amend -o compat=9 a.qcow2
amend -o compat=1.1 a.qcow2
amend -o compat= a.qcow2
amend -o compat=1.1 old.qcow2
amend -o compat=1.1,lazy_refcounts=on old.qcow2
amend -o lazy_refcounts=on old.qcow2
amend -o lazy_refcounts=on a.qcow2
amend -o lazy_refcounts=off lazy.qcow2
amend -o lazy_refcounts=maybe a.qcow2
amend -o compat=0.10 lazy.qcow2
amend -o compat=0.10,lazy_refcounts=on a.qcow2
amend -o refcount_bits=64 a.qcow2
amend -o refcount_bits=1 a.qcow2
amend -o refcount_bits=8 -p a.qcow2
amend -o refcount_bits=3 a.qcow2
amend -o refcount_bits=0 a.qcow2
amend -o refcount_bits=128 a.qcow2
amend -o refcount_bits=x a.qcow2
amend -o refcount_bits=1 snap.qcow2
amend -o refcount_bits=2 snap.qcow2
amend -o refcount_bits=32 snap.qcow2
amend -o refcount_bits=8 old.qcow2
amend -o refcount_bits=8,compat=1.1 old.qcow2
amend -o refcount_bits=16,compat=0.10 rc1.qcow2
amend -o compat=0.10 rc1.qcow2
amend -o refcount_bits=4 comp.qcow2
amend -o refcount_bits=16 rc1.qcow2
amend -o compat=0.10 zstd.qcow2
amend -o compat=0.10 zstdc.qcow2
amend -o compat=0.10 ext_l2.qcow2
amend -o compat=0.10 ext.qcow2
amend -o compat=0.10 bitmap.qcow2
amend -o compat=0.10 snap.qcow2
amend -o compat=0.10 l1.qcow2
amend -o compat=0.10 l2.qcow2
amend -o compat=0.10 mid.qcow2
amend -o compat=1.1 v2.qcow2
amend -o size=4M a.qcow2
amend -o size=64k a.qcow2
amend -o size=100 a.qcow2
amend -o size=0 a.qcow2
amend -o size=x a.qcow2
amend -o size=4M l1.qcow2
amend -o size=4M,compat=0.10 l1.qcow2
amend -o size=4M snap.qcow2
amend -o backing_file=x a.qcow2
amend -o backing_file=base.raw l1.qcow2
amend -o backing_file=base.raw,backing_fmt=raw l1.qcow2
amend -o backing_fmt=raw l1.qcow2
amend -o data_file=x a.qcow2
amend -o data_file=top.data ext2.qcow2
amend -o data_file= ext2.qcow2 && info ext2.qcow2
amend -o data_file=new.data ext.qcow2
amend -o data_file_raw=on ext.qcow2
amend -o data_file_raw=on draw.qcow2
amend -o data_file_raw=off draw.qcow2
amend -o data_file_raw=off a.qcow2
amend -o data_file_raw=on a.qcow2
amend -o encrypt.state=active a.qcow2
amend -o encrypt.format=luks a.qcow2
amend -o cluster_size=4k a.qcow2
amend -o cluster_size=x a.qcow2
amend -o bogus=1 a.qcow2
amend -o preallocation=full a.qcow2
amend -o extended_l2=on a.qcow2
amend -t bad -o compat=1.1 a.qcow2
amend -t none -o compat=0.10 a.qcow2
amend -p -o compat=0.10 a.qcow2
amend -p -o refcount_bits=32 a.qcow2
amend -q -o compat=0.10 a.qcow2
amend --force -o compat=0.10 a.qcow2
amend --bogus -o compat=0.10 a.qcow2
amend --image-opts -o compat=0.10 driver=qcow2,file.filename=a.qcow2
amend --image-opts -f qcow2 -o compat=0.10 a.qcow2
amend -f bogus -o compat=0.10 a.qcow2
amend -o compat=0.10 lost.qcow2
amend -o compat=0.10 -o lazy_refcounts=off a.qcow2
amend --object bad -o compat=0.10 a.qcow2
amend -o compat=0.10 snap2.qcow2
`
