package differential

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// luksDifferences are the command lines in which we differ on purpose.
var luksDifferences = map[string]string{
	"create @ -f luks -o key-secret=s,iter-time=10,detached-header=off new 1M": "QEMU refuses the option that it lists",
	"create @ -f luks -o key-secret=s,iter-time=10,detached-header=on new 1M":  "QEMU refuses the option that it lists",
	"measure @ -O luks --size 1M -o key-secret=s,detached-header=on":           "QEMU refuses the option that it lists",
	"info v2.luks":         "QEMU takes version 2 for raw",
	"info -f luks v2.luks": "QEMU does not support version 2",
}

// luksTable holds command lines. @ stands for the secrets, $name for the image name.luks
// with its key, $name/id for that with another secret. Each runs on images of its own
// if it changes any. QEMU takes seconds to make an image or a key slot, so
// that few lines do.
const luksTable = `
create -f luks -o help
create -f luks -o help new
amend -f luks -o help
create -f luks new 1M
create -f luks -o key-secret=s new 1M
create @ -f luks -o key-secret=nope new 1M
create @ -f luks -o key-secret= new 1M
create @ -f luks -o key-secret=binary new 1M
create @ -f luks -o key-secret=s,iter-time=10 new 8191P
create @ -f luks -o key-secret=s,cipher-alg=foo new 1M
create @ -f luks -o key-secret=s,cipher-mode=foo new 1M
create @ -f luks -o key-secret=s,ivgen-alg=foo new 1M
create @ -f luks -o key-secret=s,ivgen-hash-alg=foo new 1M
create @ -f luks -o key-secret=s,hash-alg=foo new 1M
create @ -f luks -o cipher-alg=foo new 1M
create @ -f luks -o iter-time=ten,key-secret=s new 1M
create @ -f luks -o key-secret=s,cipher-alg=3des,iter-time=10 new 1M
create @ -f luks -o key-secret=s,cipher-alg=des,iter-time=10 new 1M
create @ -f luks -o key-secret=s,cipher-alg=sm4,iter-time=10 new 1M
create @ -f luks -o key-secret=s,cipher-alg=cast5-128,iter-time=10 new 1M
create @ -f luks -o key-secret=s,cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=essiv,iter-time=10 new 1M
create @ -f luks -o key-secret=s,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha1,iter-time=10 new 1M
create @ -f luks -o key-secret=s,cipher-alg=serpent-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha512 new 1M
create @ -f luks -o key-secret=s,cipher-alg=twofish-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=ripemd160 new 1M
create @ -f luks -o key-secret=s,preallocation=bogus,iter-time=10 new 1M
create @ -f luks -o key-secret=s,foo=bar new 1M
create @ -f luks -o key-secret=s new
create @ -f luks -o key-secret=s -b raw.img -F raw new
create @ -f luks -o key-secret=s,iter-time=10,detached-header=off new 1M
create @ -f luks -o key-secret=s,iter-time=10,detached-header=on new 1M
create @ -f luks -o key-secret=s,iter-time=10,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,preallocation=falloc new 1000 && info new && info --output=json new

info one.luks
info --output=json one.luks
info two.luks
info @ --image-opts $one
info @ --image-opts $one/nope
info --image-opts driver=luks,file.filename=one.luks,key-secret=nope
info --image-opts driver=luks,file.filename=one.luks,bogus=1
info -f luks raw.img
info -f raw one.luks
info v2.luks
info -f luks v2.luks
info cut.luks
info -f luks tiny.luks
info tiny.luks
info short.luks
info odd.luks
info nul.luks
info stripes.luks
info overlap.luks
info payload.luks
info inheader.luks
info state.luks
info noiters.luks
info nomaster.luks
info cipher.luks
info keysize.luks
info hash.luks
info mode.luks
info nomode.luks
info ivgen.luks
info ivhash.luks
info noivhash.luks

check one.luks
check @ --image-opts $one
check @ --image-opts $one/t
check @ -r all --image-opts $one

map one.luks
map @ --image-opts $one
map @ --output=json --image-opts $one
map @ --output=json --image-opts $odd

compare @ --image-opts $one driver=raw,file.filename=raw.img
compare @ -s --image-opts $one driver=raw,file.filename=raw.img
compare @ --image-opts $one $two
compare @ --image-opts $two $two/t
compare @ --image-opts $two/u $two/t
compare one.luks raw.img

measure -O luks --size 1G
measure @ -O luks --size 1G -o key-secret=nope
measure @ -O luks --size 1M -o key-secret=s,cipher-alg=foo
measure @ -O luks --size 1M -o key-secret=s,foo=bar
measure @ -O luks --size 1M -o key-secret=s,detached-header=on
measure @ -O qcow2 --image-opts $one
measure @ -O raw --image-opts $one

resize one.luks 2M
resize @ --image-opts $one 2M
resize @ --image-opts $one +512k && info one.luks
resize @ --image-opts $one 512k
resize @ --shrink --image-opts $one 512k && info one.luks
resize @ --image-opts $one 1048577 && info one.luks && map @ --output=json --image-opts $one
resize @ --preallocation=full --image-opts $one 2M
resize @ --preallocation=metadata --image-opts $one 2M
resize @ --preallocation=full --image-opts $one 1M
resize @ --shrink --image-opts $one 0

convert one.luks out
convert @ --image-opts $one -O raw out
convert @ --image-opts $one -O qcow2 out
convert @ --image-opts $one/t -O raw out
convert @ --image-opts $one/nope -O raw out
convert -O luks raw.img out
convert @ -O luks -o key-secret=s,cipher-alg=foo raw.img out
convert @ -c -O luks -o key-secret=s,iter-time=10 raw.img out
convert @ -n --target-image-opts raw.img $one && compare @ --image-opts driver=raw,file.filename=raw.img $one
convert @ -n --target-image-opts raw.img $one/t
convert @ -c -n --target-image-opts raw.img $one
convert @ -O luks -o key-secret=s,iter-time=10 raw.img out && compare @ --image-opts driver=raw,file.filename=raw.img $out
dd if=one.luks of=out bs=512

snapshot -l one.luks
snapshot @ -l --image-opts $one
commit @ --image-opts $one
amend one.luks
amend -o state=inactive,keyslot=0 one.luks
amend @ --image-opts -o new-secret=t $two
amend @ --image-opts -o state=foo $two
amend @ --image-opts -o state=active $two
amend @ --image-opts -o state=active,new-secret=t,old-secret=s $two
amend @ --image-opts -o state=active,new-secret=nope $two
amend @ --image-opts -o state=active,new-secret=binary $two
amend @ --image-opts -o state=active,new-secret=t,keyslot=0 $two
amend @ --image-opts -o state=active,new-secret=t,keyslot=8 $two
amend @ --image-opts -o state=active,new-secret=t,keyslot=-1 $two
amend @ --image-opts -o state=active,new-secret=t,keyslot=x $two
amend @ --image-opts -o size=4M,state=active,new-secret=t $two
amend @ --image-opts -o cipher-alg=aes-128 $two
amend @ --image-opts -o foo=bar $two
amend @ --image-opts -o state=active,new-secret=t $two/u
amend @ --image-opts -o state=inactive $two
amend @ --image-opts -o state=inactive,new-secret=t $two
amend @ --image-opts -o state=inactive,keyslot=0,iter-time=10 $two
amend @ --image-opts -o state=inactive,keyslot=8 $two
amend @ --image-opts -o state=inactive,keyslot=5 $two
amend @ --force --image-opts -o state=inactive,keyslot=5 $two && info two.luks
amend @ --image-opts -o state=inactive,keyslot=5,old-secret=s $two
amend @ --image-opts -o state=inactive,keyslot=0,old-secret=t $two
amend @ --force --image-opts -o state=inactive,keyslot=0,old-secret=t $two
amend @ --image-opts -o state=inactive,old-secret=u $two
amend @ --image-opts -o state=inactive,old-secret=nope $two
amend @ --image-opts -o state=inactive,old-secret=t $two && info two.luks && amend @ --image-opts -o state=inactive,old-secret=t $two
amend @ --image-opts -o state=inactive,old-secret=s $two && info two.luks && info @ --image-opts $two
amend @ --image-opts -o state=inactive,keyslot=1 $two && amend @ --image-opts -o state=inactive,keyslot=0 $two && amend @ --image-opts -o state=inactive,old-secret=s $two
amend @ --force --image-opts -o state=inactive,keyslot=0 $one && info one.luks && compare @ --image-opts $one $one
amend @ --force --image-opts -o state=inactive,old-secret=s $one && info one.luks
amend @ --image-opts -o state=active,new-secret=t,keyslot=7,iter-time=0 $one && info one.luks && compare @ --image-opts $one $one/t
`

