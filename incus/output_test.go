package incus

import (
	"os"
	"path/filepath"
	"runtime"
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

// TestPushedMeanwhile: a file goes to the disk unit by unit while it is written, with one
// call at a time that nothing waits for.
func TestPushedMeanwhile(t *testing.T) {
	o := outputs{dir: t.TempDir()}
	defer o.discard()
	f, err := o.create("a")
	if err != nil {
		t.Fatal(err)
	}
	began, end := make(chan struct{}), make(chan struct{})
	f.push = func() { began <- struct{}{}; <-end }
	f.written(pushUnit - 1)
	select {
	case <-began:
		t.Fatal("pushed before there was a unit")
	default:
	}
	f.written(pushUnit)
	<-began
	f.written(2 * pushUnit) // returns, and does not begin another
	if !f.pushing.Load() {
		t.Error("a push that goes on is not known")
	}
	end <- struct{}{}
	for f.pushing.Load() {
		runtime.Gosched()
	}
	f.written(2*pushUnit + 1)
	if f.pushing.Load() {
		t.Error("pushed for less than a unit")
	}
	f.written(3 * pushUnit)
	<-began
	end <- struct{}{}
}
