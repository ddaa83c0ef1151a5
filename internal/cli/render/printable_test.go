package render

import (
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/qapi"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain", `back\slash`: `back\slash`, "Größe 日本 🐮": "Größe 日本 🐮", "a\x1b[31mb": `a\x1b[31mb`, "a\nb\tc\rd": `a\nb\tc\rd`,
		"\x00\x7f": `\x00\x7f`, "\u009b31m": `\u009b31m`, "bad \x9b \xff": "bad \\x9b \xff", "txt\u202egpj": `txt\u202egpj`, "": "", "\ufffd": "\ufffd",
	} {
		if got := Printable(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := PrintableLines("a\n\tb\x1b\r"); got != "a\n\tb\\x1b\\r" {
		t.Errorf("lines: %q", got)
	}
}

// TestNamesOfImages holds that no name which an image carries reaches the output of
// info, snapshot and map as it is.
func TestNamesOfImages(t *testing.T) {
	const bad = "x\x1b[2J\ny\u009b"
	at := int64(0)
	info := &qapi.ImageInfo{Filename: bad, Format: "qcow2", Backing: bad, FullBacking: bad + "2", BackingFormat: bad,
		Snapshots:      []qapi.SnapshotInfo{{ID: bad, Name: bad}},
		FormatSpecific: &qapi.ImageInfoSpecific{Type: "qcow2", Data: map[string]any{"data-file": bad, "bitmaps": []any{map[string]any{"name": bad}}}},
		Children:       []qapi.ImageChild{{Name: "file", Info: qapi.ImageInfo{Filename: bad}}}}
	var b strings.Builder
	if err := Info(&b, []*qapi.ImageInfo{info}); err != nil {
		t.Fatal(err)
	}
	m := NewMapPrinter(&b, false)
	if err := m.Entry(qapi.MapEntry{Length: 1, Data: true, Offset: &at, Filename: bad}); err != nil {
		t.Fatal(err)
	}
	if err := m.End(); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\u009b") || strings.Contains(b.String(), "\ny") {
		t.Errorf("control characters in\n%q", b.String())
	}
	if n := strings.Count(b.String(), `x\x1b[2J\ny\u009b`); n != 10 {
		t.Errorf("the name is there %d times, want 10, in\n%s", n, b.String())
	}
}

func TestZones(t *testing.T) {
	winter, summer := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC), time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC)
	for tz, want := range map[string][2]string{
		"JST-9": {"21:00", "21:00"}, "<+0330>-3:30": {"15:30", "15:30"}, "EST5EDT,M3.2.0,M11.1.0": {"07:00", "08:00"},
		"CET-1CEST,M3.5.0,M10.5.0/3": {"13:00", "14:00"}, "XYZ3": {"09:00", "09:00"}, "UTC": {"12:00", "12:00"},
	} {
		l := zoneOf(tz)
		if got := [2]string{winter.In(l).Format("15:04"), summer.In(l).Format("15:04")}; got != want {
			t.Errorf("TZ=%s: %v, want %v", tz, got, want)
		}
	}
	for _, tz := range []string{"", ":Asia/Nowhere"} {
		if zoneOf(tz) != time.Local {
			t.Errorf("TZ=%s: %v, want what package time makes of it", tz, zoneOf(tz))
		}
	}
	if got := winter.In(zoneOf("bo gus")).Format("15:04"); got != "12:00" {
		t.Errorf("what is no zone: %s", got)
	}
}

// Names are padded by bytes, as the C library does.
func TestSnapshotTable(t *testing.T) {
	icount := int64(7)
	var b strings.Builder
	if err := Snapshots(&b, []qapi.SnapshotInfo{{ID: "1", Name: "é", Icount: &icount}, {ID: "2", Name: "b"}}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	if !strings.HasPrefix(lines[2], "1       é                    0 B") || !strings.HasSuffix(lines[2], "          7") {
		t.Errorf("%q", lines[2])
	}
	if !strings.HasPrefix(lines[3], "2       b                     0 B") || !strings.HasSuffix(lines[3], "         --") {
		t.Errorf("%q", lines[3])
	}
}
