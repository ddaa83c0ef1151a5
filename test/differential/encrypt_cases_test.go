package differential

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// encryptDifferences are the command lines in which we differ on purpose.
var encryptDifferences = map[string]string{
	"convert -c -n @ --image-opts driver=raw,file.filename=raw.img --target-image-opts $aes": "QEMU writes compressed clusters into the file unencrypted",
	"resize @ --preallocation=metadata --image-opts $aes 3M":                                 "QEMU leaves decrypted zeroes, which look like noise, where the disk grows",
	"resize @ --preallocation=falloc --image-opts $luks 3M":                                  "QEMU leaves decrypted zeroes, which look like noise, where the disk grows",
}

// encryptTable holds command lines. @ stands for the secrets, $name for the image
// name.qcow2 with its key, $name/id for that with another secret. QEMU takes
// a second to make a LUKS header or a key slot, so that few lines do.
const encryptTable = `
create -f qcow2 -o encrypt.format=aes new 1M
create -f qcow2 -o encryption=on new 1M
create -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encrypt.format=aes,encrypt.key-secret=nope new 1M
create @ -f qcow2 -o encrypt.format=aes,encrypt.key-secret=binary new 1M
create @ -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s new 1M && info new && check new && check @ --image-opts $new
create @ -f qcow2 -o encryption=on,encrypt.key-secret=s,compat=0.10,cluster_size=4k new 1M && info new
create @ -f qcow2 -o encryption=on,encrypt.format=aes,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encryption=off,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encrypt.key-secret=s new 1M
create -f qcow2 -o encrypt.cipher-alg=aes-128 new 1M
create -f qcow2 -o encrypt.iter-time=10 new 1M
create @ -f qcow2 -o encrypt.format=foo,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encrypt.format=aes,encrypt.cipher-alg=aes-128,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encrypt.format=aes,encrypt.iter-time=10,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encrypt.format=luks,encrypt.cipher-alg=foo,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encrypt.format=luks,encrypt.cipher-mode=foo,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encrypt.format=luks,encrypt.hash-alg=foo,encrypt.key-secret=s new 1M
create @ -f qcow2 -o encrypt.format=luks,encrypt.cipher-alg=des,encrypt.key-secret=s new 1M
create -f qcow2 -o encrypt.format=luks new 1M
create @ -f qcow2 -o encrypt.format=luks,encrypt.key-secret=nope new 1M
create @ -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 new 1M && info new && info --output=json new && check @ --image-opts $new
create @ -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,preallocation=metadata,cluster_size=4k new 1M && check @ --image-opts $new
create @ -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,extended_l2=on,preallocation=falloc new 1M && info new
create @ -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s,data_file=new.data new 1M && check @ --image-opts $new
create @ -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s,preallocation=full new 1M && map @ --image-opts $new
create -f qcow2 -b luks.qcow2 -F qcow2 new && info --backing-chain new && map new
create @ -f qcow2 -F qcow2 -b "json:{'driver':'qcow2','encrypt.key-secret':'s','file.filename':'aes.qcow2'}" new && map @ --output=json new

info aes.qcow2
info --output=json aes.qcow2
info luks.qcow2
info --output=json luks.qcow2
info --image-opts driver=qcow2,file.filename=luks.qcow2,encrypt.format=aes
info --image-opts driver=qcow2,file.filename=luks.qcow2,encrypt.format=luks
info --image-opts driver=qcow2,file.filename=plain.qcow2,encrypt.format=luks
info --image-opts driver=qcow2,file.filename=plain.qcow2,encrypt.key-secret=nope
info --image-opts driver=qcow2,file.filename=luks.qcow2,encrypt.key-secret=nope
info --image-opts driver=qcow2,file.filename=luks.qcow2,encrypt.foo=1
info --image-opts driver=qcow2,file.filename=luks.qcow2,encrypt.format=foo
info --backing-chain over.qcow2

check luks.qcow2
check aes.qcow2
check -f qcow2 luks.qcow2
map luks.qcow2
snapshot -l luks.qcow2
measure -O raw luks.qcow2
compare luks.qcow2 aes.qcow2
convert luks.qcow2 -O raw out
dd if=aes.qcow2 of=out
bench -c 1 luks.qcow2
resize luks.qcow2 8M
snapshot -c x luks.qcow2
snapshot -l aes.qcow2
amend -o compat=0.10 luks.qcow2
rebase -u -b '' luks.qcow2
commit luks.qcow2
map over.qcow2
convert -O raw over.qcow2 out

check @ --image-opts $luks
check @ --image-opts $luks/t
check @ --image-opts $luks/nope
check @ --image-opts $luks/binary
check @ --image-opts $aes
check @ --image-opts $aes/nope
check @ --image-opts $plain
check @ --output=json --image-opts $luks
check -r all @ --image-opts $luks
map @ --image-opts driver=qcow2,file.filename=luks.qcow2,encrypt.format=aes,encrypt.key-secret=s
map @ --image-opts driver=qcow2,file.filename=aes.qcow2,encrypt.format=luks,encrypt.key-secret=s
map @ --image-opts driver=qcow2,file.filename=aes.qcow2,encrypt.format=aes,encrypt.key-secret=s
map @ --image-opts driver=qcow2,file.filename=plain.qcow2,encrypt.format=aes,encrypt.key-secret=s
map @ --image-opts driver=qcow2,file.filename=plain.qcow2,encrypt.foo=1
map @ --image-opts driver=qcow2,file.filename=luks.qcow2,encrypt.foo=1,encrypt.key-secret=s
map @ --image-opts $luks
map @ --output=json --image-opts $luks
map @ --output=json --image-opts $aes
map @ --output=json "json:{'driver':'qcow2','encrypt':{'format':'luks','key-secret':'s'},'file':{'driver':'file','filename':'luks.qcow2'}}"
map @ --output=json --image-opts $over,backing.encrypt.key-secret=s
map @ --image-opts $over,backing.encrypt.key-secret=t
snapshot @ -l --image-opts $luks
measure @ -O raw --image-opts $luks
measure @ -O qcow2 --image-opts $aes
measure -O qcow2 -o encrypt.format=luks --size 64M
measure -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s --size 64M
measure -O qcow2 -o encrypt.format=aes --size 64M
measure -O qcow2 -o encryption=on --size 64M
measure @ -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,preallocation=full,cluster_size=512 --size 64M
measure @ -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=foo --size 64M
measure @ -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 raw.img

compare @ --image-opts $luks driver=raw,file.filename=raw.img
compare @ --image-opts $aes $luks
compare @ --image-opts $aes driver=raw,file.filename=other.img
compare @ --image-opts $over,backing.encrypt.key-secret=s driver=raw,file.filename=over.img
convert @ -O raw --image-opts $luks out && compare raw.img out
convert @ -O raw --image-opts $aes out && compare raw.img out
convert @ -O qcow2 --image-opts $aes out && compare raw.img out && check out
convert @ -O qcow2 -c --image-opts $luks out && compare raw.img out && check out
convert @ -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s raw.img out.qcow2 && check @ --image-opts $out && compare @ --image-opts $out driver=raw,file.filename=raw.img && map @ --output=json --image-opts $out
convert @ -O qcow2 -o encrypt.format=luks,encrypt.key-secret=t,encrypt.iter-time=10 raw.img out.qcow2 && check @ --image-opts $out/t && compare @ --image-opts $out/t driver=raw,file.filename=raw.img
convert @ -O qcow2 -o encrypt.format=luks raw.img out.qcow2
convert @ -O qcow2 -o encrypt.format=luks,encrypt.key-secret=nope raw.img out.qcow2
convert @ -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s,preallocation=metadata raw.img out.qcow2 && compare @ --image-opts $out driver=raw,file.filename=raw.img
convert -c -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s raw.img out
convert -c -O qcow2 -o encryption=on,encrypt.key-secret=s raw.img out
convert -n @ --image-opts driver=raw,file.filename=other.img --target-image-opts $aes && compare @ --image-opts $aes driver=raw,file.filename=other.img
convert -n @ --image-opts driver=raw,file.filename=other.img --target-image-opts $luks && compare @ --image-opts $luks driver=raw,file.filename=other.img && check @ --image-opts $luks
convert -c -n @ --image-opts driver=raw,file.filename=raw.img --target-image-opts $aes
convert @ -n --image-opts $aes --target-image-opts $luks && compare @ --image-opts $aes $luks

resize @ --image-opts $aes 3M && check @ --image-opts $aes && map @ --output=json --image-opts $aes
resize @ --image-opts $luks 3M && check @ --image-opts $luks
resize @ --shrink --image-opts $luks 1M && check @ --image-opts $luks && map @ --output=json --image-opts $luks
resize @ --preallocation=metadata --image-opts $aes 3M
resize @ --preallocation=falloc --image-opts $luks 3M
snapshot @ -c x --image-opts $aes && snapshot @ -c y --image-opts $aes && convert -n @ --image-opts driver=raw,file.filename=other.img --target-image-opts $aes && snapshot @ -a x --image-opts $aes && compare @ --image-opts $aes driver=raw,file.filename=raw.img && snapshot @ -d y --image-opts $aes && check @ --image-opts $aes
snapshot @ -c x --image-opts $luks && convert -n @ --image-opts driver=raw,file.filename=other.img --target-image-opts $luks && snapshot @ -a x --image-opts $luks && compare @ --image-opts $luks driver=raw,file.filename=raw.img && check @ --image-opts $luks
commit @ --image-opts $over,backing.encrypt.key-secret=s && compare @ --image-opts $luks driver=raw,file.filename=over.img && check @ --image-opts $luks
rebase @ -u -b luks.qcow2 -F qcow2 --image-opts $aes && info aes.qcow2
rebase @ -b '' --image-opts $over,backing.encrypt.key-secret=s && compare @ --image-opts $over driver=raw,file.filename=over.img && check @ --image-opts $over

amend @ -f qcow2 -o help
amend @ -o encrypt.state=active --image-opts $plain
amend @ -o encrypt.state=active --image-opts $aes
amend @ -o encrypt.state=active --image-opts $luks
amend @ -o encrypt.state=inactive --image-opts $luks
amend @ -o encrypt.state=foo --image-opts $luks
amend @ -o encrypt.new-secret=t --image-opts $luks
amend @ -o encrypt.iter-time=10 --image-opts $luks
amend @ -o encrypt.keyslot=1 --image-opts $luks
amend @ -o encrypt.format=luks --image-opts $luks
amend @ -o encrypt.state=active,encrypt.new-secret=nope --image-opts $luks
amend @ -o encrypt.state=active,encrypt.new-secret=t,encrypt.old-secret=s --image-opts $luks
amend @ -o encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=0 --image-opts $luks
amend @ -o encrypt.state=active,encrypt.new-secret=t,encrypt.keyslot=8 --image-opts $luks
amend @ -o encrypt.state=inactive,encrypt.keyslot=0 --image-opts $luks
amend @ -o encrypt.state=inactive,encrypt.keyslot=3 --image-opts $luks
amend @ -o encrypt.state=inactive,encrypt.keyslot=9 --image-opts $luks
amend @ -o encrypt.state=inactive,encrypt.old-secret=s --image-opts $luks
amend @ -o encrypt.state=inactive,encrypt.old-secret=t --image-opts $luks
amend @ -o encrypt.state=inactive,encrypt.old-secret=s,encrypt.new-secret=t --image-opts $luks
amend @ -o encrypt.state=inactive,encrypt.old-secret=s,encrypt.iter-time=10 --image-opts $luks
amend @ -o encrypt.state=active,encrypt.new-secret=t,encrypt.iter-time=10 --image-opts $luks && map @ --image-opts $luks/t && amend @ -o encrypt.state=inactive,encrypt.old-secret=s --image-opts $luks/t && map @ --image-opts $luks && compare @ --image-opts $luks/t driver=raw,file.filename=raw.img && info luks.qcow2
amend @ --force -o encrypt.state=inactive,encrypt.keyslot=0 --image-opts $luks && map @ --image-opts $luks
amend @ -o compat=0.10 --image-opts $aes && check @ --image-opts $aes && compare @ --image-opts $aes driver=raw,file.filename=raw.img
amend @ -o refcount_bits=64 --image-opts $luks && check @ --image-opts $luks && info luks.qcow2 && compare @ --image-opts $luks driver=raw,file.filename=raw.img
`

