package differential

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// formatSessions runs the lines of a table by QEMU and by us, on the files that
// a script makes. Lines of a session are separated by " && ". A line that changes
// something gets files of its own, which have the same names and lengths afterwards.
func formatSessions(t *testing.T, script, table string, differences map[string]string) {
	formatSessionsBut(t, script, table, differences, nil)
}

// formatSessionsBut is formatSessions with reasons for lines after which the lengths of
// files are others.
func formatSessionsBut(t *testing.T, script, table string, differences, otherLengths map[string]string) {
	tools := needCLI(t)
	base := scriptDir(t, tools, script)
	eachLine(t, table, differences, func(t *testing.T, line string) {
		left, right := base, base
		if !readOnlyLine(line) {
			left, right = copyTree(t, base), copyTree(t, base)
		}
		same := true
		for _, l := range strings.Split(line, " && ") {
			want, got := runIn(t, left, tools.img, words(l)...), runIn(t, right, tools.ours, words(l)...)
			want.stdout, got.stdout = randomIDs.ReplaceAllString(want.stdout, "${1}0"), randomIDs.ReplaceAllString(got.stdout, "${1}0")
			if got.code == want.code && sameOutput(got.stdout, want.stdout) && sameMessage(got.stderr, want.stderr) {
				continue
			}
			same = false
			if differences[line] == "" {
				t.Errorf("%s:\nexit code %d\n%s%s\nwant %d\n%s%s", l, got.code, got.stdout, got.stderr, want.code, want.stdout, want.stderr)
			}
		}
		if why := differences[line]; why != "" {
			if same {
				t.Errorf("%s: listed as an intended difference (%s), but there is none", line, why)
			}
			return
		}
		if left != base && otherLengths[line] == "" {
			sameLengths(t, left, right)
		}
	})
}

// randomIDs are those that each new image, or each change of one, gets anew.
var randomIDs = regexp.MustCompile(`(\bcid"?: )\d+`)

// sameMessage compares what was said on standard error. Drivers begin their messages
// with a small letter.
func sameMessage(got, want string) bool { return strings.EqualFold(normal(got), normal(want)) }

// beginsWith reports whether a file begins with a text. It reads no more than that: some of
// the files have gigabytes of holes.
func beginsWith(path, text string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, len(text))
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == text
}

// sameLengths compares the names and lengths of the files that two runs left behind.
func sameLengths(t *testing.T, left, right string) {
	t.Helper()
	l, r := tree(t, left), tree(t, right)
	if strings.Join(l, " ") != strings.Join(r, " ") {
		t.Errorf("files %v, want %v", r, l)
		return
	}
	for _, name := range l {
		if beginsWith(filepath.Join(left, name), "# Disk DescriptorFile") {
			continue // its ID has no fixed number of digits
		}
		a, errA := os.Stat(filepath.Join(left, name))
		b, errB := os.Stat(filepath.Join(right, name))
		if errA != nil || errB != nil || a.Size() != b.Size() {
			t.Errorf("%s: %v, %v", name, a, b)
		}
	}
}

// readOnlyTable has the lines that hold for every format that is only read: FORMAT is
// its name and IMAGE an image of 1 MiB, raw.img the disk in it, and odd another disk.
const readOnlyTable = `
info IMAGE
info --output=json IMAGE
info -f FORMAT IMAGE
info -f FORMAT raw.img
info -f raw IMAGE
info --backing-chain IMAGE
info -U IMAGE
info --image-opts driver=FORMAT,file.filename=IMAGE
info --image-opts driver=FORMAT,file.filename=IMAGE,bogus=1
info 'json:{"driver":"FORMAT","file":{"driver":"file","filename":"IMAGE"}}'
info --image-opts driver=FORMAT,file.driver=raw,file.file.filename=IMAGE
info -f FORMAT nope
check IMAGE
check -r all IMAGE
check --output=json IMAGE
compare IMAGE raw.img
compare -f FORMAT -F raw IMAGE raw.img
compare IMAGE IMAGE
compare IMAGE odd
compare odd IMAGE
compare -q IMAGE odd
create -f FORMAT new 1M
create -f FORMAT -o help
create -f FORMAT -o foo=bar new 1M
create -f qcow2 -b IMAGE -F FORMAT new && info new && compare new raw.img
create -f qcow2 -b IMAGE -F FORMAT new 2M && map --output=json new
measure -O qcow2 IMAGE
measure -O raw IMAGE
measure -O FORMAT --size 1M
convert IMAGE out && compare out raw.img
convert -O raw IMAGE out
convert -O qcow2 IMAGE out && compare out raw.img
convert -f FORMAT -O raw -m 16 -W IMAGE out
convert -O FORMAT raw.img out
convert -n -O FORMAT raw.img IMAGE
convert -l snapshot.name=a IMAGE out
convert -p -O raw IMAGE out
dd if=IMAGE of=out bs=4k count=3 skip=5
dd -f FORMAT -O raw if=IMAGE of=out bs=1k
dd -f raw -O FORMAT if=raw.img of=out
bench -c 10 -s 4096 IMAGE
bench -w -c 10 IMAGE
resize IMAGE 2M
resize -f FORMAT IMAGE +1M
resize --shrink IMAGE 512k
snapshot -l IMAGE
snapshot -c a IMAGE
snapshot -a a IMAGE
snapshot -d a IMAGE
commit IMAGE
commit -f FORMAT IMAGE
rebase -u -b '' IMAGE
rebase -b raw.img -F raw IMAGE
amend -f FORMAT -o help
amend -o foo=bar IMAGE
amend -f FORMAT -o size=2M IMAGE
bitmap --add IMAGE b
bitmap --remove -f FORMAT IMAGE b
`

// readOnlyLines is readOnlyTable for one format and image.
func readOnlyLines(format, image string) string {
	return strings.NewReplacer("FORMAT", format, "IMAGE", image).Replace(readOnlyTable)
}
