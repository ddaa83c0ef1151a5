package incus

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/fstree"
)

// paths are the files of a result.
func paths(r *Result) (list []string) {
	for _, f := range r.Files {
		list = append(list, f.Path)
	}
	return list
}

func repack(t *testing.T, files []string, o PackOptions) *Result {
	t.Helper()
	image, err := OpenImage(files, fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	r, err := image.Repack(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRepack holds that an image that becomes unified and split again is the same.
func TestRepack(t *testing.T) {
	for name, vm := range map[string]*VMOptions{"container": nil, "vm": {Boot: BootNone}} {
		i := imageOf(t, "files:\n- {generator: hostname, path: /etc/hostname}\n", richTree(t))
		if err := i.Generate(); err != nil {
			t.Fatal(err)
		}
		first := pack(t, i, PackOptions{Dir: t.TempDir(), Compression: compression(t, "gzip-1"), VM: vm, Registry: registry()})
		unified := repack(t, paths(first), PackOptions{Dir: t.TempDir(), Unified: true, Compression: compression(t, "zstd-1")})
		if filepath.Base(unified.Files[0].Path) != "tiny-3.20-amd64-default-20231114_2213.tar.zst" || unified.VM != (vm != nil) || unified.Name != first.Name {
			t.Errorf("%s: %+v", name, unified)
		}
		again := repack(t, paths(unified), PackOptions{Dir: t.TempDir(), Compression: compression(t, "gzip-1")})
		if again.Fingerprint != first.Fingerprint || again.Type != "split" || again.VM != first.VM {
			t.Errorf("%s: %+v, before %+v", name, again, first)
		}
	}
}

func TestOpenImageRefuses(t *testing.T) {
	dir := t.TempDir()
	r := pack(t, newImage(t, ""), PackOptions{Dir: dir, Compression: compression(t, "gzip")})
	text := filepath.Join(dir, "text")
	os.WriteFile(text, []byte("no image at all"), 0o600)
	for says, files := range map[string][]string{
		"name the file with the root file system": {r.Files[0].Path},
		"neither a squashfs nor a qcow2":          {r.Files[0].Path, text},
		"one or two files":                        nil,
		"is a directory":                          {dir, text},
	} {
		if _, err := OpenImage(files, fstree.Options{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %q", files, err, says)
		}
	}
}

func TestIndex(t *testing.T) {
	dir := t.TempDir()
	o := PackOptions{Dir: dir, Compression: compression(t, "gzip")}
	container := pack(t, newImage(t, ""), o)
	x, err := NewIndex(paths(container), "p/", fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	item := func(kind string) Item {
		return x.Products["tiny:3.20:amd64:default"].Versions["20231114_2213"].Items[kind]
	}
	if got, want := item("squashfs"), (Item{FileType: "squashfs", Path: "p/rootfs.squashfs", Size: container.Files[1].Size, SHA256: container.Files[1].SHA256}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := item("incus.tar.xz"); got.CombinedSquashfs != container.Fingerprint || got.CombinedDisk != "" || got.Path != "p/incus.tar.gz" {
		t.Errorf("%+v", got)
	}
	if got := x.Products["tiny:3.20:amd64:default"].Aliases; got != "tiny/3.20/default,tiny/3.20" {
		t.Error(got)
	}
	text, err := json.Marshal(x)
	read := &Index{}
	if err := json.Unmarshal(text, read); err != nil || !reflect.DeepEqual(read, x) {
		t.Errorf("%+v, %v", read, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	o.VM, o.Registry = &VMOptions{Boot: BootNone}, registry()
	vm := pack(t, newImage(t, ""), o)
	second, err := NewIndex(paths(vm), "p/", fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Add(second); err != nil {
		t.Fatal(err)
	}
	if got := item("incus.tar.xz"); got.CombinedSquashfs != container.Fingerprint || got.CombinedDisk != vm.Fingerprint || item("disk-kvm.img").SHA256 != vm.Files[1].SHA256 {
		t.Errorf("%+v", got)
	}
	o.VM, o.Unified = nil, true
	unified, err := NewIndex(paths(pack(t, newImage(t, ""), o)), "", fstree.Options{})
	if err != nil || unified.Products["tiny:3.20:amd64:default"].Versions["20231114_2213"].Items["incus_combined.tar.gz"].Size == 0 {
		t.Errorf("%+v, %v", unified, err)
	}
	o.Unified = false
	changed := newImage(t, "files:\n- {generator: hostname, path: /etc/hostname}\n")
	if err := changed.Generate(); err != nil {
		t.Fatal(err)
	}
	third, err := NewIndex(paths(pack(t, changed, o)), "p/", fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Add(third); err == nil || !strings.Contains(err.Error(), "has another p/incus.tar.gz") {
		t.Error(err)
	}
	if err := (&Index{}).Add(third); err != nil {
		t.Error(err)
	}
}
