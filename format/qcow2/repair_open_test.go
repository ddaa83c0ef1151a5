package qcow2

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// TestDirtyImageIsRepairedOnOpen: an image with lazy refcounts that was not
// closed is put in order by opening it for writing.
func TestDirtyImageIsRepairedOnOpen(t *testing.T) {
	needTool(t, "qemu-img")
	needTool(t, "qemu-io")
	dir := t.TempDir()
	path, sound := filepath.Join(dir, "i.qcow2"), filepath.Join(dir, "sound.qcow2")
	mustTool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k,lazy_refcounts=on", path, "4M")
	mustTool(t, "qemu-io", "-c", "write -P 1 0 300k", path)
	copyTestFile(t, path, sound)
	p := openPatient(t, path)
	p.put(72, ondisk.IncompatDirty)
	for i := range int64(20) {
		p.setRef(p.cluster(p.l2(0))+i, 0) // not written yet when the power went
	}
	p.setRef(p.clusters()+3, 1)
	p.f.Close()

	ctx := context.Background()
	n, err := new(Driver).Open(ctx, &driver.OpenRequest{Name: "i", File: openDiskFile(t, path), Env: testEnv(), Access: driver.Access{Write: true}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if run := theirCheck(t, path); run.fail != "" || len(run.lines) > 0 {
		t.Fatalf("check: %s", run)
	}
	if p := openPatient(t, path); p.h.Incompatible != 0 {
		t.Errorf("feature bits %#x", p.h.Incompatible)
	}
	mustTool(t, "qemu-img", "compare", path, sound)
}

// TestCheckReadOnly: what is not open for writing is not repaired.
func TestCheckReadOnly(t *testing.T) {
	im, err := openForCheck(t, hostileBase(t, ""), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Check(context.Background(), driver.CheckFix{Leaks: true}, nil, nil); err == nil {
		t.Fatal("a repair of an image that is open for reading was accepted")
	}
}
