package differential

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ioSessions are runs of qemu-io, commands with semicolons between them after the options
// and the name of the image. An @ stands for a copy of the image.
const ioSessions = `
-f qcow2 @a.qcow2 write -P 1 0 64k; read -P 1 0 64k; read -P 2 0 10; read -v 65500 50
-f qcow2 @a.qcow2 write -z 512k 100k; write -z -u 700k 64k; write -n 0 1k; write -u 0 1k; write -z -n 0 64k; map
-f qcow2 @a.qcow2 aio_write 5k 1k 2k; aio_flush; aio_read -P 0xcd 5k 3k; aio_flush; aio_read -P 1 5k 3k; aio_write -z 64k 64k; aio_flush
-f qcow2 @a.qcow2 aio_read -i 0 512; aio_write -i 0 512; aio_write -z 0 1k 2k; aio_write -u 0 1k; aio_write -z -P 3 0 1k; aio_read 0; aio_write -P 1 0
-f qcow2 @a.qcow2 writev -P 7 10k 1k 2k 3k; readv -v -P 7 10k 64 64; readv -P 7 10k 1k 2k 4k; writev 0; writev -f 0 512
-f qcow2 @a.qcow2 length; info; alloc 0; alloc 64k 1M; alloc 2M 512; alloc 1 3; alloc x; alloc 0 1 2; map
-f qcow2 @old.qcow2 info; length; map; truncate 5M; length; truncate 1k; length
-f qcow2 @mid.qcow2 map; alloc 0 1M; read -P 9 256k 64k; read -P 0 320k 64k; read -P 5 64k 64k; discard 256k 64k; map; read -P 0 256k 64k
-f qcow2 @a.qcow2 discard 64k 64k; read -P 0 64k 64k; discard -q 128k 64k; discard 0 4G; discard 2M 1k; discard 0; map
-f qcow2 @a.qcow2 write -c 512k 64k; read -P 0xcd 512k 64k; write -c 512k 64k; write -c 100 64k; write -c 640k 1k; write -c -f 0 64k; write -c -P 3 640k 128k
-f qcow2 @a.qcow2 write 1M 512; write 1023k 2k; read 1M 1; read 2G 1; write 0 3G; read 0 3G; write 0 0; read 0 0; read 1M 0
-f qcow2 @a.qcow2 read 1x 5; read -1 5; read 0x200 0x10; read 1.5k 1k; read 99999999999999999999 1; read 16E 1; read 0 1 2; read 0; read
-f qcow2 @a.qcow2 read -P 300 0 1; read -P -1 0 1; read -P 0x5 64k 1k; read -P 05 64k 1k; read -P x 0 1; read -x 0 1; read -s 1 0 512; read -l 5 0 10
-f qcow2 @a.qcow2 write -b -P 7 64k 64k; read -b -P 7 64k 64k; read -b -P 0 0 64k; read -P 5 64k 64k; map
-f qcow2 @a.qcow2 read -P 5 -s 64k -l 64k 0 200k; read -P 5 -s 300k 0 200k; read -P 5 -l 300k 0 200k; read -b 1 512; read -b 0 1; write -b -z 0 512; write -b 0 5
-f qcow2 @a.qcow2 write -s raw.img 0 100; write -s nowhere 0 100; write -s none.img 0 100; write -s raw.img -P 1 0 1; write -z -P 1 0 1; read -v 0 48
-f qcow2 @a.qcow2 nonsense; help nonsense; sleep x; sleep 1; sleep; quit; length
-f qcow2 @a.qcow2 close; length; close; open -o driver=qcow2 a.qcow2; length; open a.qcow2; close; open -r -o driver=qcow2 a.qcow2; write 0 1; read 0 1
-f qcow2 @a.qcow2 reopen -r; write 0 512; reopen -w; write 0 512; reopen -r -w; reopen x; reopen -c nonsense; reopen -c writeback; write 512 512
-f qcow2 @a.qcow2 break l2_update A; resume A; remove_break A; zone_report 0 1; zone_open 0 512; zone_append x 512; sigraise 200; sigraise x
-f qcow2 -r @a.qcow2 write 0 512; aio_write 0 512; discard 0 512; truncate 2M; read 0 512
-f qcow2 -n -t writeback -d ignore @a.qcow2 write 0 64k; discard 0 64k; read -P 0xcd 0 64k
-f qcow2 -s @a.qcow2 write -P 9 0 64k; read -P 9 0 64k
-f qcow2 -U @a.qcow2 length
-f qcow2 -r -U @a.qcow2 length
-f raw @odd.img length; read 69k 1k; read -v 69996 4; write 70000 1; write 0 70000; map; info; alloc 0 1M; truncate 100k; length
-f raw @raw.img map; length; info; truncate -m full 2M; truncate -m x 2M; truncate 1 2; length; discard 64k 64k; read -P 0 64k 64k
-f raw nowhere.img length
-f nonsense raw.img length
-t nonsense raw.img length
-d nonsense raw.img length
--image-opts driver=qcow2,file.filename=a.qcow2 length; open -o driver=raw raw.img; close; open driver=raw,file.filename=raw.img; length
--image-opts file.filename=a.qcow2 length; info; close; open file.filename=raw.img; length
--image-opts -f raw raw.img length
-f qcow2 @comp.qcow2 map; read -P 5 64k 128k; write 64k 512; read -P 0xcd 64k 512; map
-f qcow2 @ext.qcow2 write -P 4 64k 64k; read -P 3 0 64k; map; info
-f raw json:{"driver":"null-co","size":"1M","read-zeroes":true} read -P 0 0 64k; write 0 64k; length; map
`

