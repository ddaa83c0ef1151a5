package qcow2_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

var keys = secrets{"s": "abc", "t": "another passphrase"}

var keyArgs = []string{"--object", "secret,id=s,data=abc", "--object", "secret,id=t,data=another passphrase"}

// createEncrypted makes an image with us.
func createEncrypted(t testing.TB, path, format string, size int64, options opts.Dict) {
	t.Helper()
	o := opts.Dict{"encrypt.format": format, "encrypt.key-secret": "s"}
	if format == "luks" {
		o["encrypt.iter-time"] = "0"
	}
	for k, v := range options {
		o[k] = v
	}
	err := block.Create(context.Background(), registry(), block.CreateRequest{Filename: path, Format: "qcow2", Size: size,
		Options: o, Gate: driver.AllowAll, Objects: keys})
	if err != nil {
		t.Fatal(err)
	}
}

func openEncrypted(path string, write bool, more opts.Dict) (*block.Image, error) {
	o := opts.Dict{"encrypt.key-secret": "s"}
	for k, v := range more {
		o[k] = v
	}
	oo := openOpts(write)
	oo.Objects = keys
	return block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2", Options: o}, oo)
}

func mustOpenEncrypted(t testing.TB, path string, write bool, more opts.Dict) *block.Image {
	t.Helper()
	img, err := openEncrypted(path, write, more)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

const marker = "plain text, of which nothing may be seen: "

// marked fills p with text that is looked for afterwards.
func marked(p []byte, tag int) {
	text := fmt.Sprintf("%s%08d ", marker, tag)
	for i := range p {
		p[i] = text[i%len(text)]
	}
}

// seesPlainText looks for a piece of the marker, as short as a cipher block.
func seesPlainText(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+12 <= len(marker); i += 3 {
			if at := bytes.Index(b, []byte(marker[i:i+12])); at >= 0 {
				t.Fatalf("plain text in %s at %d: %q", e.Name(), at, b[max(0, at-20):min(len(b), at+40)])
			}
		}
	}
}

var encryptVariants = []struct {
	name, format string
	size         int64
	options      opts.Dict
	backing      bool
}{
	{name: "aes", format: "aes", size: 4 << 20},
	{name: "aes v2 512", format: "aes", size: 1<<20 + 512, options: opts.Dict{"compat": "0.10", "cluster_size": "512"}},
	{name: "aes 4k backing", format: "aes", size: 2<<20 + 1536, options: opts.Dict{"cluster_size": "4k"}, backing: true},
	{name: "aes extended backing", format: "aes", size: 4 << 20, options: opts.Dict{"extended_l2": "on", "cluster_size": "16k"}, backing: true},
	{name: "aes data file", format: "aes", size: 2 << 20, options: opts.Dict{"data_file": "data.raw"}},
	{name: "luks", format: "luks", size: 4 << 20},
	{name: "luks v2 backing", format: "luks", size: 2 << 20, options: opts.Dict{"compat": "0.10", "cluster_size": "4k"}, backing: true},
	{name: "luks extended backing", format: "luks", size: 4<<20 + 1024, options: opts.Dict{"extended_l2": "on"}, backing: true},
	{name: "luks 512 cbc", format: "luks", size: 1 << 20, options: opts.Dict{"cluster_size": "512", "encrypt.cipher-mode": "cbc", "encrypt.ivgen-alg": "essiv"}},
	{name: "luks 2M", format: "luks", size: 12 << 20, options: opts.Dict{"cluster_size": "2M"}},
	{name: "luks data file", format: "luks", size: 2 << 20, options: opts.Dict{"data_file": "data.raw", "extended_l2": "on"}},
}

// encryptedDisk is an image with what it should hold.
type encryptedDisk struct {
	t    testing.TB
	r    *rand.Rand
	dir  string
	path string
	open opts.Dict
	m    *testkit.Model
	tag  int
}

