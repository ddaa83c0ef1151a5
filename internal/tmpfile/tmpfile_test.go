package tmpfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// names lists a folder.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// hasUnnamed reports whether the folder can have files without names, by the system alone.
func hasUnnamed(t *testing.T, dir string) bool {
	t.Helper()
	f := create(dir, "*")
	if f == nil {
		return false
	}
	if err := f.Discard(); err != nil {
		t.Fatal(err)
	}
	return true
}

func write(t *testing.T, f *File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.Path()); err != nil || string(got) != text {
		t.Fatalf("by its path: %q, %v", got, err)
	}
}

// TestRename names files, where nothing has the name and where another file has.
func TestRename(t *testing.T) {
	for kind, make := range map[string]func(dir, pattern string) (*File, error){"unnamed": Create, "named": CreateNamed} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			for _, text := range []string{"first", "second"} {
				before := names(t, dir)
				f, err := make(dir, ".x-*")
				if err != nil {
					t.Fatal(err)
				}
				write(t, f, text)
				if during := names(t, dir); kind == "unnamed" && hasUnnamed(t, dir) && !slices.Equal(during, before) {
					t.Errorf("while it is written: %q", during)
				}
				if err := errors.Join(f.Finish(0o640), f.Rename("final"), f.Discard()); err != nil {
					t.Fatal(err)
				}
				final := filepath.Join(dir, "final")
				got, err := os.ReadFile(final)
				if list := names(t, dir); err != nil || string(got) != text || !slices.Equal(list, []string{"final"}) {
					t.Errorf("%q, %v, %q", got, err, list)
				}
				if info, err := os.Stat(final); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o640 {
					t.Errorf("%v, %v", info.Mode(), err)
				}
				if _, err := f.WriteString("more"); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("written after it has its name: %v", err)
				}
			}
		})
	}
}

// TestDiscard holds that a file which does not get its name is gone.
func TestDiscard(t *testing.T) {
	for kind, make := range map[string]func(dir, pattern string) (*File, error){"unnamed": Create, "named": CreateNamed, "anonymous": Anonymous} {
		for _, finish := range []bool{false, true} {
			dir := t.TempDir()
			f, err := make(dir, ".x-*")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString("text"); err != nil {
				t.Fatal(err)
			}
			if finish {
				if err := f.Finish(0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(f.Discard(), f.Discard()); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
			if list := names(t, dir); len(list) > 0 {
				t.Errorf("%s leaves %q", kind, list)
			}
		}
	}
}

// TestAnonymous holds that no name is seen while the file is open.
func TestAnonymous(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file keeps its name on Windows")
	}
	dir := t.TempDir()
	f, err := Anonymous(dir, "x-*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Discard()
	if list := names(t, dir); len(list) > 0 {
		t.Errorf("%q", list)
	}
}

// TestRenameFails holds that a file stays discardable where its name cannot be had.
func TestRenameFails(t *testing.T) {
	for kind, make := range map[string]func(dir, pattern string) (*File, error){"unnamed": Create, "named": CreateNamed} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "final", "full"), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := make(dir, ".x-*")
		if err == nil {
			err = f.Finish(0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Rename("final"); err == nil {
			t.Errorf("%s: a folder was replaced", kind)
		}
		if err := f.Discard(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if list := names(t, dir); !slices.Equal(list, []string{"final"}) {
			t.Errorf("%s leaves %q", kind, list)
		}
	}
}

// TestPush: a file is as it was, pushed or not, and one that is closed is left alone.
func TestPush(t *testing.T) {
	f, err := Create(t.TempDir(), "a-*")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	f.Push()
	b := make([]byte, 7)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	if err := f.Discard(); err != nil {
		t.Fatal(err)
	}
	f.Push()
}
