//go:build unix

package differential

import "testing"

// TestRepairLines: what opening an image for writing repairs, after a program that was
// killed, is told line by line as QEMU tells it.
func TestRepairLines(t *testing.T) {
	tools := needCLI(t)
	theirNBD, ourNBD := nbdPrograms(t)
	base := t.TempDir()
	for _, args := range [][]string{
		{tools.img, "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "i.qcow2", "4M"},
		{tools.io, "-f", "qcow2", "-c", "write -P 1 0 128k", "-c", "flush", "-c", "abort", "i.qcow2"},
	} {
		// The second ends by a signal.
		if o := runIn(t, base, args[0], args[1:]...); o.code > 0 {
			t.Fatal(o.stderr)
		}
	}
	for _, args := range [][]string{
		{"resize", "i.qcow2", "8M"},
		{"amend", "-o", "compat=0.10", "i.qcow2"},
		{"snapshot", "-c", "s", "i.qcow2"},
	} {
		theirs, ours := runIn(t, copyTree(t, base), tools.img, args...), runIn(t, copyTree(t, base), tools.ours, args...)
		theirs.stderr, ours.stderr = normal(theirs.stderr), normal(ours.stderr)
		if ours != theirs || theirs.stderr == "" || theirs.code != 0 {
			t.Errorf("%v:\n%+v\nwant\n%+v", args, ours, theirs)
		}
	}
	// A server that cannot offer a bitmap has opened the image all the same.
	args := []string{"-f", "qcow2", "-B", "none", "i.qcow2"}
	theirs, ours := runNBD(t, copyTree(t, base), theirNBD, args...), runNBD(t, copyTree(t, base), ourNBD, args...)
	if ours != theirs || ours.code == 0 {
		t.Errorf("qemu-nbd:\n%+v\nwant\n%+v", ours, theirs)
	}
}