func newEncryptedDisk(t testing.TB, i int) *encryptedDisk {
	v := encryptVariants[i]
	d := &encryptedDisk{t: t, r: testkit.Rand(uint64(i)), dir: t.TempDir(), m: testkit.NewModel(v.size)}
	d.path = filepath.Join(d.dir, "disk.qcow2")
	o := opts.Dict{}
	for k, x := range v.options {
		o[k] = x
	}
	if f := o["data_file"]; f != nil {
		o["data_file"] = filepath.Join(d.dir, f.(string))
	}
	if v.backing {
		// The backing file is encrypted as well, by the other method and another key.
		base, other := filepath.Join(d.dir, "base.qcow2"), "aes"
		if v.format == "aes" {
			other = "luks"
		}
		createEncrypted(t, base, other, v.size*3/4&^511, opts.Dict{"encrypt.key-secret": "t"})
		img := mustOpenEncrypted(t, base, true, opts.Dict{"encrypt.key-secret": "t"})
		for range 6 {
			d.write(img, img.Size())
		}
		closeImage(t, img)
		o["backing_file"], o["backing_fmt"] = base, "qcow2"
		d.open = opts.Dict{"backing.encrypt.key-secret": "t"}
	}
	createEncrypted(t, d.path, v.format, v.size, o)
	return d
}

// span picks a range, most often a small one that is not aligned.
func (d *encryptedDisk) span(size int64) (off, n int64) {
	n = 1 + d.r.Int64N(9000)
	switch d.r.IntN(6) {
	case 0:
		n = 1 + d.r.Int64N(400000)
	case 1:
		n = (1 + d.r.Int64N(100)) * 512
	}
	n = min(n, size)
	off = d.r.Int64N(size - n + 1)
	if n%512 == 0 {
		off &^= 511
	}
	return off, n
}

func (d *encryptedDisk) write(img *block.Image, size int64) {
	d.t.Helper()
	off, n := d.span(size)
	p := make([]byte, n)
	marked(p, d.tag)
	d.tag++
	if _, err := img.WriteAt(context.Background(), p, off); err != nil {
		d.t.Fatal(err)
	}
	d.m.Write(p, off)
}

// change does something to the disk.
func (d *encryptedDisk) change(img *block.Image) {
	d.t.Helper()
	ctx := context.Background()
	size := img.Size()
	switch d.r.IntN(10) {
	case 0, 1:
		off, n := d.span(size)
		if err := img.WriteZeroes(ctx, off, n, driver.ZeroFlags(d.r.IntN(2))*driver.ZeroMayUnmap); err != nil {
			d.t.Fatal(err)
		}
		d.m.Zero(off, n)
	case 2:
		more := d.r.Int64N(200) * 512
		if err := img.Resize(ctx, size+more, driver.ResizeOptions{Prealloc: []driver.Prealloc{"", "metadata", "falloc", "full"}[d.r.IntN(4)]}); err != nil {
			d.t.Logf("resize: %v", err)
			return // preallocation is not for every image
		}
		d.m.Resize(size + more)
	default:
		d.write(img, size)
	}
}

// verify compares the disk with the model, by us and by QEMU.
func (d *encryptedDisk) verify() {
	d.t.Helper()
	img := mustOpenEncrypted(d.t, d.path, false, d.open)
	p := make([]byte, img.Size())
	if _, err := img.ReadAt(context.Background(), p, 0); err != nil {
		d.t.Fatal(err)
	}
	closeImage(d.t, img)
	if diff := d.m.Diff(p, 0); diff != "" {
		d.t.Fatal(diff)
	}
	seesPlainText(d.t, d.dir)
	if !testkit.Installed("qemu-img") {
		return
	}
	plain := filepath.Join(d.t.TempDir(), "plain.raw")
	if err := os.WriteFile(plain, p, 0o600); err != nil {
		d.t.Fatal(err)
	}
	testkit.Run(d.t, "qemu-img", append(append([]string{"compare"}, keyArgs...), "--image-opts", d.image(), "driver=raw,file.filename="+plain)...)
	testkit.Run(d.t, "qemu-img", append(append([]string{"check"}, keyArgs...), "--image-opts", d.image())...)
}

func (d *encryptedDisk) image() string {
	s := "driver=qcow2,encrypt.key-secret=s,file.filename=" + d.path
	for k, v := range d.open {
		s += "," + k + "=" + v.(string)
	}
	return s
}

