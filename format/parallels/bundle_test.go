package parallels_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/parallels"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

const (
	guidA = "{11111111-0000-0000-0000-000000000001}"
	guidB = "{11111111-0000-0000-0000-000000000002}"
	guidT = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
	guid0 = "{00000000-0000-0000-0000-000000000000}"
)

// hds makes an image of clusters, absent where data is nil.
func hds(clusters ...[]byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, cluster)
	copy(b, "WithouFreSpacExt")
	for off, v := range map[int]uint32{16: 2, 28: cluster / 512, 32: uint32(len(clusters)), 36: uint32(len(clusters) * cluster / 512), 48: cluster / 512} {
		le.PutUint32(b[off:], v)
	}
	for i, p := range clusters {
		if p != nil {
			le.PutUint32(b[table+4*i:], uint32(len(b)/cluster))
			b = append(b, p...)
		}
	}
	return b
}

// xml makes a descriptor of parts of four clusters, with the images x.N for snapshot x.
func xml(parts int, images, kind string, shots string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\"><Disk_Parameters><Disk_size>%d</Disk_size></Disk_Parameters><StorageData>", parts*4*cluster/512)
	for i := parts - 1; i >= 0; i-- {
		fmt.Fprintf(&s, "<Storage><Start>%d</Start><End>%d</End><Blocksize>8</Blocksize>", i*4*cluster/512, (i+1)*4*cluster/512)
		for _, x := range images {
			fmt.Fprintf(&s, "<Image><GUID>%s</GUID><Type>%s</Type><File>%c.%d</File></Image>", map[rune]string{'a': guidA, 'b': guidB, 't': guidT}[x], kind, x, i)
		}
		s.WriteString("</Storage>")
	}
	return s.String() + "</StorageData><Snapshots>" + shots + "</Snapshots></Parallels_disk_image>"
}

func shots(pairs ...string) string {
	var s strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&s, "<Shot><GUID>%s</GUID><ParentGUID>%s</ParentGUID></Shot>", pairs[i], pairs[i+1])
	}
	return s.String()
}