const encryptFixtures = `
set -e
SECRET="secret,id=s,data=abc"
printf '\377\376' > binary
truncate -s 2M raw.img
"$IO" -f raw -c 'write -P 5 64k 192k' -c 'write -P 6 1000k 4k' -c 'write -P 9 1030k 3000' raw.img
truncate -s 2M other.img
"$IO" -f raw -c 'write -P 7 0 100k' -c 'write -P 8 1536k 64k' other.img
cp raw.img over.img
"$IO" -f raw -c 'write -P 11 70k 3k' -c 'write -P 12 1100k 200k' over.img
"$IMG" convert -f raw -O qcow2 raw.img plain.qcow2
"$IMG" convert --object $SECRET -f raw -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s raw.img aes.qcow2
"$IMG" convert --object $SECRET -f raw -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 raw.img luks.qcow2
"$IMG" create --object $SECRET -q -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s -b luks.qcow2 -F qcow2 over.qcow2 2M
"$IO" --object $SECRET --image-opts -c 'write -P 11 70k 3k' -c 'write -P 12 1100k 200k' driver=qcow2,file.filename=over.qcow2,encrypt.key-secret=s,backing.encrypt.key-secret=s
`

var encryptImage = regexp.MustCompile(`\$(\w+)(/\w+)?`)

