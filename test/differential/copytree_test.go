package differential

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// copied is the time of change of all files that copyTree makes: a file that has another
// one was written.
var copied = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)

// untouched reports whether a file is as copyTree made it, without a look at its data.
// Otherwise it may still be the same: it was opened for writing by somebody who wrote the
// same data, for one.
func untouched(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.ModTime().Equal(copied)
}

// copyTree copies a folder: files, folders and symbolic links with their permissions.
// Zeroes become holes. Tables copy some twenty small files for each of their lines, which
// takes a fraction of what "cp -a" does.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." {
			return err
		}
		return copyEntry(path, filepath.Join(to, rel), d)
	})
	if err != nil {
		t.Fatalf("copying %s: %v", from, err)
	}
	return to
}

func copyEntry(from, to string, d fs.DirEntry) error {
	switch d.Type() {
	case fs.ModeDir:
		return os.Mkdir(to, 0o700)
	case fs.ModeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case 0:
		return copyFile(from, to)
	}
	return errors.New(from + ": neither a file nor a folder nor a symbolic link")
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	err = errors.Join(out.Truncate(info.Size()), copyData(in, out, info.Size()), out.Chmod(info.Mode().Perm()), out.Close())
	return errors.Join(err, os.Chtimes(to, copied, copied))
}

var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// copyData copies what is data and not zeroes.
func copyData(in, out *os.File, size int64) error {
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	for at := int64(0); at < size; {
		start, end, err := dataAt(in, at, size)
		if err != nil {
			return err
		}
		for at = start; at < end; {
			n, err := in.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
			if n == 0 {
				return errors.Join(err, io.ErrUnexpectedEOF)
			}
			if err := writeData(out, buf[:n], at); err != nil {
				return err
			}
			at += int64(n)
		}
	}
	return nil
}

var zeroBlock [4096]byte

// writeData writes the blocks that are not zero, neighbours with one call.
func writeData(out *os.File, p []byte, at int64) error {
	zero := func(p []byte) bool { return bytes.Equal(p, zeroBlock[:len(p)]) }
	for len(p) > 0 {
		n := min(len(p), len(zeroBlock))
		if zero(p[:n]) {
			p, at = p[n:], at+int64(n)
			continue
		}
		for n < len(p) && !zero(p[n:min(len(p), n+len(zeroBlock))]) {
			n = min(len(p), n+len(zeroBlock))
		}
		if _, err := out.WriteAt(p[:n], at); err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// sameData compares two files, without memory for all that is in them.
func sameData(a, b string) (bool, error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer y.Close()
	p, q := copyBuffers.Get().(*[256 << 10]byte), copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(p)
	defer copyBuffers.Put(q)
	for {
		n, errX := io.ReadFull(x, p[:])
		m, errY := io.ReadFull(y, q[:])
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		for _, err := range []error{errX, errY} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if errX != nil || errY != nil {
			return errX != nil && errY != nil, nil
		}
	}
}

func TestCopyTree(t *testing.T) {
	base := t.TempDir()
	data := make([]byte, 1<<20+700)
	for i := range data {
		if i/5000%3 != 1 {
			data[i] = byte(i%251 + 1)
		}
	}
	if err := errors.Join(
		os.Mkdir(filepath.Join(base, "d"), 0o755),
		os.WriteFile(filepath.Join(base, "d", "file"), data, 0o640),
		os.WriteFile(filepath.Join(base, "empty"), nil, 0o600),
		os.WriteFile(filepath.Join(base, "holes"), data[:1], 0o600),
		os.Truncate(filepath.Join(base, "holes"), 1<<40+1),
		os.Symlink("d/file", filepath.Join(base, "link")),
	); err != nil {
		t.Fatal(err)
	}
	c := copyTree(t, base)
	if got, err := os.ReadFile(filepath.Join(c, "link")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other data: %v", err)
	}
	for name, size := range map[string]int64{"d/file": int64(len(data)), "empty": 0, "holes": 1<<40 + 1} {
		path := filepath.Join(c, name)
		if info, err := os.Stat(path); err != nil || info.Size() != size {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if !untouched(path) {
			t.Errorf("%s: counts as written", name)
		}
	}
	f, err := os.OpenFile(filepath.Join(c, "d", "file"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data[:1], 0); err != nil {
		t.Fatal(err)
	}
	if f.Close(); untouched(filepath.Join(c, "d", "file")) {
		t.Error("a file that was written counts as untouched")
	}
	whole, other, shorter := data, bytes.Clone(data), data[:256<<10]
	other[len(other)-1]++
	for i, list := range [][2][]byte{{whole, whole}, {whole, other}, {whole, shorter}, {shorter, whole}, {shorter, shorter}, {nil, nil}, {nil, whole}} {
		a, b := filepath.Join(c, "a"), filepath.Join(c, "b")
		if err := errors.Join(os.WriteFile(a, list[0], 0o600), os.WriteFile(b, list[1], 0o600)); err != nil {
			t.Fatal(err)
		}
		if same, err := sameData(a, b); err != nil || same != bytes.Equal(list[0], list[1]) {
			t.Errorf("comparison %d: %v, %v", i, same, err)
		}
	}
	if _, err := sameData(filepath.Join(c, "a"), filepath.Join(c, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
