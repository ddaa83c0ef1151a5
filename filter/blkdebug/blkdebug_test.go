package blkdebug_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/blkdebug"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const size = 1 << 20

// open opens a raw disk over blkdebug with the options of the filter.
func open(t *testing.T, o opts.Dict) *block.Image {
	t.Helper()
	m := mem.New().(*mem.Driver)
	m.Add("d", mem.NewDisk(size))
	d := opts.Dict{"driver": "raw", "file.driver": "blkdebug", "file.image.driver": "mem", "file.image.filename": "d"}
	for k, v := range o {
		d["file."+k] = v
	}
	img, err := block.Open(t.Context(), block.NewRegistry(raw.New(), blkdebug.New(), m), block.Source{Options: d},
		block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(t.Context()) })
	return img
}

// TestRules: which requests fail, how, and how often.
func TestRules(t *testing.T) {
	type step struct {
		do   string // r or w, and a sector; f: flush; z: zeroes
		want syscall.Errno
	}
	for _, c := range []struct {
		name  string
		o     opts.Dict
		steps []step
	}{
		{"read", opts.Dict{"inject-error.0.event": "read_aio"}, []step{{"w0", 0}, {"r0", syscall.EIO}, {"r5", syscall.EIO}}},
		{"errno", opts.Dict{"inject-error.0.event": "write_aio", "inject-error.0.errno": "28"}, []step{{"w0", syscall.ENOSPC}}},
		{"once", opts.Dict{"inject-error.0.event": "write_aio", "inject-error.0.once": "on"}, []step{{"w0", syscall.EIO}, {"w0", 0}, {"r0", 0}}},
		{"sector", opts.Dict{"inject-error.0.event": "read_aio", "inject-error.0.sector": "3"}, []step{{"r2", 0}, {"r3", syscall.EIO}, {"r4", 0}}},
		{"iotype", opts.Dict{"inject-error.0.event": "none", "inject-error.0.iotype": "flush"}, []step{{"w0", 0}, {"r0", 0}, {"f", syscall.EIO}}},
		{"flush", opts.Dict{"inject-error.0.event": "flush_to_disk"}, []step{{"w0", 0}, {"f", syscall.EIO}}},
		{"an event arms for all kinds", opts.Dict{"inject-error.0.event": "write_aio", "inject-error.0.sector": "9"}, []step{{"r9", 0}, {"w1", 0}, {"r9", syscall.EIO}}},
		{"states", opts.Dict{"set-state.0.event": "write_aio", "set-state.0.state": "1", "set-state.0.new_state": "2",
			"inject-error.0.event": "read_aio", "inject-error.0.state": "2"}, []step{{"r0", 0}, {"w0", 0}, {"r0", syscall.EIO}}},
		{"other state", opts.Dict{"inject-error.0.event": "read_aio", "inject-error.0.state": "7"}, []step{{"r0", 0}}},
		{"zeroes", opts.Dict{"inject-error.0.event": "pwritev_zero"}, []step{{"w0", 0}, {"z0", syscall.EIO}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := open(t, c.o)
			for i, s := range c.steps {
				off := int64(0)
				if len(s.do) > 1 {
					off = int64(s.do[1]-'0') * 512
				}
				var err error
				switch s.do[0] {
				case 'r':
					_, err = img.ReadAt(t.Context(), make([]byte, 512), off)
				case 'w':
					_, err = img.WriteAt(t.Context(), make([]byte, 512), off)
				case 'z':
					err = img.WriteZeroes(t.Context(), off, 512, 0)
				case 'f':
					err = img.Flush(t.Context())
				}
				if s.want == 0 && err != nil || s.want != 0 && !errors.Is(err, s.want) {
					t.Errorf("step %d (%s): %v, want %v", i, s.do, err, s.want)
				}
			}
		})
	}
}