func folder(t testing.TB, files map[string][]byte) string {
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func openBundle(t testing.TB, dir, snapshot string, o opts.Dict) (*block.Image, error) {
	return block.Open(t.Context(), block.NewRegistry(raw.New(), parallels.New(), file.New()), block.Source{Filename: dir, Options: o},
		block.OpenOptions{Gate: driver.AllowAll, Snapshot: snapshot})
}

func chainOfThree(t testing.TB) string {
	return folder(t, map[string][]byte{
		"DiskDescriptor.xml": []byte(xml(2, "abt", "Compressed", shots(guidT, guidB, guidB, guidA, guidA, guid0))),
		"a.0":                hds(fill(1), fill(2), fill(3), nil), "a.1": hds(nil, nil, nil, fill(4)),
		"b.0": hds(nil, fill(5), nil, nil), "b.1": hds(fill(6), nil, nil, nil),
		"t.0": hds(nil, nil, fill(7), nil), "t.1": hds(nil, fill(8)), // shorter than the part
	})
}

// TestBundle reads a disk in two parts and its snapshots.
func TestBundle(t *testing.T) {
	dir := chainOfThree(t)
	for _, x := range []struct {
		snapshot string
		option   string
		want     [8]byte
	}{
		{"", "", [8]byte{1, 5, 7, 0, 6, 8, 0, 4}},
		{guidB, "", [8]byte{1, 5, 3, 0, 6, 0, 0, 4}},
		{"", strings.Trim(guidB, "{}"), [8]byte{1, 5, 3, 0, 6, 0, 0, 4}},
		{guidA, "", [8]byte{1, 2, 3, 0, 0, 0, 0, 4}},
	} {
		o := opts.Dict{}
		if x.option != "" {
			o["snapshot"] = x.option
		}
		img, err := openBundle(t, dir, x.snapshot, o)
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		for _, b := range x.want {
			want = append(want, fill(b)...)
		}
		got := make([]byte, len(want))
		if _, err := img.ReadAt(t.Context(), got, 0); err != nil || img.Size() != int64(len(want)) || !bytes.Equal(got, want) {
			t.Errorf("%s%s: wrong, or %v", x.snapshot, x.option, err)
		}
		list, ok, err := img.Snapshots().List(t.Context())
		if err != nil || !ok || len(list) != 2 || list[0].ID != guidB || list[1].ID != guidA {
			t.Errorf("%v, %v, %v", list, ok, err)
		}
		img.Close(context.Background())
	}
	img, err := openBundle(t, dir, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	st, err := img.Status(t.Context(), 5*cluster+512, 8*cluster, nil)
	if err != nil || st.Length != cluster-512 || st.Offset != cluster+512 || st.File == nil || filepath.Base(st.File.Filename()) != "t.1" {
		t.Errorf("%+v, %v", st, err)
	}
	for _, snapshot := range []string{guidT + "x", "none"} {
		if _, err := openBundle(t, dir, snapshot, nil); !errors.Is(err, driver.ErrNoSnapshot) {
			t.Errorf("%s: %v", snapshot, err)
		}
	}
}

// TestBundleBitmaps: a bundle of one part has the bitmaps of its newest image, or of that of the snapshot that is shown.
func TestBundleBitmaps(t *testing.T) {
	l := extended(t, func(data uint64) []byte { return feature(nil, 1, data, 0, 1) }, closed)
	l.Create("b", extUnits*cluster, opts.Dict{"cluster_size": "4096"})
	bytesOf := func(name string) []byte {
		b := make([]byte, l.Mem.Disk(name).Size())
		if _, err := l.Mem.Disk(name).ReadAt(t.Context(), b, 0); err != nil {
			t.Fatal(err)
		}
		return b
	}
	with, plain := bytesOf("a"), bytesOf("b")
	parts := func(n int) string {
		text := xml(n, "at", "Compressed", shots(guidT, guidA, guidA, guid0))
		if n == 1 {
			for _, tag := range []string{"Disk_size", "End"} {
				text = strings.Replace(text, fmt.Sprintf("<%s>%d</%s>", tag, 4*cluster/512, tag), fmt.Sprintf("<%s>%d</%s>", tag, extUnits*cluster/512, tag), 1)
			}
		}
		return text
	}
	names := func(dir, snapshot string) (out []string, dirty int64) {
		img, err := openBundle(t, dir, snapshot, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close(context.Background())
		list, ok, err := img.Bitmaps().List(t.Context())
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		for _, b := range list {
			out, dirty = append(out, b.Name), dirty+b.Dirty
		}
		info, err := img.Info(t.Context())
		if err != nil || (info.Specific != nil) != (len(list) != 0) {
			t.Errorf("info %+v of %d bitmaps: %v", info.Specific, len(list), err)
		}
		return out, dirty
	}
	for _, c := range []struct {
		top, below []byte
		snapshot   string
		want       bool
	}{{with, plain, "", true}, {with, plain, guidA, false}, {plain, with, "", false}, {plain, with, guidA, true}} {
		dir := folder(t, map[string][]byte{"DiskDescriptor.xml": []byte(parts(1)), "t.0": c.top, "a.0": c.below})
		got, dirty := names(dir, c.snapshot)
		if want := int64(cluster*8+3+16) * cluster; c.want != (len(got) == 1 && got[0] == bitmapName && dirty == want) || !c.want && len(got) != 0 {
			t.Errorf("snapshot %q: %v, %d dirty", c.snapshot, got, dirty)
		}
	}
	short := hds(fill(1), fill(2), fill(3), nil)
	if got, _ := names(folder(t, map[string][]byte{"DiskDescriptor.xml": []byte(parts(2)), "t.0": with, "a.0": short, "t.1": short, "a.1": short}), ""); len(got) != 0 {
		t.Errorf("the bitmaps of one of two parts: %v", got)
	}
}

// TestPlain reads parts without headers.
func TestPlain(t *testing.T) {
	disk := make([]byte, 12*cluster)
	testkit.Fill(testkit.Rand(1), disk)
	files := map[string][]byte{"DiskDescriptor.xml": []byte(xml(3, "a", "Plain", ""))}
	for i := range 3 {
		files[fmt.Sprintf("a.%d", i)] = disk[i*4*cluster : (i+1)*4*cluster]
	}
	dir := folder(t, files)
	img, err := openBundle(t, dir, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(disk))
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("wrong, or %v", err)
	}
	img.Close(context.Background())
	// A part that ends too early is an error, not zeroes.
	if err := os.Truncate(filepath.Join(dir, "a.1"), cluster); err != nil {
		t.Fatal(err)
	}
	if img, err = openBundle(t, dir, "", nil); err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	if _, err := img.ReadAt(t.Context(), got, 0); !errors.Is(err, driver.ErrTruncated) {
		t.Error(err)
	}
}

func TestBundleRefused(t *testing.T) {
	good := xml(1, "at", "Compressed", shots(guidT, guidA, guidA, guid0))
	for name, x := range map[string]struct {
		text string
		want error
	}{
		"folder above": {strings.Replace(good, "a.0", "../a.0", 1), driver.ErrGate},
		"absolute":     {strings.Replace(good, "a.0", "/etc/passwd", 1), driver.ErrGate},
		"protocol":     {strings.Replace(good, "a.0", "nbd:localhost", 1), driver.ErrGate},
		"of Windows":   {strings.Replace(good, "a.0", `..\a.0`, 1), driver.ErrGate},
		"circle":       {xml(1, "at", "Compressed", shots(guidT, guidA, guidA, guidT)), driver.ErrCorrupt},
		"no parent":    {xml(1, "at", "Compressed", shots(guidT, guidB)), driver.ErrCorrupt},
		"no image":     {xml(1, "at", "Compressed", shots(guidT, guidB, guidB, guid0)), driver.ErrCorrupt},
		"plain above":  {xml(1, "at", "Plain", shots(guidT, guidA, guidA, guid0)), driver.ErrCorrupt},
		"type":         {xml(1, "at", "Other", shots(guidT, guidA, guidA, guid0)), driver.ErrUnsupported},
		"gap":          {strings.Replace(good, "<Start>0<", "<Start>1<", 1), driver.ErrCorrupt},
		"short":        {strings.Replace(good, "<Disk_size>32", "<Disk_size>33", 1), driver.ErrCorrupt},
		"huge":         {strings.Replace(good, "<Disk_size>32", "<Disk_size>9223372036854775807", 1), driver.ErrCorrupt},
		"encrypted":    {strings.Replace(good, "</Disk_Parameters>", "<Encryption><Engine>{x}</Engine></Encryption></Disk_Parameters>", 1), driver.ErrUnsupported},
		"entity":       {strings.Replace(good, "<File>a.0", "<File>&x;", 1), driver.ErrCorrupt},
		"long":         {good + strings.Repeat(" ", 1<<20), driver.ErrBudget},
		"many":         {xml(2000, "a", "Plain", ""), driver.ErrBudget},
		"no file":      {strings.Replace(good, "a.0", "c.0", 1), driver.ErrNotExist},
	} {
		dir := folder(t, map[string][]byte{"DiskDescriptor.xml": []byte(x.text), "a.0": hds(fill(1), nil, nil, nil), "t.0": hds(nil, nil, nil, nil)})
		img, err := openBundle(t, dir, "", nil)
		if err == nil {
			img.Close(context.Background())
		}
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := block.Open(t.Context(), block.NewRegistry(raw.New(), parallels.New(), file.New()), block.Source{Filename: chainOfThree(t)},
		block.OpenOptions{Gate: driver.DenyAll}); !errors.Is(err, driver.ErrGate) {
		t.Error(err)
	}
}

func FuzzDescriptor(f *testing.F) {
	f.Add([]byte(xml(1, "at", "Compressed", shots(guidT, guidA, guidA, guid0))))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := folder(t, map[string][]byte{"DiskDescriptor.xml": text, "a.0": hds(fill(1), nil, nil, nil), "t.0": hds(nil, nil, nil, nil)})
		img, err := openBundle(t, dir, "", opts.Dict{"driver": "parallels"})
		if err != nil {
			return
		}
		_, _ = img.ReadAt(t.Context(), make([]byte, 4096), 0)
		img.Close(context.Background())
	})
}