func encryptLine(line string) string {
	line = encryptImage.ReplaceAllStringFunc(line, func(ref string) string {
		name, secret, ok := strings.Cut(ref[1:], "/")
		if !ok {
			secret = "s"
		}
		file := name + ".qcow2"
		if name == "new" {
			file = name
		}
		return "driver=qcow2,file.filename=" + file + ",encrypt.key-secret=" + secret
	})
	return strings.ReplaceAll(line, "@", "--object secret,id=s,data=abc --object secret,id=t,data=def --object secret,id=binary,file=binary")
}

// encryptVolatile are random, measured, or follow from the order in which room is taken.
var encryptVolatile = regexp.MustCompile(`(?m)("?(uuid|iters|master key iters|master-key-iters|image-end-offset|Image end offset)"?: |allocated, )[^,\n]*`)

// TestEncryptedCommands runs command lines by QEMU and by us.
func TestEncryptedCommands(t *testing.T) {
	if testkit.Race {
		t.Skip("only runs programs, which the race detector does not look into")
	}
	tools := needCLI(t)
	base := scriptDir(t, tools, encryptFixtures)
	eachLine(t, encryptTable, encryptDifferences, func(t *testing.T, line string) { encryptSession(t, tools, base, line) })
}

func encryptSession(t *testing.T, tools cliBinaries, base, line string) {
	left, right := copyTree(t, base), copyTree(t, base)
	differs, same := encryptDifferences[line], true
	for _, l := range strings.Split(line, " && ") {
		args := words(strings.ReplaceAll(encryptLine(l), `"`, `'`))
		if strings.Contains(l, `"`) { // a name with single quotes in it
			args = quotedWords(encryptLine(l))
		}
		want, got := runIn(t, left, tools.img, args...), runIn(t, right, tools.ours, args...)
		for _, o := range []*outcome{&want, &got} {
			o.stdout = encryptVolatile.ReplaceAllString(o.stdout, "${1}0")
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
		if same && sameDisks(t, tools, left, right) {
			t.Errorf("%s: listed as an intended difference (%s), but there is none", line, differs)
		}
		return
	}
	l, r := tree(t, left), tree(t, right)
	if strings.Join(l, " ") != strings.Join(r, " ") {
		t.Errorf("files %v, want %v", r, l)
		return
	}
	if !strings.HasPrefix(line, "create") {
		return // rooms are taken in another order; sessions end with a look at the disk
	}
	for _, name := range l {
		a, errA := os.Stat(filepath.Join(left, name))
		b, errB := os.Stat(filepath.Join(right, name))
		if errA != nil || errB != nil || a.Size() != b.Size() {
			t.Errorf("%s: %d bytes, want %d", name, b.Size(), a.Size())
		}
	}
}

// sameDisks compares the images that a line may have changed.
func sameDisks(t *testing.T, tools cliBinaries, left, right string) bool {
	for _, name := range []string{"aes", "luks"} {
		image := func(dir string) string {
			return "driver=qcow2,encrypt.key-secret=s,file.filename=" + filepath.Join(dir, name+".qcow2")
		}
		if o := runIn(t, left, tools.img, "compare", "--object", "secret,id=s,data=abc", "--image-opts", image(left), image(right)); o.code != 0 {
			return false
		}
	}
	return true
}

// quotedWords splits a command line at blanks, with double quotes.
func quotedWords(line string) (out []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}