// TestLimits: the layers above keep the limits that the options give.
func TestLimits(t *testing.T) {
	img := open(t, opts.Dict{"align": "4k", "max-transfer": "8k", "opt-write-zero": "16k", "max-write-zero": "32k", "opt-discard": "64k", "max-discard": "128k"})
	want := driver.Limits{RequestAlignment: 4096, MaxTransfer: 8192, ZeroAlignment: 16 << 10, MaxZero: 32 << 10, DiscardAlignment: 64 << 10, MaxDiscard: 128 << 10}
	if got := img.Tree().File().Limits(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := img.WriteAt(t.Context(), []byte("x"), 5000); err != nil {
		t.Error(err)
	}
	if err := img.WriteZeroes(t.Context(), 100, 200_000, 0); err != nil {
		t.Error(err)
	}
}

// TestDiscardPieces: what is discarded is cut at the boundaries that the options give, and
// parts of units get through to the child, each by itself.
func TestDiscardPieces(t *testing.T) {
	m, disk := mem.New().(*mem.Driver), mem.NewDisk(size)
	m.Add("d", disk)
	d := opts.Dict{"driver": "raw", "file.driver": "blkdebug", "file.image.driver": "mem", "file.image.filename": "d",
		"file.align": "512", "file.opt-discard": "48k", "file.max-discard": "96k"}
	img, err := block.Open(t.Context(), block.NewRegistry(raw.New(), blkdebug.New(), m), block.Source{Options: d},
		block.OpenOptions{Write: true, Unmap: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	const k = 1 << 10
	for _, c := range []struct {
		off, n int64
		want   [][2]int64
	}{
		{40*k + 1, 300 * k, [][2]int64{{40*k + 512, 8*k - 512}, {48 * k, 96 * k}, {144 * k, 96 * k}, {240 * k, 96 * k}, {336 * k, 4 * k}}},
		{1 * k, 2 * k, [][2]int64{{1 * k, 2 * k}}},
		{100, 400, nil},
		{size - 70*k, 70 * k, [][2]int64{{size - 70*k, 6 * k}, {size - 64*k, 64 * k}}},
	} {
		var got [][2]int64
		disk.SetHook(func(op mem.Op, off, n int64) error {
			if op == mem.OpDiscard {
				got = append(got, [2]int64{off, n})
			}
			return nil
		})
		if err := img.Discard(t.Context(), c.off, c.n); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%d bytes at %d: %v %v", c.n, c.off, got, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{"# comment\n\n[inject-error]\nevent = \"l2_load\"\nerrno = \"5\"\n[set-state \"x\"]\nevent = \"none\"\nnew_state = \"3\"\n", ""},
		{"[inject-error]\nevent = \"l2_loadx\"\n", "invalid parameter value: l2_loadx"},
		{"[nope]\n", "there is no option group 'nope'"},
		{"[inject-error]\nevent = l2_load\n", "invalid parameter value: "},
		{"[inject-error]\nfoo = \"x\"\n", "invalid parameter 'foo'"},
		{"[inject-error]\nerrno = \"5\"\n", "missing event name for rule"},
		{"[set-state]\nevent = \"none\"\nerrno = \"5\"\n", "invalid parameter 'errno'"},
	} {
		name := filepath.Join(t.TempDir(), "rules")
		if err := os.WriteFile(name, []byte(c.config), 0o600); err != nil {
			t.Fatal(err)
		}
		m := mem.New().(*mem.Driver)
		m.Add("d", mem.NewDisk(size))
		img, err := block.Open(t.Context(), block.NewRegistry(raw.New(), blkdebug.New(), m), block.Source{Filename: "blkdebug:" + name + ":mem:d"},
			block.OpenOptions{Gate: driver.DenyAll})
		if err == nil {
			if got := img.Filename(); got != "blkdebug:"+name+":mem:d" {
				t.Errorf("the name is %s", got)
			}
			img.Close(t.Context())
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.config, err, c.want)
		}
	}
}

// TestBlockStatus: a rule for block status counts although the child tells it.
func TestBlockStatus(t *testing.T) {
	img := open(t, opts.Dict{"inject-error.0.event": "none", "inject-error.0.iotype": "block-status", "inject-error.0.sector": "8"})
	if _, err := img.Status(t.Context(), 0, 4096, nil); err != nil {
		t.Errorf("before the sector: %v", err)
	}
	if _, err := img.Status(t.Context(), 4096, 512, nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("at the sector: %v", err)
	}
	if _, err := img.ReadAt(t.Context(), make([]byte, 512), 4096); err != nil {
		t.Errorf("a read is no question: %v", err)
	}
}
