package main

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// path names a file in the working directory.
func (c *config) path(name string) string { return filepath.Join(c.dir, name) }

// makeFixtures builds the images that rows read, unless they are there from an
// earlier run. All are made by QEMU.
func makeFixtures(ctx context.Context, c *config) error {
	disk := c.path("disk.raw")
	// A LUKS volume has no holes: a part of the disk is enough.
	part := c.path("part.raw")
	if err := makePart(ctx, disk, part, 1024); err != nil {
		return err
	}
	if err := c.makeTexts(); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		args []string
	}{
		{"plain.qcow2", []string{"convert", "-f", "raw", "-O", "qcow2", disk}},
		{"zlib.qcow2", []string{"convert", "-f", "raw", "-O", "qcow2", "-c", disk}},
		{"zstd.qcow2", []string{"convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd", disk}},
		{"crypt.qcow2", []string{"convert", "--object", secret, "-f", "raw", "-O", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", disk}},
		{"part.luks", []string{"convert", "--object", secret, "-f", "raw", "-O", "luks", "-o", "key-secret=s,iter-time=10", part}},
	} {
		if _, err := os.Stat(c.path(f.name)); err == nil {
			continue
		}
		tmp := c.path(f.name + ".tmp")
		if err := command(ctx, c.qemu, append(f.args, tmp)...); err != nil {
			return err
		}
		if err := os.Rename(tmp, c.path(f.name)); err != nil {
			return err
		}
	}
	return nil
}

// texts are encodings of random bytes: data without repeats that is not random.
var texts = []struct {
	name   string
	encode func([]byte) []byte
}{
	{"base64", func(p []byte) []byte { return base64.StdEncoding.AppendEncode(nil, p) }},
	{"hex", func(p []byte) []byte { return hex.AppendEncode(nil, p) }},
	{"integers", func(p []byte) []byte {
		var out []byte
		sum := uint32(0)
		for _, b := range p {
			sum += uint32(b)
			out = binary.LittleEndian.AppendUint32(out, sum)
		}
		return out
	}},
}

const textSize = 64 << 20

// makeTexts makes files of texts.
func (c *config) makeTexts() error {
	p := make([]byte, textSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	for _, t := range texts {
		name := c.path(t.name + ".raw")
		if _, err := os.Stat(name); err == nil {
			continue
		}
		if err := os.WriteFile(name, t.encode(p)[:textSize], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// secret is the passphrase of encrypted images.
const secret = "secret,id=s,data=passphrase"

// makePart copies the first part of the disk, so many MiB, unless it is there.
func makePart(ctx context.Context, disk, part string, count int) error {
	if _, err := os.Stat(part); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	tmp := part + ".tmp"
	if err := command(ctx, "dd", "if="+disk, "of="+tmp, "bs=1M", fmt.Sprint("count=", count), "conv=sparse", "status=none"); err != nil {
		return err
	}
	return os.Rename(tmp, part)
}

// makeDisk makes an ext4 file system of the machine's own files, unless it is there: whole
// directories below /usr, until there are 1.5 GiB.
func makeDisk(ctx context.Context, disk string) error {
	if _, err := os.Stat(disk); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	tree := disk + ".tree"
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	script := `set -e; mkdir -p "$1"; for d in /usr/lib/x86_64-linux-gnu /usr/share /usr/bin /usr/lib /usr/local /usr/sbin; do
		[ -d "$d" ] || continue
		cp -a --parents "$d" "$1" 2>/dev/null & pid=$!
		while kill -0 $pid 2>/dev/null; do
			[ "$(du -sm "$1" | cut -f1)" -lt 1500 ] || { kill $pid 2>/dev/null || true; wait $pid || true; break; }
			sleep 0.2
		done
		[ "$(du -sm "$1" | cut -f1)" -lt 1500 ] || break
	done`
	if err := command(ctx, "sh", "-c", script, "sh", tree); err != nil {
		return err
	}
	tmp := disk + ".tmp"
	if err := command(ctx, "mkfs.ext4", "-q", "-F", "-d", tree, tmp, "8G"); err != nil {
		return err
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	return os.Rename(tmp, disk)
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// rows are the lines of the table. Both programs get the same command line
// unless a row says otherwise.
func rows(c *config) []row {
	disk, plain, zlib, zstd := c.path("disk.raw"), c.path("plain.qcow2"), c.path("zlib.qcow2"), c.path("zstd.qcow2")
	out := c.path("out.img")
	both := func(name string, goal float64, args ...string) row {
		r := row{name: name, goal: goal, original: append([]string{c.original}, args...), ours: append([]string{c.ours}, args...)}
		if args[len(args)-1] == out {
			r.out = out
		}
		return r
	}
	list := []row{
		both("convert raw to qcow2", 1.2, "convert", "-f", "raw", "-O", "qcow2", disk, out),
		both("convert qcow2 to raw", 1.2, "convert", "-f", "qcow2", "-O", "raw", plain, out),
		both("convert raw to raw", 1, "convert", "-f", "raw", "-O", "raw", disk, out),
		{name: "convert raw to raw, beside cp --sparse=auto --reflink=never", goal: 1, out: out,
			original: []string{"cp", "--sparse=auto", "--reflink=never", disk, out},
			ours:     []string{c.ours, "convert", "-f", "raw", "-O", "raw", disk, out}},
		both("convert -c raw to qcow2, zlib", 3, "convert", "-c", "-f", "raw", "-O", "qcow2", disk, out),
		both("convert -c raw to qcow2, zstd", 1, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", disk, out),
		both("convert zlib qcow2 to raw", 1.3, "convert", "-f", "qcow2", "-O", "raw", zlib, out),
		both("convert zstd qcow2 to raw", 1.2, "convert", "-f", "qcow2", "-O", "raw", zstd, out),
		both("convert raw to qcow2 with LUKS", 2, "convert", "--object", secret, "-f", "raw", "-O", "qcow2",
			"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", disk, out),
		both("convert qcow2 with LUKS to raw", 2, "convert", "--object", secret, "-O", "raw",
			"--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename="+c.path("crypt.qcow2"), out),
		both("convert 1 GiB raw to luks", 2, "convert", "--object", secret, "-f", "raw", "-O", "luks", "-o", "key-secret=s,iter-time=10", c.path("part.raw"), out),
		both("convert 1 GiB luks to raw", 2, "convert", "--object", secret, "-O", "raw",
			"--image-opts", "driver=luks,key-secret=s,file.filename="+c.path("part.luks"), out),
		both("compare raw with qcow2", 1, "compare", "-f", "raw", "-F", "qcow2", disk, plain),
		both("check qcow2", 1, "check", "-f", "qcow2", plain),
		both("map qcow2", 1, "map", "-f", "qcow2", "--output=json", plain),
		both("map raw", 1, "map", "-f", "raw", "--output=json", disk),
		both("info qcow2", 1, "info", plain),
		both("measure raw for qcow2", 1, "measure", "-f", "raw", "-O", "qcow2", disk),
		both("create 1 TiB, preallocation=metadata", 5, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", out, "1T"),
		both("bench: 200,000 reads of 4 KiB, depth 32", 1, "bench", "-f", "qcow2", "-c", "200000", "-d", "32", "-S", "40960", plain),
	}
	list[len(list)-2].out = out
	for _, t := range texts {
		for _, compression := range []string{"zlib", "zstd"} {
			list = append(list, both(fmt.Sprintf("convert -c 64 MiB of %s, %s", t.name, compression), 1,
				"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type="+compression, c.path(t.name+".raw"), out))
		}
	}
	w := both("bench: 60,000 allocating writes of 4 KiB, depth 32", 1, "bench", "-f", "qcow2", "-w", "-c", "60000", "-d", "32", "-S", "65536", out)
	w.prepare = func() error {
		return command(context.Background(), c.qemu, "create", "-q", "-f", "qcow2", out, "8G")
	}
	return append(list, w)
}
