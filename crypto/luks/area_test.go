package luks

import (
	"context"
	"io"
	"os"
	"slices"
	"testing"
)

// memArea is an Area in memory, which grows. before is called ahead of each write
// and of each flush (with nil); an error of it fails the call.
type memArea struct {
	b      []byte
	before func(p []byte, off int64) error
}

func (m *memArea) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memArea) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	if m.before != nil {
		if err := m.before(p, off); err != nil {
			return 0, err
		}
	}
	if end := off + int64(len(p)); end > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, end-int64(len(m.b)))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memArea) Flush(context.Context) error {
	if m.before != nil {
		return m.before(nil, 0)
	}
	return nil
}

func (m *memArea) clone() *memArea { return &memArea{b: slices.Clone(m.b)} }

func (m *memArea) save(t testing.TB, name string, size int64) {
	t.Helper()
	if err := os.WriteFile(name, m.b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

func loadArea(t testing.TB, name string) *memArea {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return &memArea{b: b}
}

func openArea(t testing.TB, m *memArea) *Header {
	t.Helper()
	h, err := Open(t.Context(), m, int64(len(m.b)))
	if err != nil {
		t.Fatal(err)
	}
	return h
}
