package ova

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// buffer is a file in memory.
type buffer struct{ b []byte }

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	if n := off + int64(len(p)); n > int64(len(b.b)) {
		b.b = append(b.b, make([]byte, n-int64(len(b.b)))...)
	}
	return copy(b.b[off:], p), nil
}

func data(n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		b = binary.BigEndian.AppendUint64(b, uint64(i)*0x9e3779b97f4a7c15)
	}
	return b[:n]
}

func pack(t testing.TB, o PackOptions, disks ...[]byte) []byte {
	for _, d := range disks {
		o.Disks = append(o.Disks, PackDisk{Capacity: int64(len(d)) * 3, Write: func(w io.Writer) error {
			for p := d; len(p) > 0; {
				n := min(len(p), 700)
				if _, err := w.Write(p[:n]); err != nil {
					return err
				}
				p = p[n:]
			}
			return nil
		}})
	}
	var out buffer
	n, err := Pack(&out, o)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(len(out.b)) {
		t.Errorf("length %d of %d", n, len(out.b))
	}
	return out.b
}

// TestPack packs disks, and finds them again with this package and with archive/tar.
func TestPack(t *testing.T) {
	disks := [][]byte{data(512 * 9), data(1 << 20), data(512)}
	b := pack(t, PackOptions{Name: "web-1.2", Time: time.Unix(1e9, 7)}, disks...)
	if again := pack(t, PackOptions{Name: "web-1.2", Time: time.Unix(1e9, 9)}, disks...); !bytes.Equal(again, b) {
		t.Error("the same disks give other bytes")
	}
	a, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Format&tar.FormatUSTAR == 0 || h.ModTime.Unix() != 1e9 {
			t.Errorf("%s: %v of %v", h.Name, h.Format, h.ModTime)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "web-1.2.ovf web-1.2.mf web-1.2-disk1.vmdk web-1.2-disk2.vmdk web-1.2-disk3.vmdk" {
		t.Error(got)
	}
	for i, want := range disks {
		for _, name := range []string{fmt.Sprint(i + 1), fmt.Sprintf("vmdisk%d", i+1), fmt.Sprintf("web-1.2-disk%d.vmdk", i+1)} {
			d, err := a.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			if m := d.Member; d.Capacity != int64(len(want))*3 || !bytes.Equal(b[m.Offset:m.Offset+m.Size], want) {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
	check, err := a.Verify(t.Context(), bytes.NewReader(b))
	if err != nil || len(check) != 4 {
		t.Fatalf("%v, %v", check, err)
	}
	for _, v := range check {
		if !v.OK {
			t.Errorf("%+v", v)
		}
	}
	b[a.Disks[1].Member.Offset+5]++
	if check, err = a.Verify(t.Context(), bytes.NewReader(b)); err != nil || check[2].OK || !check[3].OK || check[2].Problem == "" {
		t.Errorf("%v, %v", check, err)
	}
}

func TestPackRefused(t *testing.T) {
	fine := PackDisk{Capacity: 512, Write: func(w io.Writer) error { return nil }}
	for name, o := range map[string]PackOptions{
		"no disks":   {},
		"many":       {Disks: make([]PackDisk, 61)},
		"name":       {Name: "../a", Disks: []PackDisk{fine}},
		"name, dots": {Name: "..", Disks: []PackDisk{fine}},
		"memory":     {Memory: -1, Disks: []PackDisk{fine}},
	} {
		if _, err := Pack(&buffer{}, o); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	failed := errors.New("disk is gone")
	if _, err := Pack(&buffer{}, PackOptions{Disks: []PackDisk{{Write: func(io.Writer) error { return failed }}}}); !errors.Is(err, failed) {
		t.Error(err)
	}
}

func archive(t testing.TB, files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ovf(files, disks string) string {
	return `<Envelope xmlns:o="http://schemas.dmtf.org/ovf/envelope/1"><References>` + files + `</References><DiskSection>` + disks + `</DiskSection></Envelope>`
}

// TestOpen: what others write, and what cannot be read in place.
func TestOpen(t *testing.T) {
	b := archive(t, "x.ovf", ovf(`<File o:id="f" o:href="a.vmdk"/><File o:id="g" o:href="b.vmdk.gz" o:compression="gzip"/><File o:id="h" o:href="../../etc/passwd"/>`,
		`<Disk o:diskId="a" o:fileRef="f" o:capacity="3" o:capacityAllocationUnits="byte * 2^30"/><Disk o:diskId="b" o:fileRef="g" o:capacity="${c}"/>
		<Disk o:diskId="c" o:fileRef="h" o:capacity="1" o:capacityAllocationUnits="MegaBytes"/><Disk o:diskId="d" o:capacity="9999999999" o:capacityAllocationUnits="byte * 2^40"/>`),
		strings.Repeat("long/", 40)+"name", "x", "./a.vmdk", "disk", "b.vmdk.gz", "z", "x.mf", "SHA1 (a.vmdk) = 68d1c8b2d28ca4f2f5ff5b2c7c02d2b0b1c52a23\n\nSHA256(none)=00\n")
	a, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := a.Find("a")
	if err != nil || d.Capacity != 3<<30 || string(b[d.Member.Offset:][:d.Member.Size]) != "disk" {
		t.Errorf("%+v, %v", d, err)
	}
	if a.Disks[1].Capacity != -1 || a.Disks[2].Capacity != 1<<20 || a.Disks[3].Capacity != -1 {
		t.Errorf("%+v", a.Disks)
	}
	for name, want := range map[string]error{"b": ErrUnsupported, "c": ErrFormat, "d": ErrUnsupported, "e": ErrNoDisk, "5": ErrNoDisk, "0": ErrNoDisk, "": ErrNoDisk} {
		if _, err := a.Find(name); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	check, err := a.Verify(t.Context(), bytes.NewReader(b))
	var wrong []string
	for _, v := range check {
		if !v.OK {
			wrong = append(wrong, v.Name)
		}
	}
	// The last two are what the manifest does not name.
	if err != nil || len(check) != 4 || strings.Join(wrong, " ") != "a.vmdk none x.ovf b.vmdk.gz" {
		t.Errorf("%v, %v", check, err)
	}
}

func TestRefused(t *testing.T) {
	good := archive(t, "x.ovf", ovf("", ""))
	bomb := `<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Envelope>&b;</Envelope>`
	for name, x := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":          {nil, ErrFormat},
		"no tar":         {data(4096), ErrFormat},
		"no descriptor":  {archive(t, "a", "b"), ErrFormat},
		"no xml":         {archive(t, "x.ovf", "<Envelope>"), ErrFormat},
		"other xml":      {archive(t, "x.ovf", "<a/>"), ErrFormat},
		"entities":       {archive(t, "x.ovf", bomb), ErrFormat},
		"deep":           {archive(t, "x.ovf", strings.Repeat("<a>", 100_000)), ErrFormat},
		"long":           {archive(t, "x.ovf", strings.Repeat(" ", maxDescriptor+1)), ErrLimit},
		"many disks":     {archive(t, "x.ovf", ovf("", strings.Repeat("<Disk/>", maxDisks+1))), ErrLimit},
		"chunks":         {archive(t, "x.ovf", ovf(`<File o:id="f" o:href="a" o:chunkSize="5"/>`, `<Disk o:fileRef="f"/>`)), ErrUnsupported},
		"cut":            {good[:600], ErrFormat},
		"many members":   {archive(t, append([]string{"x.ovf", ovf("", "")}, make([]string, 2*maxMembers)...)...), ErrLimit},
		"damaged header": {append(bytes.Clone(good[:1024]), data(512)...), ErrFormat},
	} {
		if _, err := Open(bytes.NewReader(x.b), int64(len(x.b))); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A member that says that it is larger than the file.
	h := bytes.Clone(good)
	copy(h[124:], "77777777777")
	sum := 0
	copy(h[148:], "        ")
	for _, c := range h[:512] {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	if _, err := Open(bytes.NewReader(h), int64(len(h))); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
	for _, manifest := range []string{"MD5(x)= 00", "SHA256(x)= 00\nSHA256(./x)= 00", "SHA256(" + strings.Repeat("x", 1<<17) + ")= 00"} {
		b := archive(t, "x.ovf", ovf("", ""), "x.mf", manifest)
		a, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Verify(t.Context(), bytes.NewReader(b)); !errors.Is(err, ErrFormat) {
			t.Errorf("%.40s: %v", manifest, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(pack(f, PackOptions{}, data(512)))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, m := range a.Members {
			if m.Offset < 0 || m.Size < 0 || m.Size > int64(len(b))-m.Offset {
				t.Errorf("%+v of %d bytes", m, len(b))
			}
		}
		_, _ = a.Find("1")
		_, _ = a.Verify(t.Context(), bytes.NewReader(b))
	})
}

// TestStream: an archive from a pipe is listed, verified and read as one that is a file.
func TestStream(t *testing.T) {
	ordered := pack(t, PackOptions{Name: "x"}, data(70_144), data(512))
	odd := archive(t, "notes", "x", "a.vmdk", "disk", "x.ovf", ovf(`<File o:id="f" o:href="a.vmdk"/><File o:id="g" o:href="b.vmdk"/><File o:id="h" o:href="c" o:compression="gzip"/>`,
		`<Disk o:diskId="a" o:fileRef="f"/><Disk o:diskId="b" o:fileRef="g"/><Disk o:diskId="c" o:fileRef="h"/><Disk o:diskId="e"/>`), "b.vmdk", "other",
		"x.mf", "SHA1(a.vmdk)=00\nSHA256(none)=00\n")
	for name, b := range map[string][]byte{"ordered": ordered, "odd": append(odd, make([]byte, 9000)...)} {
		want, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		wantCheck, err := want.Verify(t.Context(), bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		in := bytes.NewReader(b)
		got, check, err := ReadStream(t.Context(), iotest.HalfReader(in), true)
		if err != nil || !reflect.DeepEqual(got, want) || !reflect.DeepEqual(check, wantCheck) || in.Len() > 0 {
			t.Errorf("%s: %+v %+v %v, %d bytes are left; want %+v %+v", name, got, check, err, in.Len(), want, wantCheck)
		}
		if _, check, err = ReadStream(t.Context(), bytes.NewReader(b), false); err != nil || check != nil {
			t.Errorf("%s: %v %v", name, check, err)
		}
		if _, _, err := ReadStream(t.Context(), bytes.NewReader(b[:len(b)-len(b)/3]), true); name == "ordered" && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off: %v", err)
		}
	}
	for i, want := range [][]byte{data(70_144), data(512)} {
		disk, r, err := DiskStream(t.Context(), iotest.HalfReader(bytes.NewReader(ordered)), fmt.Sprint(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, want) || disk.Member.Size != int64(len(want)) {
			t.Errorf("disk %d: %d bytes, %v", i+1, len(b), err)
		}
	}
	for name, want := range map[string]error{"a": ErrUnsupported, "c": ErrUnsupported, "e": ErrUnsupported, "z": ErrNoDisk} {
		if _, _, err := DiskStream(t.Context(), bytes.NewReader(odd), name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, r, err := DiskStream(t.Context(), bytes.NewReader(odd), "b"); err != nil {
		t.Error(err)
	} else if b, err := io.ReadAll(r); err != nil || string(b) != "other" {
		t.Errorf("%q %v", b, err)
	}
	for _, b := range [][]byte{archive(t, "a", "b"), nil, []byte("no archive")} {
		if _, _, err := DiskStream(t.Context(), bytes.NewReader(b), "1"); !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
		if _, _, err := ReadStream(t.Context(), bytes.NewReader(b), true); !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := ReadStream(ctx, bytes.NewReader(ordered), true); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