var luksFixtures = `
set -e
truncate -s 1M raw.img
"$IO" -f raw -c 'write -P 5 64k 128k' -c 'write -P 6 1000k 4k' raw.img
SECRETS='--object secret,id=s,data=abc --object secret,id=t,data=def'
"$OURS" convert $SECRETS -O luks -o key-secret=s,iter-time=0 raw.img one.luks
cp one.luks two.luks
"$OURS" amend $SECRETS --image-opts -o state=active,new-secret=t,iter-time=0 driver=luks,file.filename=two.luks,key-secret=s
printf '\377\376' > binary
head -c 2000000 one.luks > cut.luks
head -c 500 one.luks > tiny.luks
head -c 100000 one.luks > short.luks
head -c 3000000 one.luks > odd.luks
patch() { head -c 4096 one.luks > $1.luks; printf "$3" | dd of=$1.luks bs=1 seek=$2 conv=notrunc status=none; }
patch v2 6 '\000\002'
patch nul 8 '12345678901234567890123456789012'
patch stripes 300 '\001'
patch overlap 296 '\000\000\000\010'
patch payload 104 '\000\000\000\377'
patch inheader 248 '\000\000\000\001'
patch state 256 '\001'
patch noiters 212 '\000\000\000\000'
patch nomaster 164 '\000\000\000\000'
patch cipher 8 'rot13\000'
patch keysize 111 '\060'
patch hash 72 'whirlpool\000'
patch mode 40 'lrw-plain64\000'
patch nomode 40 'xts\000'
patch ivgen 40 'xts-benbi\000'
patch ivhash 40 'xts-plain64:foo\000'
patch noivhash 40 'cbc-essiv\000'
`

