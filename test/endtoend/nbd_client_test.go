package endtoend

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// exercise writes and reads in parallel and checks every byte. The first MiB of the
// export may be changed.
func exercise(t *testing.T, c *client.Conn) {
	t.Helper()
	const part = 64 << 10
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			ctx := context.Background()
			want := bytes.Repeat([]byte{byte(i + 1)}, part)
			off := int64(i) * part
			if err := c.WriteAt(ctx, want, off, i%4 == 0); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			got := make([]byte, part)
			if err := c.ReadAt(ctx, got, off); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read: wrong bytes, or %v", err)
			}
		})
	}
	wg.Wait()
	if err := c.Flush(t.Context()); err != nil {
		t.Errorf("flush: %v", err)
	}
	err := c.WriteZeroes(t.Context(), 0, part, client.ZeroOptions{})
	if err != nil && !errors.Is(err, client.ErrUnsupported) {
		t.Errorf("zero: %v", err)
	}
	if err == nil {
		got := bytes.Repeat([]byte{1}, part)
		if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, make([]byte, part)) {
			t.Errorf("zeroes: %v", err)
		}
	}
	if err := c.Trim(t.Context(), part, part, false); err != nil && !errors.Is(err, client.ErrUnsupported) {
		t.Errorf("trim: %v", err)
	}
}

// TestNBDDialects has our client meet servers of all ages.
func TestNBDDialects(t *testing.T) {
	for _, c := range []struct {
		name string
		mode client.Mode
		args []string
	}{
		{"now", client.ModeStructured, []string{"memory", "8M"}},
		{"oldstyle", client.ModeOldstyle, []string{"-o", "memory", "8M"}},
		{"newstyle, not fixed", client.ModeExportName, []string{"--mask-handshake=0", "memory", "8M"}},
		{"not fixed, no zeroes", client.ModeExportName, []string{"--mask-handshake=2", "memory", "8M"}},
		{"fixed, with zeroes", client.ModeStructured, []string{"--mask-handshake=1", "memory", "8M"}},
		{"no structured replies", client.ModeSimple, []string{"--no-sr", "memory", "8M"}},
		{"no zeroing", client.ModeStructured, []string{"--filter=nozero", "memory", "8M"}},
		{"no extents", client.ModeStructured, []string{"--filter=noextents", "memory", "8M"}},
		{"emulated FUA", client.ModeStructured, []string{"--filter=fua", "memory", "8M", "fuamode=emulate"}},
		{"forced FUA", client.ModeStructured, []string{"--filter=fua", "--filter=nozero", "memory", "8M", "fuamode=force"}},
		{"late replies", client.ModeStructured, []string{"--filter=delay", "memory", "8M", "rdelay=3ms", "wdelay=2ms"}},
		{"one at a time", client.ModeStructured, []string{"--filter=noparallel", "memory", "8M"}},
		{"block sizes", client.ModeStructured, []string{"--filter=blocksize-policy", "memory", "8M", "blocksize-minimum=512",
			"blocksize-preferred=64k", "blocksize-maximum=1M", "blocksize-error-policy=error"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sock := nbdkit(t, c.args...)
			conn := dialNBD(t, sock, client.Config{Contexts: []string{wire.ContextAllocation}})
			if conn.Info().Mode != c.mode || conn.Size() != 8<<20 {
				t.Errorf("%+v", conn.Info())
			}
			if c.mode != client.ModeOldstyle {
				exercise(t, conn)
			} else if err := conn.WriteAt(t.Context(), []byte("hello"), 7, false); err != nil {
				// This server refuses there what it has offered: no more than this.
				t.Error(err)
			} else if b := make([]byte, 5); conn.ReadAt(t.Context(), b, 7) != nil || string(b) != "hello" {
				t.Errorf("%q", b)
			}
			if len(conn.Info().Contexts) == 1 {
				e, err := conn.BlockStatus(t.Context(), wire.ContextAllocation, 4<<20, 4<<20, false)
				if err != nil || len(e) == 0 {
					t.Errorf("block status: %v, %v", e, err)
				}
			}
			if c.name == "block sizes" {
				if b := conn.Info().BlockSize; b.Min != 512 || b.Max != 1<<20 {
					t.Errorf("%+v", b)
				}
				if err := conn.ReadAt(t.Context(), make([]byte, 4<<20), 0); err != nil {
					t.Errorf("a read of several requests: %v", err)
				}
			}
		})
	}
}

