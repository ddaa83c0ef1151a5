package recognised_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/format/recognised"
	"github.com/cowl-disk/cowl/protocol/file"
)

func open(path string) error {
	reg := block.NewRegistry(append(recognised.Drivers(), raw.New(), file.New())...)
	img, err := block.Open(context.Background(), reg, block.Source{Filename: path}, block.OpenOptions{Gate: driver.DenyAll})
	if err == nil {
		err = errors.New("opened as " + img.Format())
		img.Close(context.Background())
	}
	return err
}

// TestMagics: images are refused by name, not taken for raw, and what looks alike is raw.
func TestMagics(t *testing.T) {
	for _, c := range []struct{ name, start, want string }{
		{"disk", "sprs", "sparseimage"},
		{"disk", "QFI\xfb\x00\x00\x00\x09", "opened as raw"},
	} {
		path := filepath.Join(t.TempDir(), c.name)
		if err := os.WriteFile(path, []byte(c.start+strings.Repeat("\x00", 4096)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(path); !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.start, err, c.want)
		}
	}
}