var luksImage = regexp.MustCompile(`\$(\w+)(/\w+)?`)

func luksLine(line string) string {
	line = luksImage.ReplaceAllStringFunc(line, func(ref string) string {
		name, secret, ok := strings.Cut(ref[1:], "/")
		if !ok {
			secret = "s"
		}
		file := name + ".luks"
		if name == "out" {
			file = name
		}
		return "driver=luks,file.filename=" + file + ",key-secret=" + secret
	})
	return strings.ReplaceAll(line, "@", "--object secret,id=s,data=abc --object secret,id=t,data=def --object secret,id=u,data=other --object secret,id=binary,file=binary")
}

// luksVolatile are random, or measured.
var luksVolatile = regexp.MustCompile(`(?m)("?(uuid|iters|master key iters|master-key-iters)"?: )[^,\n]*`)

func luksNormal(s string) string { return luksVolatile.ReplaceAllString(s, "${1}0") }

// TestLUKSCommands runs command lines by QEMU and by us.
func TestLUKSCommands(t *testing.T) {
	tools := needCLI(t)
	base := scriptDir(t, tools, luksFixtures)
	eachLine(t, luksTable, luksDifferences, func(t *testing.T, line string) { luksSession(t, tools, base, line) })
}

func luksSession(t *testing.T, tools cliBinaries, base, line string) {
	left, right := base, base
	if !readOnlyLine(line) {
		left, right = copyTree(t, base), copyTree(t, base)
	}
	differs := luksDifferences[line]
	same := true
	for _, l := range strings.Split(line, " && ") {
		args := words(luksLine(l))
		want, got := runIn(t, left, tools.img, args...), runIn(t, right, tools.ours, args...)
		for _, o := range []*outcome{&want, &got} {
			o.stdout = luksNormal(o.stdout)
		}
		if got.code == want.code && sameOutput(got.stdout, want.stdout) && normal(got.stderr) == normal(want.stderr) {
			continue
		}
		same = false
		if differs == "" {
			t.Errorf("%s:\nexit code %d\n%s%s\nwant %d\n%s%s", l, got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
		}
	}
	if differs != "" {
		if same {
			t.Errorf("%s: listed as an intended difference (%s), but there is none", line, differs)
		}
		return
	}
	if left == base {
		return
	}
	l, r := tree(t, left), tree(t, right)
	if strings.Join(l, " ") != strings.Join(r, " ") {
		t.Errorf("files %v, want %v", r, l)
		return
	}
	for _, name := range l {
		a, errA := os.Stat(filepath.Join(left, name))
		b, errB := os.Stat(filepath.Join(right, name))
		if errA != nil || errB != nil || a.Size() != b.Size() {
			t.Errorf("%s: %v, %v", name, a, b)
		}
	}
}
