package qcow2

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// loggedFile notes every write, in order.
type loggedFile struct {
	*sparseFile
	log []loggedWrite
}

// loggedWrite is a write, a change of the length (b is nil), or a flush.
type loggedWrite struct {
	off   int64
	b     []byte
	size  int64
	flush bool
}

func (f *loggedFile) WriteAt(ctx context.Context, b []byte, off int64) (int, error) {
	f.log = append(f.log, loggedWrite{off: off, b: bytes.Clone(b)})
	return f.sparseFile.WriteAt(ctx, b, off)
}
func (f *loggedFile) Resize(ctx context.Context, size int64, o driver.ResizeOptions) error {
	f.log = append(f.log, loggedWrite{size: size})
	return f.sparseFile.Resize(ctx, size, o)
}
func (f *loggedFile) Flush(context.Context) error {
	f.log = append(f.log, loggedWrite{flush: true})
	return nil
}

func (w loggedWrite) apply(f *sparseFile) {
	switch {
	case w.flush:
	case w.b == nil:
		f.Resize(context.Background(), w.size, driver.ResizeOptions{})
	default:
		f.WriteAt(context.Background(), w.b, w.off)
	}
}

// guest reads the disk of an image as far as it can be read: bad marks the
// clusters that cannot.
func guest(t *testing.T, f *sparseFile) (content []byte, bad []bool) {
	t.Helper()
	ctx := context.Background()
	im, err := openForCheck(t, f, false)
	if err != nil {
		return nil, nil
	}
	defer im.Close(ctx)
	content = make([]byte, im.Size())
	bad = make([]bool, im.Size()/512+1)
	for off := int64(0); off < im.Size(); off += 512 {
		p := content[off : off+512]
		e, err := im.Map(ctx, off, 512)
		switch {
		case err != nil:
		case e.Kind == driver.ExtentEncoded:
			err = im.ReadEncoded(ctx, p, off)
		case e.Kind == driver.ExtentData:
			err = tableio.ReadPadded(ctx, f, p, e.HostOffset)
		}
		if err != nil {
			clear(p)
			bad[off/512] = true
		}
	}
	return content, bad
}

// TestRepairCrash cuts repairs short after every write, and in between flushes
// drops single writes, and looks at what is left: the disk still reads as
// before wherever it could be read, and a second repair succeeds.
func TestRepairCrash(t *testing.T) {
	needTool(t, "qemu-img")
	needTool(t, "qemu-io")
	if !testkit.Long() {
		t.Skip("repairs many images many times")
	}
	dir := t.TempDir()
	base := damageBase(t, dir)
	ctx := context.Background()
	for _, d := range damages {
		if d.do == nil || d.base == "luks" || d.base == "dataf" || d.beyond || d.selfView {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			path := filepath.Join(dir, "damaged.qcow2")
			copyTestFile(t, base(d.base), path)
			p := openPatient(t, path)
			d.do(p)
			p.f.Close()
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			damaged := newSparse()
			damaged.WriteAt(ctx, b, 0)
			want, unreadable := guest(t, damaged)

			repair := func(f driver.Storage) (*driver.CheckResult, error) {
				im, err := openForCheck(t, f, true)
				if err != nil {
					return nil, err
				}
				res, err := im.Check(ctx, driver.CheckFix{Leaks: true, Errors: true}, nil, nil)
				if cerr := im.Close(ctx); err == nil {
					err = cerr
				}
				return res, err
			}
			whole := &loggedFile{sparseFile: damaged.clone()}
			final, err := repair(whole)
			if err != nil {
				t.Fatal(err)
			}
			verify := func(f *sparseFile, what string, cut int) {
				t.Helper()
				got, bad := guest(t, f)
				for i := range unreadable {
					at := min(i*512, len(want))
					end := min(at+512, len(want))
					if !unreadable[i] && (bad == nil || bad[i] || !bytes.Equal(got[at:end], want[at:end])) {
						t.Fatalf("%s %d of %d: the disk reads otherwise at %d", what, cut, len(whole.log), at)
					}
				}
				res, err := repair(f)
				if err != nil || res.CheckErrors != 0 || res.Corruptions > final.Corruptions {
					t.Fatalf("%s %d of %d: second repair: %v %+v", what, cut, len(whole.log), err, res)
				}
			}
			step := max(1, len(whole.log)/8)
			for cut := 0; cut <= len(whole.log); cut += step {
				f := damaged.clone()
				for _, w := range whole.log[:cut] {
					w.apply(f)
				}
				verify(f, "cut after write", cut)
			}
			// A write that is not followed by a flush may be the one that is lost.
			for lost := 0; lost < len(whole.log); lost += step {
				f := damaged.clone()
				for i, w := range whole.log {
					if w.flush && i > lost {
						break
					}
					if i != lost {
						w.apply(f)
					}
				}
				verify(f, "without write", lost)
			}
		})
	}
}