// TestNBDServerErrors has servers fail.
func TestNBDServerErrors(t *testing.T) {
	for _, args := range [][]string{{}, {"--no-sr"}, {"-o"}} {
		sock := nbdkit(t, append(args, "--filter=error", "memory", "8M", "error-pread=ENOSPC", "error-pread-rate=100%")...)
		c := dialNBD(t, sock, client.Config{})
		for range 3 {
			if err := c.ReadAt(t.Context(), make([]byte, 4096), 0); !errors.Is(err, wire.ENOSPC) {
				t.Errorf("%v", err)
			}
		}
		if err := c.WriteAt(t.Context(), make([]byte, 4096), 0, false); err != nil {
			t.Errorf("%v", err)
		}
	}
	sock := nbdkit(t, "--filter=exportname", "memory", "8M", "exportname=a", "exportname=b", "exportname-strict=true",
		"exportname-list=explicit", "exportdesc=fixed:of no use")
	list, err := client.List(t.Context(), client.Config{Network: "unix", Address: sock})
	if err != nil || len(list) != 2 || list[1].Name != "b" || list[1].Size != 8<<20 || list[0].Description != "of no use" {
		t.Errorf("%+v, %v", list, err)
	}
	_, err = client.Dial(t.Context(), client.Config{Network: "unix", Address: sock, Export: "c"})
	var oe *client.OptionError
	if !errors.As(err, &oe) {
		t.Errorf("%v", err)
	}
	_, err = client.Dial(t.Context(), client.Config{Network: "unix", Address: sock + "x"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestNBDOriginal has our client use QEMU's server, in each mode.
func TestNBDOriginal(t *testing.T) {
	testkit.Tool(t, "qemu-nbd")
	file := nbdImage(t, "qcow2")
	for _, mode := range []client.Mode{client.ModeSimple, client.ModeStructured, client.ModeExtended} {
		sock, stop := qemuNBD(t, file, "qcow2", "-A", "-x", "disk", "-D", "of mine", "-e", "3")
		c := dialNBD(t, sock, client.Config{Export: "disk", MaxMode: mode, Contexts: []string{wire.ContextAllocation, wire.ContextAllocationDepth}})
		info := c.Info()
		if info.Mode != mode || info.Description != "of mine" || (mode > client.ModeSimple) != (len(info.Contexts) == 2) {
			t.Errorf("%+v", info)
		}
		want := make([]byte, 3<<20)
		for i := range want {
			want[i] = 2
		}
		clear(want[1<<20 : 1<<20+64<<10])
		got := make([]byte, 3<<20)
		if err := c.ReadAt(t.Context(), got, 8<<20); err != nil || !bytes.Equal(got, want) {
			t.Errorf("mode %v: read: %v", mode, err)
		}
		if mode > client.ModeSimple {
			for _, name := range info.Contexts {
				var total uint64
				for off := int64(0); off < c.Size(); {
					e, err := c.BlockStatus(t.Context(), name, off, c.Size()-off, false)
					if err != nil {
						t.Fatal(err)
					}
					for _, x := range e {
						off += int64(x.Length)
						total += x.Length
					}
				}
				if total != uint64(c.Size()) {
					t.Errorf("%s covers %d bytes", name, total)
				}
			}
		}
		list, err := client.List(t.Context(), client.Config{Network: "unix", Address: sock, MaxMode: mode})
		if err != nil || len(list) != 1 || list[0].Name != "disk" || list[0].Size != 64<<20 {
			t.Errorf("%+v, %v", list, err)
		}
		c.Close()
		if mode == client.ModeExtended {
			c := dialNBD(t, sock, client.Config{Export: "disk"})
			exercise(t, c)
			c.Close()
		}
		stop()
	}
}

// TestNBDReference has our client use the server of the protocol's authors.
func TestNBDReference(t *testing.T) {
	testkit.Tool(t, "nbd-server")
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 8<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	conf := filepath.Join(dir, "conf")
	text := "[generic]\nport = " + port + "\nlistenaddr = 127.0.0.1\nallowlist = true\n[disk]\nexportname = " + disk + "\nflush = true\nfua = true\ntrim = true\n"
	if err := os.WriteFile(conf, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	// In the foreground, so that it ends with the test. It does not say when it is
	// ready.
	cmd := exec.Command(testkit.Tool(t, "nbd-server"), "-C", conf, "-d")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	cfg := client.Config{Network: "tcp", Address: "127.0.0.1:" + port, Export: "disk"}
	c, err := client.Dial(t.Context(), cfg)
	for tries := 0; errors.Is(err, syscall.ECONNREFUSED) && tries < 200; tries++ {
		<-time.After(10 * time.Millisecond)
		c, err = client.Dial(t.Context(), cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	exercise(t, c)
	c.Close()
	if c.Info().Mode < client.ModeSimple {
		t.Errorf("%+v", c.Info())
	}
}
