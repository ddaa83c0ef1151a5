package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadme: the figures in README are those of the last table.
func TestReadme(t *testing.T) {
	var want strings.Builder
	if err := summary(&want, filepath.Join("..", "docs", "speed.md")); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "\n"+want.String()+"\n") {
		t.Errorf("README.md lacks the table that go run ./bench -summary docs/speed.md prints:\n%s", want.String())
	}
}

// TestSummary: ratios are found by the titles of their columns, and what is missing is told.
func TestSummary(t *testing.T) {
	name := filepath.Join(t.TempDir(), "table")
	var rows strings.Builder
	for _, r := range summaryRows {
		rows.WriteString("| " + r[1] + " | 3 s | 1 s | 3.14 | 1.0 | 4 s | 4.06 | 1 MiB | 1 MiB | | |\n")
	}
	head := "| what | QEMU 1.2.3 | cowl | ratio | goal | QEMU 4.5.6 | ratio | peak memory, QEMU 1.2.3 | cowl | output, QEMU 1.2.3 | cowl |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("Words.\n\n" + head + rows.String() + "\nMore words.\n")
	var out strings.Builder
	if err := summary(&out, name); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if lines[0] != "| faster than | QEMU 1.2.3 | QEMU 4.5.6 |" || lines[2] != "| convert raw to qcow2 | 3.1 | 4.1 |" || len(lines) != 2+len(summaryRows)+1 {
		t.Errorf("%s", out.String())
	}
	for text, want := range map[string]string{
		"no table":                              "no table",
		head + "| convert raw to qcow2 | 3 |\n": "no row",
		head + strings.ReplaceAll(rows.String(), "3.14", "–"): "invalid syntax",
	} {
		write(text)
		if err := summary(&out, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
