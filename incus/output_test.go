package incus

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestPublish looks at the folder whenever a name has changed, which is what is left when
// the program ends there.
func TestPublish(t *testing.T) {
	dir := t.TempDir()
	names := []string{"incus.tar.xz", "rootfs.squashfs"}
	// state tells the content of the two files, "-" for one that is missing.
	state := func() string {
		var s string
		for _, name := range names {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				data = []byte("-")
			}
			s += string(data)
		}
		return s
	}
	publish := func(content string) (seen []string) {
		o := outputs{dir: dir}
		defer o.discard()
		for _, name := range names {
			f, err := o.create(name)
			if err == nil {
				_, err = f.WriteString(content)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		o.stepped = func() { seen = append(seen, state()) }
		if err := o.publish(); err != nil {
			t.Fatal(err)
		}
		return seen
	}
	if seen, want := publish("1"), []string{"--", "-1", "11"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
	if seen, want := publish("2"), []string{"-1", "-2", "22"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
	if left, _ := os.ReadDir(dir); len(left) != len(names) {
		t.Errorf("left: %v", left)
	}
}
