package render

import (
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/qapi"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1: "1 B", 999: "999 B", 1000: "0.977 KiB", 1024: "1 KiB", 197120: "192 KiB",
		1 << 20: "1 MiB", 1023 << 10: "0.999 MiB", 1<<63 - 1: "8 EiB", 1500 << 20: "1.46 GiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestJSONOrder(t *testing.T) {
	var b strings.Builder
	err := JSON(&b, map[string]any{"dirty-flag": false, "children": []any{}, "filename": "a\"\n€", "virtual-size": 5,
		"format-specific": map[string]any{}})
	if err != nil {
		t.Fatal(err)
	}
	want := "{\n    \"children\": [\n    ],\n    \"virtual-size\": 5,\n    \"filename\": \"a\\\"\\n\\u20AC\",\n" +
		"    \"format-specific\": {\n    },\n    \"dirty-flag\": false\n}\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestFilename(t *testing.T) {
	got := Filename(`json:{"driver":"raw","file":{"filename":"r","driver":"file"},"offset":"64k"}`)
	want := `json:{"offset": "64k", "driver": "raw", "file": {"driver": "file", "filename": "r"}}`
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := Filename("json:{broken"); got != "json:{broken" {
		t.Errorf("got %s", got)
	}
}

func TestMapPrinter(t *testing.T) {
	off := int64(0)
	var b strings.Builder
	p := NewMapPrinter(&b, false)
	if err := p.Entry(qapi.MapEntry{Start: 0, Length: 4096, Data: true, Offset: &off, Filename: "f"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Entry(qapi.MapEntry{Length: 1, Data: true, Compressed: true}); err != ErrUnmappable {
		t.Errorf("error %v", err)
	}
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	want := "Offset          Length          Mapped to       File\n0               0x1000          0               f\n"
	if b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

func TestProgress(t *testing.T) {
	var b strings.Builder
	p := NewProgress(&b, ProgressText, 1)
	p.Start()
	p.Report(ops.Progress{Done: 1, Total: 1000})
	p.Report(ops.Progress{Done: 125, Total: 1000})
	p.Report(ops.Progress{Done: 1000, Total: 1000})
	p.Done(false)
	want := "    (0.00/100%)\r    (12.50/100%)\r    (100.00/100%)\r    (100.00/100%)\r\n"
	if b.String() != want {
		t.Errorf("got %q", b.String())
	}

	b.Reset()
	now := time.Unix(100, 0)
	p = NewProgress(&b, ProgressJSON, 1)
	p.now, p.started = func() time.Time { return now }, now
	now = now.Add(2 * time.Second)
	p.Report(ops.Progress{Done: 500, Total: 1000, Phase: "copy"})
	p.Report(ops.Progress{Done: 600, Total: 1000, Phase: "copy"}) // too soon
	p.Done(true)
	want = `{"done":500,"total":1000,"bytes_per_second":250,"phase":"copy"}` + "\n" +
		`{"done":600,"total":1000,"bytes_per_second":300,"phase":"copy"}` + "\n"
	if b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

func TestProgressSignal(t *testing.T) {
	var b strings.Builder
	p := NewProgress(&b, ProgressOff, 1)
	p.Report(ops.Progress{Done: 1, Total: 2})
	p.Signal()
	p.Done(false)
	if b.String() != "    (50.00/100%)\n" {
		t.Errorf("got %q", b.String())
	}
}

func TestProgressBar(t *testing.T) {
	var b strings.Builder
	now := time.Unix(100, 0)
	p := NewProgress(&b, ProgressBar, 1)
	p.now, p.started = func() time.Time { return now }, now
	p.Start()
	p.Report(ops.Progress{Done: 1 << 20, Total: 1 << 30, Phase: "copy"})
	if b.Len() > 0 {
		t.Errorf("a bar for work that has just begun: %q", b.String())
	}
	now = now.Add(barDelay)
	p.Report(ops.Progress{Done: 1 << 29, Total: 1 << 30, Phase: "copy"})
	if !strings.Contains(b.String(), "copy") || !strings.Contains(b.String(), "50%") {
		t.Errorf("no bar: %q", b.String())
	}
	n := b.Len()
	p.Report(ops.Progress{Done: 1<<29 + 1, Total: 1 << 30, Phase: "copy"})
	if b.Len() != n {
		t.Error("the bar is drawn again at once")
	}
	now = now.Add(barPace)
	p.Report(ops.Progress{Done: 1 << 30, Total: 1 << 30, Phase: "copy"})
	p.Done(false)
	if end := b.String()[strings.LastIndexByte(strings.TrimRight(b.String(), "\r"), '\r')+1:]; strings.TrimSpace(end) != "" || strings.Contains(b.String(), "\n") {
		t.Errorf("the bar is still there: %q", b.String())
	}
}
