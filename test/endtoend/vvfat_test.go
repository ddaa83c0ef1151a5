package endtoend

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestVVFATGuest boots a guest whose disks are folders that our server serves: what the guest
// writes, renames and deletes in them is so in the folders.
func TestVVFATGuest(t *testing.T) {
	emulator := testkit.Tool(t, "qemu-system-x86_64")
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-*")
	if len(kernels) == 0 {
		t.Skip("no cloud kernel in /boot: install linux-image-cloud-amd64")
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	work := t.TempDir()
	modules := map[string]string{}
	for _, name := range []string{"fs/fat/fat", "fs/fat/vfat", "fs/nls/nls_cp437", "fs/nls/nls_ascii"} {
		modules[filepath.Base(name)+".ko"] = kernelModule(t, work, version, name)
	}
	initrd := makeInitrd(t, work, "./fatguest", modules)
	kinds := []string{"16:", "32:"}
	var dirs, devices []string
	var stops []func()
	for i, kind := range kinds {
		dir := filepath.Join(t.TempDir(), "shared")
		shareFiles(t, dir)
		sock, stop := serveProgram(t, "-f", "raw", "fat:rw:"+kind+dir)
		id := fmt.Sprint("d", i)
		devices = append(devices, "-drive", "if=none,format=raw,id="+id+",file="+nbdURI(sock, ""), "-device", "nvme,serial="+id+",drive="+id)
		dirs, stops = append(dirs, dir), append(stops, stop)
	}
	if out := boot(t, emulator, kernels[0], initrd, devices...); !strings.Contains(out, "guest-done") {
		t.Fatal(out)
	}
	want := []string{
		"New Folder/inner/empty: ", "New Folder/inner/here/x/file: moved", "New Folder/renamed file: renamed", "append.me: of the host, and more",
		"folder/Grüße zurück.txt: 1000000 bytes, all \"\"", "folder/Grüße.txt: from the host", "left alone: left alone", "overwrite.me: of the guest",
	}
	for i, dir := range dirs {
		stops[i]()
		if got := sharedFiles(t, dir); !slices.Equal(got, want) {
			t.Errorf("fat:%s: %q, want %q", kinds[i], got, want)
		}
	}
}

// shareFiles makes the folder that the guest works on.
func shareFiles(t *testing.T, dir string) {
	t.Helper()
	for name, text := range map[string]string{
		"folder/Grüße.txt": "from the host", "overwrite.me": strings.Repeat("of the host", 10_000), "rename.me": "renamed",
		"moved folder/x/file": "moved", "delete.me": "deleted", "append.me": "of the host", "left alone": "left alone",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

// sharedFiles returns the files in a folder with their contents.
func sharedFiles(t *testing.T, dir string) (got []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if len(b) > 100 {
			b = fmt.Appendf(nil, "%d bytes, all %q", len(b), strings.ReplaceAll(string(b), "guest", ""))
		}
		rel, _ := filepath.Rel(dir, path)
		got = append(got, rel+": "+string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	return got
}
