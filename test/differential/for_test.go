package differential

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestConvertFor: qemu-img finds what each platform wants, tar what Compute Engine does.
func TestConvertFor(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	dir := t.TempDir()
	cowl := ownName(t, tools, dir)
	disk := make([]byte, 3<<20+1536)
	testkit.FillDisk(testkit.Rand(9), disk)
	if err := os.WriteFile(filepath.Join(dir, "s.raw"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name, format string
		size         int64
		kind         string // of a vmdk
	}{
		{"azure", "vpc", 4 << 20, ""},
		{"aws", "vmdk", int64(len(disk)), "streamOptimized"},
		{"esxi", "vmdk", int64(len(disk)), "twoGbMaxExtentSparse"},
		{"workstation", "vmdk", int64(len(disk)), "monolithicSparse"},
		{"hyper-v", "vhdx", 4 << 20, ""},
		{"xenserver", "vpc", 4 << 20, ""},
		{"virtualbox", "vdi", 4 << 20, ""},
		{"proxmox", "qcow2", int64(len(disk)), ""},
		{"parallels", "parallels", 4 << 20, ""},
	} {
		o := runIn(t, dir, cowl, "convert", "-f", "raw", "--for", x.name, "s.raw", "o."+x.name)
		if o.code != 0 || !strings.Contains(o.stderr, "for "+x.name+": format "+x.format) || strings.Contains(o.stderr, "becomes one of") != (x.size != int64(len(disk))) {
			t.Errorf("%s: exit code %d, %s", x.name, o.code, o.stderr)
			continue
		}
		o = runIn(t, dir, tools.img, "info", "--output=json", "-f", x.format, "o."+x.name)
		var info struct {
			Size     int64 `json:"virtual-size"`
			Specific struct {
				Data struct {
					Kind string `json:"create-type"`
				} `json:"data"`
			} `json:"format-specific"`
		}
		if err := json.Unmarshal([]byte(o.stdout), &info); err != nil || info.Size != x.size || info.Specific.Data.Kind != x.kind {
			t.Errorf("%s: %v, %s%s", x.name, err, o.stdout, o.stderr)
		}
		if o = runIn(t, dir, tools.img, "compare", "-f", "raw", "-F", x.format, "s.raw", "o."+x.name); o.code != 0 {
			t.Errorf("%s: %s%s", x.name, o.stdout, o.stderr)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "o.azure")); err != nil || st.Size() != 4<<20+512 {
		t.Errorf("azure: %v, %v: not a fixed disk with a footer", st, err)
	}
	for _, args := range [][]string{
		{"--for", "moon", "s.raw", "x"}, {"--for", "azure", "-O", "qcow2", "s.raw", "x"}, {"--for", "azure", "-o", "subformat=dynamic", "s.raw", "x"},
		{"--for", "azure", "s.raw", "-"}, {"--for", "azure", "-n", "s.raw", "o.azure"}, {"--for", "gce", "-o", "size=1", "s.raw", "x"},
	} {
		if o := runIn(t, dir, cowl, append([]string{"convert", "-f", "raw"}, args...)...); o.code != 1 || o.stderr == "" {
			t.Errorf("%q: exit code %d, %s", args, o.code, o.stderr)
		}
	}
}

// TestConvertForGCE: an archive of GNU's older format with the disk, whole gibibytes.
func TestConvertForGCE(t *testing.T) {
	if testkit.Count(1) < 2 {
		t.Skip("packs a disk of a gibibyte: with COWL_COUNT=2")
	}
	tools := needCLI(t)
	dir := t.TempDir()
	cowl := ownName(t, tools, dir)
	disk := bytes.Repeat([]byte("a disk. "), 1<<16)
	if err := os.WriteFile(filepath.Join(dir, "s.raw"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if o := runIn(t, dir, cowl, "convert", "-f", "raw", "--for", "gce", "s.raw", "o.tar.gz"); o.code != 0 {
		t.Fatal(o.stderr)
	}
	if o := runIn(t, dir, "tar", "tvzf", "o.tar.gz"); o.code != 0 || !strings.Contains(o.stdout, " 1073741824 ") || !strings.HasSuffix(o.stdout, " disk.raw\n") {
		t.Error(o.stdout, o.stderr)
	}
	if o := runIn(t, dir, "sh", "-c", "tar xzOf o.tar.gz | head -c 524288 | cmp - s.raw && gzip -dc o.tar.gz | head -c 265 | tail -c 8 | od -c"); o.code != 0 || !strings.Contains(o.stdout, `u   s   t   a   r          \0`) {
		t.Error(o.stdout, o.stderr)
	}
	if o := runIn(t, dir, cowl, "convert", "-f", "raw", "--for", "gce", "s.raw", "o.tar.gz"); o.code != 1 {
		t.Error("an archive was overwritten")
	}
}