// ioDifferences says where ours differs on purpose, and why.
var ioDifferences = map[string]string{
	"-f qcow2 @a.qcow2 aio_read -i 0 512; aio_write -i 0 512; aio_write -z 0 1k 2k; aio_write -u 0 1k; aio_write -z -P 3 0 1k; aio_read 0; aio_write -P 1 0": "QEMU takes -z and -P together and writes zeroes",
}

// figures are the times and rates of a request, which are never the same twice.
var figures = regexp.MustCompile(`[0-9:.]+( sec)? \([^)]*/sec[^)]*\)`)

// TestQemuIO runs qemu-io and ours by that name on the same image, and compares what they
// print, each stream by itself, how they end, and what is in the image then.
func TestQemuIO(t *testing.T) {
	tools := needCLI(t)
	dir := fixtures(t, tools)
	if err := os.WriteFile(filepath.Join(dir, "none.img"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(filepath.Dir(tools.ours), "qemu-io")
	if err := os.Symlink(tools.ours, ours); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	eachLine(t, ioSessions, ioDifferences, func(t *testing.T, line string) {
		args, copied := ioArgs(line)
		var got [2]outcome
		var left [2]string
		for i, program := range []string{tools.io, ours} {
			work := scriptIn(t, t.TempDir(), tools, "cp -r '"+dir+"'/. .")
			got[i] = runIn(t, work, program, args...)
			got[i].stdout = figures.ReplaceAllString(got[i].stdout, "TIME")
			if copied != "" {
				format := args[1]
				runIn(t, work, tools.img, "convert", "-f", format, "-O", "raw", copied, "sum.raw")
				b, err := os.ReadFile(filepath.Join(work, "sum.raw"))
				if err != nil {
					t.Fatal(err)
				}
				left[i] = string(b)
			}
		}
		same := got[0] == got[1] && left[0] == left[1]
		if why := ioDifferences[line]; why != "" {
			if same {
				t.Errorf("they do the same now, and should differ: %s", why)
			}
			return
		}
		if got[0] != got[1] {
			t.Errorf("qemu-io: %d\n%s%s\nours: %d\n%s%s", got[0].code, got[0].stdout, got[0].stderr, got[1].code, got[1].stdout, got[1].stderr)
		}
		if left[0] != left[1] {
			t.Error("the images differ afterwards")
		}
	})
}

// ioArgs makes the arguments of a session, and names the image that it changes.
func ioArgs(line string) (args []string, copied string) {
	words := strings.Fields(line)
	i := 0
	for ; i < len(words); i++ {
		w := words[i]
		if name, ok := strings.CutPrefix(w, "@"); ok {
			args, copied = append(args, name), name
			break
		}
		args = append(args, w)
		if strings.Contains(w, ".") || strings.HasPrefix(w, "json:") {
			break
		}
	}
	for _, c := range strings.Split(strings.Join(words[i+1:], " "), ";") {
		args = append(args, "-c", strings.TrimSpace(c))
	}
	return args, copied
}
