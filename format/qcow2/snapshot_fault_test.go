package qcow2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// failing is storage of which good changes succeed and then bad ones fail.
type failing struct {
	driver.Storage
	good, bad int
}

var errFault = errors.New("injected fault")

func (f *failing) fault() error {
	if f.good--; f.good >= 0 {
		return nil
	}
	if f.bad--; f.bad >= 0 {
		return errFault
	}
	return nil
}

func (f *failing) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.fault(); err != nil {
		return 0, err
	}
	return f.Storage.WriteAt(ctx, p, off)
}

func (f *failing) Flush(ctx context.Context) error {
	if err := f.fault(); err != nil {
		return err
	}
	return f.Storage.Flush(ctx)
}

// TestSnapshotFaults lets each write and flush of each operation fail, once or for
// good. The disk and the snapshots are then as before or as after, for the running
// image and for the next that opens it, and nothing that one of them holds is
// written over.
func TestSnapshotFaults(t *testing.T) {
	testkit.NoRace(t, "one caller")
	ctx := context.Background()
	content := func(b byte) []byte { return bytes.Repeat([]byte{b}, 64<<10) }
	operations := map[string]func(img *block.Image) error{
		"create": func(img *block.Image) error {
			_, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "new"})
			return err
		},
		"apply":  func(img *block.Image) error { return img.Snapshots().Apply(ctx, "1") },
		"delete": func(img *block.Image) error { return img.Snapshots().Delete(ctx, "1", "one") },
	}
	for name, op := range operations {
		for _, version := range []string{"0.10", "1.1"} {
			for _, bad := range []int{1, 1 << 30} {
				failed := true
				for good := 0; failed; good++ {
					where := fmt.Sprintf("%s, version %s, %d calls fail after %d", name, version, bad, good)
					img, _, open := memImage(t, opts.Dict{"cluster_size": "4k", "compat": version})
					_, err := img.WriteAt(ctx, content(1), 0)
					if err == nil {
						_, err = img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: "one"})
					}
					if err == nil {
						_, err = img.WriteAt(ctx, content(2), 32<<10)
					}
					if err != nil {
						t.Fatal(err)
					}
					im := img.Tree().Node().(*image)
					f := &failing{Storage: im.file, good: good, bad: bad}
					im.file = f
					failed = op(img) != nil
					f.bad = 0
					// Whatever came of it, the disk goes on, or refuses to.
					first := make([]byte, 64<<10)
					if _, err := img.ReadAt(ctx, first, 32<<10); err != nil {
						t.Fatalf("%s: %v", where, err)
					}
					now := first[0]
					if now != 2 && (now != 1 || name != "apply") || !bytes.Equal(first[:32<<10], bytes.Repeat([]byte{now}, 32<<10)) {
						t.Fatalf("%s: the running disk shows %d", where, now)
					}
					if _, err := img.WriteAt(ctx, content(3), 0); err != nil && !failed {
						t.Fatalf("%s: %v", where, err)
					}
					_ = img.Close(ctx)
					img = open()
					list, _, err := img.Snapshots().List(ctx)
					if err != nil {
						t.Fatalf("%s: %v", where, err)
					}
					for _, s := range list {
						if err := img.Snapshots().Apply(ctx, s.ID); err != nil {
							t.Fatalf("%s: %v", where, err)
						}
						p := make([]byte, 128<<10)
						if _, err := img.ReadAt(ctx, p, 0); err != nil {
							t.Fatalf("%s: %v", where, err)
						}
						want := append(content(1), make([]byte, 64<<10)...)
						if s.Name == "new" {
							copy(want[32<<10:], content(2))
						}
						if !bytes.Equal(p, want) {
							t.Fatalf("%s: snapshot %s differs", where, s.Name)
						}
					}
					var lines []string
					if _, err := img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil); err != nil {
						t.Fatalf("%s: %v", where, err)
					}
					for _, l := range lines {
						if !strings.HasPrefix(l, "Leaked") && (version != "0.10" || !strings.Contains(l, "OFLAG_COPIED")) {
							t.Fatalf("%s: check finds %q", where, l)
						}
					}
					_ = img.Close(ctx)
				}
			}
		}
	}
}