// TestEncryptedDisks changes encrypted disks at random, by us and by QEMU,
// and looks for plain text in the files.
func TestEncryptedDisks(t *testing.T) {
	for i, v := range encryptVariants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			if i%3 != 0 && (testing.Short() || testkit.Race) {
				t.Skip("some kinds of image are enough here")
			}
			d := newEncryptedDisk(t, i)
			for round := range 2 {
				img := mustOpenEncrypted(t, d.path, true, d.open)
				for range 25 {
					d.change(img)
				}
				if s, ok := img.Tree().Node().(driver.Snapshotter); ok && round == 0 {
					if _, err := s.CreateSnapshot(context.Background(), driver.SnapshotRequest{Name: "s"}); err != nil {
						t.Logf("snapshot: %v", err)
					}
				}
				closeImage(t, img)
				d.verify()
				d.changeByOriginal()
			}
			d.verify()
		})
	}
}

// changeByOriginal lets qemu-io write.
func (d *encryptedDisk) changeByOriginal() {
	d.t.Helper()
	if !testkit.Installed("qemu-io") {
		return
	}
	args := append([]string{}, keyArgs...)
	for range 6 {
		off, n := d.span(d.m.Size())
		off, n = off&^511, min((n+511)&^511, d.m.Size()-off&^511)
		b := byte(1 + d.r.IntN(255))
		args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", b, off, n))
		d.m.Write(bytes.Repeat([]byte{b}, int(n)), off)
	}
	out := testkit.Run(d.t, "qemu-io", append(args, "--image-opts", d.image())...)
	if strings.Contains(out, "failed") {
		d.t.Fatal(out)
	}
}

// Compressed clusters would lie in the file as they are.
func TestEncryptedCompressed(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	createEncrypted(t, path, "aes", 1<<20, nil)
	img := mustOpenEncrypted(t, path, true, nil)
	defer closeImage(t, img)
	if img.CanCompress() {
		t.Error("an encrypted image says that it takes compressed clusters")
	}
	err := img.Tree().Node().(driver.Compressor).WriteEncoded(ctx, 0, []byte(marker))
	if err == nil || !strings.Contains(words.Text(err), "Compression and encryption not supported at the same time") {
		t.Errorf("WriteEncoded: %v", err)
	}
}

// Without a key nothing of the disk is seen, and nothing can be changed.
func TestEncryptedNoKey(t *testing.T) {
	ctx := context.Background()
	for _, format := range []string{"aes", "luks"} {
		path := filepath.Join(t.TempDir(), "a.qcow2")
		createEncrypted(t, path, format, 1<<20, nil)
		img := mustOpenEncrypted(t, path, true, nil)
		p := make([]byte, 5000)
		marked(p, 1)
		if _, err := img.WriteAt(ctx, p, 777); err != nil {
			t.Fatal(err)
		}
		closeImage(t, img)
		o := openOpts(false)
		o.Use.NoIO = true
		img, err := block.Open(ctx, registry(), block.Source{Filename: path, Format: "qcow2"}, o)
		if err != nil {
			t.Fatal(err)
		}
		const want = "Parameter 'encrypt.key-secret' is required for cipher"
		if _, err := img.ReadAt(ctx, p, 0); err == nil || !strings.Contains(words.Text(err), want) {
			t.Errorf("%s: read without a key: %v", format, err)
		}
		closeImage(t, img)
		for id, want := range map[string]string{"": want, "none": "No secret with id 'none'"} {
			if _, err := openEncrypted(path, false, opts.Dict{"encrypt.key-secret": id}); err == nil || !strings.Contains(words.Text(err), want) {
				t.Errorf("%s, key %q: %v", format, id, err)
			}
		}
		img, err = openEncrypted(path, false, opts.Dict{"encrypt.key-secret": "t"})
		if format == "luks" {
			if err == nil || !strings.Contains(words.Text(err), "Invalid password, cannot unlock any keyslot") {
				t.Errorf("wrong key: %v", err)
			}
			continue
		}
		// Method 1 has nothing to tell a wrong key by.
		if err != nil {
			t.Fatal(err)
		}
		if _, err := img.ReadAt(ctx, p, 777); err != nil || bytes.Contains(p, []byte(marker)) {
			t.Errorf("wrong key: %v", err)
		}
		closeImage(t, img)
	}
}
