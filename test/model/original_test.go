package model

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cowl-disk/cowl/protocol/mem"
)

// original lets qemu-img check and read the image, one snapshot included. dir is
// where files may be made.
func (w *world) original(ctx context.Context, dir string) error {
	for _, name := range []string{"top", "base", "other", "data"} {
		disk := w.mem.Disk(name)
		if name == "top" {
			disk = w.top.disk
		}
		if disk == nil {
			continue
		}
		if err := save(ctx, disk, filepath.Join(dir, name)); err != nil {
			return w.fail("save %s: %w", name, err)
		}
	}
	spec := "driver=qcow2,file.filename=" + filepath.Join(dir, "top")
	if w.backing != "" {
		l := w.layers[w.backing]
		spec += fmt.Sprintf(",backing.driver=%s,backing.file.filename=%s", l.format, filepath.Join(dir, strings.TrimPrefix(w.backing, "mem:")))
	}
	if w.dataFile {
		spec += ",data-file.driver=file,data-file.filename=" + filepath.Join(dir, "data")
	}
	var secret []string
	if w.encrypt != "" {
		secret = []string{"--object", "secret,id=" + secretID + ",data=" + secretText}
		spec += ",encrypt.format=" + w.encrypt + ",encrypt.key-secret=" + secretID
	}
	run := func(args ...string) error {
		args = append(append([]string{args[0]}, secret...), args[1:]...)
		out, err := exec.CommandContext(ctx, "qemu-img", args...).CombinedOutput()
		if err != nil {
			return w.fail("qemu-img %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := run("check", "-q", "--image-opts", spec); err != nil {
		return err
	}
	out := filepath.Join(dir, "out")
	if err := run("convert", "--image-opts", "-O", "raw", spec, out); err != nil {
		return err
	}
	got, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	if d := w.active.Diff(got, 0); d != "" || int64(len(got)) != w.active.Size() {
		return w.fail("read by QEMU, %d bytes: %s", len(got), d)
	}
	if len(w.kept) == 0 {
		return nil
	}
	s := w.kept[w.r.IntN(len(w.kept))]
	if err := run("convert", "-l", "snapshot.id="+s.id, "--image-opts", "-O", "raw", spec, out); err != nil {
		return err
	}
	if got, err = os.ReadFile(out); err != nil {
		return err
	}
	// QEMU copies as much of a snapshot as the disk has now.
	if d := s.content.Diff(got[:min(int64(len(got)), s.content.Size())], 0); d != "" {
		return w.fail("snapshot %s read by QEMU: %s", s.name, d)
	}
	return nil
}

func save(ctx context.Context, d *mem.Disk, name string) error {
	p := make([]byte, d.Size())
	if _, err := d.ReadAt(ctx, p, 0); err != nil {
		return err
	}
	return os.WriteFile(name, p, 0o644)
}
