package ssh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/ssh"
)

// wire passes connections on to a server, until a fault.
type wire struct {
	net.Listener
	sent  atomic.Int64 // bytes to the server
	conns atomic.Int64 // connections so far
	open  atomic.Int64 // connections now

	mu sync.Mutex
	// fault is asked before n bytes are passed on, in answers of the server (down) or
	// requests: nil passes them, an error breaks the connection, errStall keeps it
	// without passing anything more.
	fault func(conn int64, down bool, n int) error
}

var (
	errStall = errors.New("stall")
	errReset = errors.New("reset")
)

func (w *wire) set(f func(conn int64, down bool, n int) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

// through starts a wire to a server and returns the name of a file behind it.
func through(t testing.TB, s *sshServer, path string) (*wire, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	var running sync.WaitGroup
	end := make(chan struct{})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { w.pass(c, s.Addr().String(), end) })
		}
	})
	t.Cleanup(func() { l.Close(); close(end); running.Wait() })
	s.write(t, "config", "Host *\n HostKeyAlias "+s.Addr().String()+"\n")
	s.write(t, "known_hosts", strings.Replace(readFile(t, s.dotSSH("known_hosts")), "["+"127.0.0.1]:"+s.port(), "["+s.Addr().String()+"],"+s.Addr().String(), 1))
	return w, "ssh://" + l.Addr().String() + path + "?host_key_check=no"
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *wire) pass(c net.Conn, to string, end chan struct{}) {
	defer c.Close()
	id := w.conns.Add(1)
	w.open.Add(1)
	defer w.open.Add(-1)
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer up.Close()
	var running sync.WaitGroup
	carry := func(dst, src net.Conn, down bool) {
		defer dst.Close()
		defer src.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := src.Read(b)
			if n > 0 {
				if !down {
					w.sent.Add(int64(n))
				}
				w.mu.Lock()
				fault := w.fault
				w.mu.Unlock()
				if fault != nil {
					switch ferr := fault(id, down, n); ferr {
					case nil:
					case errStall:
						<-end
						return
					default:
						return
					}
				}
				if _, err := dst.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	running.Go(func() { carry(up, c, false) })
	carry(c, up, true)
	running.Wait()
}

// after makes a fault of a connection once n bytes went in one direction.
func after(conn int64, down bool, n int, err error) func(int64, bool, int) error {
	var seen atomic.Int64
	return func(c int64, d bool, got int) error {
		if c == conn && d == down && seen.Add(int64(got)) > int64(n) {
			return err
		}
		return nil
	}
}

func one(seconds int) opts.Dict { return opts.Dict{"timeout": seconds, "connections": 1} }

// TestLostWhileReading: a disk that is only read is connected again, after a reset and
// after silence.
func TestLostWhileReading(t *testing.T) {
	for name, fault := range map[string]error{"reset": errReset, "stall": errStall} {
		t.Run(name, func(t *testing.T) {
			if name == "stall" && !testkit.Long() {
				t.Skip("COWL_LONG is not set")
			}
			path, data := newFile(t, 3<<20)
			w, url := through(t, newServer(t, nil), path)
			n := open(t, url, openOptions{options: one(1)})
			w.set(after(1, true, 1<<20, fault))
			got := make([]byte, len(data))
			if _, err := n.ReadAt(context.Background(), got, 0); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%v, the same: %v", err, bytes.Equal(got, data))
			}
			if c := w.conns.Load(); c != 2 {
				t.Errorf("%d connections", c)
			}
		})
	}
}

// TestChangedWhileLost: what is not the same file after connecting again is an error.
func TestChangedWhileLost(t *testing.T) {
	path, data := newFile(t, 3<<20)
	w, url := through(t, newServer(t, nil), path)
	n := open(t, url, openOptions{options: one(30)})
	w.set(after(1, true, 1<<20, errReset))
	if err := os.WriteFile(path, append(data, 1), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := n.ReadAt(context.Background(), make([]byte, len(data)), 0)
	if err == nil || !strings.Contains(err.Error(), "the file on the server was changed by another program") {
		t.Error(err)
	}
}

// TestLostWhileWriting: what has no answer is written again, on a system that still has the rest.
func TestLostWhileWriting(t *testing.T) {
	for name, fault := range map[string]error{"reset": errReset, "stall": errStall} {
		for _, grow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, %v", name, grow), func(t *testing.T) {
				if (name == "stall") == grow && !testkit.Long() {
					t.Skip("COWL_LONG is not set")
				}
				path, data := newFile(t, 3<<20)
				if grow {
					if err := os.Truncate(path, 1<<20); err != nil {
						t.Fatal(err)
					}
				}
				boot := "a"
				w, url := through(t, newServer(t, func(s *sshServer) { s.serve = (&bootedFiles{boot: func() string { return boot }}).serve }), path)
				ctx := context.Background()
				n := open(t, url, openOptions{write: true, options: one(1)})
				rand.Shuffle(len(data), func(i, j int) { data[i], data[j] = data[j], data[i] })
				if _, err := n.WriteAt(ctx, data[:4096], 0); err != nil {
					t.Fatal(err)
				}
				w.set(after(1, false, 1<<20, fault))
				_, err := n.WriteAt(ctx, data[4096:], 4096)
				if name == "stall" {
					// The server may execute it yet: it is not written again, and the next flush says so.
					var loss *ssh.LossError
					if !errors.As(err, &loss) || !errors.Is(err, driver.ErrTimeout) {
						t.Fatalf("write: %v", err)
					}
					if err := n.Flush(ctx); !errors.As(err, &loss) {
						t.Errorf("flush: %v", err)
					}
					_, err = n.WriteAt(ctx, data[4096:], 4096)
				}
				if err != nil {
					t.Fatalf("write: %v", err)
				}
				if err := n.Flush(ctx); err != nil {
					t.Errorf("flush: %v", err)
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%v, the same: %v", err, bytes.Equal(got, data))
				}
				if c := w.conns.Load(); c != 2 {
					t.Errorf("%d connections", c)
				}
			})
		}
	}
}

// TestLostSystem: a server whose system was started again, or does not tell, may have lost what was
// written. The next flush says so, once.
func TestLostSystem(t *testing.T) {
	for name, after := range map[string]string{"started again": "b", "unknown": ""} {
		t.Run(name, func(t *testing.T) {
			path, data := newFile(t, 3<<20)
			var boot atomic.Value
			boot.Store("a")
			w, url := through(t, newServer(t, func(s *sshServer) {
				s.serve = (&bootedFiles{boot: func() string { return boot.Load().(string) }}).serve
			}), path)
			ctx := context.Background()
			n := open(t, url, openOptions{write: true, options: one(30)})
			cut := func() {
				var done atomic.Bool
				w.set(func(int64, bool, int) error {
					if done.CompareAndSwap(false, true) {
						return errReset
					}
					return nil
				})
			}
			cut() // nothing was written: nothing is lost
			if err := readErr(n); err != nil || w.conns.Load() != 2 {
				t.Errorf("before a write: %v, %d connections", err, w.conns.Load())
			}
			boot.Store(after)
			if _, err := n.WriteAt(ctx, data[:512], 512); err != nil {
				t.Fatal(err)
			}
			cut()
			var loss *ssh.LossError
			for what, err := range map[string]error{"read": readErr(n), "write": func() error { _, err := n.WriteAt(ctx, data[:512], 0); return err }()} {
				if !errors.As(err, &loss) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := n.Flush(ctx); !errors.As(err, &loss) {
				t.Errorf("the next flush: %v", err)
			}
			if _, err := n.WriteAt(ctx, data[:512], 512); err != nil {
				t.Errorf("a write after that: %v", err)
			}
			if err := readErr(n); err != nil {
				t.Errorf("a read after that: %v", err)
			}
		})
	}
}

func readErr(n driver.Storage) error {
	_, err := n.ReadAt(context.Background(), make([]byte, 512), 0)
	return err
}

// bootedFiles are the files of this machine, on a server that tells which start of its system it
// is: boot is called for each question; "": it does not tell.
type bootedFiles struct{ boot func() string }

func (f *bootedFiles) serve(c io.ReadWriteCloser) {
	_ = sftp.NewRequestServer(c, sftp.Handlers{FileGet: f, FilePut: f, FileCmd: f, FileList: f}).Serve()
}

func (f *bootedFiles) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	if r.Filepath == "/proc/sys/kernel/random/boot_id" {
		if id := f.boot(); id != "" {
			return strings.NewReader(id), nil
		}
		return nil, os.ErrNotExist
	}
	return os.Open(r.Filepath)
}

func (f *bootedFiles) Filewrite(r *sftp.Request) (io.WriterAt, error) { return f.OpenFile(r) }

func (f *bootedFiles) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) {
	return os.OpenFile(r.Filepath, os.O_RDWR, 0)
}

func (f *bootedFiles) Filecmd(r *sftp.Request) error {
	if r.Method == "Setstat" && r.AttrFlags().Size {
		return os.Truncate(r.Filepath, int64(r.Attributes().Size))
	}
	return nil
}

func (f *bootedFiles) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	st, err := os.Stat(r.Filepath)
	return oneFile{st}, err
}

type oneFile struct{ os.FileInfo }

func (o oneFile) ListAt(list []os.FileInfo, off int64) (int, error) {
	if off > 0 {
		return 0, io.EOF
	}
	list[0] = o.FileInfo
	return 1, nil
}

// TestCancel: a request ends with its context, although the server says nothing and
// there is no time-out. So does connecting.
func TestCancel(t *testing.T) {
	path, data := newFile(t, 3<<20)
	w, url := through(t, newServer(t, nil), path)
	for _, write := range []bool{false, true} {
		w.set(nil)
		n := open(t, url, openOptions{write: write, options: one(0)})
		ctx, cancel := context.WithCancel(context.Background())
		var silent atomic.Bool
		w.set(func(_ int64, down bool, _ int) error {
			if down {
				silent.Store(true)
				cancel()
			}
			if silent.Load() {
				return errStall // in both directions: writes wait for room
			}
			return nil
		})
		var err error
		if write {
			_, err = n.WriteAt(ctx, data, 0)
		} else {
			_, err = n.ReadAt(ctx, make([]byte, len(data)), 0)
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("write %v: %v", write, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.set(func(int64, bool, int) error { cancel(); return errStall })
	if _, err := tryOpen(ctx, url, openOptions{options: one(0)}); !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
	}
	w.set(func(int64, bool, int) error { return errStall })
	if _, err := tryOpen(context.Background(), url, openOptions{options: one(1)}); !errors.Is(err, driver.ErrTimeout) {
		t.Errorf("open without an answer: %v", err)
	}
}

// TestUnmeasured: the length that a file has after a write that was given up, but done, is known to the next change.
func TestUnmeasured(t *testing.T) {
	path, _ := newFile(t, 1<<20)
	w, url := through(t, newServer(t, nil), path)
	n := open(t, url, openOptions{write: true, options: one(0)})
	ctx, cancel := context.WithCancel(t.Context())
	const grown = 1<<20 + 1000
	var silent atomic.Int64 // the connection that says nothing any more
	w.set(func(conn int64, down bool, _ int) error {
		if info, err := os.Stat(path); down && err == nil && info.Size() == grown && silent.CompareAndSwap(0, conn) {
			cancel()
		}
		if silent.Load() == conn {
			return errStall
		}
		return nil
	})
	if _, err := n.WriteAt(ctx, make([]byte, 10), grown-10); !errors.Is(err, context.Canceled) || n.Size() != 1<<20 {
		t.Fatalf("%v, %d bytes", err, n.Size())
	}
	if _, err := n.WriteAt(t.Context(), make([]byte, 10), 0); err != nil || n.Size() != grown {
		t.Errorf("%v, %d bytes, not %d", err, n.Size(), grown)
	}
}

// odd is a file that a server treats in an odd way.
type odd struct {
	data  []byte
	most  int // bytes of one answer
	write error
	mu    sync.Mutex
}

func (o *odd) Fileread(*sftp.Request) (io.ReaderAt, error)  { return o, nil }
func (o *odd) Filewrite(*sftp.Request) (io.WriterAt, error) { return o, nil }
func (o *odd) OpenFile(*sftp.Request) (sftp.WriterAtReaderAt, error) {
	return o, nil
}
func (o *odd) Filecmd(*sftp.Request) error                   { return sftp.ErrSSHFxFailure }
func (o *odd) Filelist(*sftp.Request) (sftp.ListerAt, error) { return o, nil }
func (o *odd) ListAt(l []os.FileInfo, off int64) (int, error) {
	if off > 0 {
		return 0, io.EOF
	}
	l[0] = sizeOf(len(o.data))
	return 1, io.EOF
}

func (o *odd) ReadAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if off >= int64(len(o.data)) {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), o.most)], o.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (o *odd) WriteAt(p []byte, off int64) (int, error) {
	if o.write != nil {
		return 0, o.write
	}
	return copy(o.data[off:], p), nil
}

// sizeOf is a file of a size.
type sizeOf int64

func (sizeOf) Name() string       { return "disk" }
func (s sizeOf) Size() int64      { return int64(s) }
func (sizeOf) Mode() os.FileMode  { return 0o644 }
func (sizeOf) IsDir() bool        { return false }
func (sizeOf) ModTime() time.Time { return time.Unix(1, 0) }
func (sizeOf) Sys() any           { return nil }

// TestOddServer: answers shorter than asked for are asked for again; a file that got
// shorter, a full disk and a server without fsync are told.
func TestOddServer(t *testing.T) {
	_, data := newFile(t, 1<<20)
	o := &odd{data: data, most: 10000}
	s := newServer(t, func(s *sshServer) {
		s.serve = func(c io.ReadWriteCloser) {
			_ = sftp.NewRequestServer(c, sftp.Handlers{FileGet: o, FilePut: o, FileCmd: o, FileList: o}).Serve()
		}
	})
	ctx := context.Background()
	var warned []string
	n := open(t, s.url("/disk"), openOptions{write: true, warn: func(w string) { warned = append(warned, w) }})
	if len(warned) != 1 || !strings.Contains(warned[0], "does not support fsync") {
		t.Errorf("warnings: %q", warned)
	}
	if err := n.Flush(ctx); err != nil {
		t.Errorf("flush: %v", err)
	}
	got := make([]byte, len(data)+10)
	if m, err := n.ReadAt(ctx, got, 0); err != io.EOF || !bytes.Equal(got[:m], data) {
		t.Errorf("%d bytes, %v", m, err)
	}
	o.write = errors.New("disk full")
	if _, err := n.WriteAt(ctx, data[:4096], 4096); err == nil || !strings.Contains(err.Error(), "writing 4096 bytes at offset 4096: the SFTP server answers: failure (sftp error code: 4)") {
		t.Errorf("write: %v", err)
	}
	o.mu.Lock()
	o.data = data[:100]
	o.mu.Unlock()
	if _, err := n.ReadAt(ctx, got[:4096], 4096); !errors.Is(err, driver.ErrTruncated) {
		t.Errorf("a file that got shorter: %v", err)
	}
	if _, err := n.ReadAt(ctx, got[:4096], 0); !errors.Is(err, driver.ErrTruncated) || !strings.Contains(err.Error(), "offset 100") {
		t.Errorf("a file that got shorter: %v", err)
	}
}

// TestZeroes: zeroes are not sent where they are already, and at the end of the file.
func TestZeroes(t *testing.T) {
	path, data := newFile(t, 4<<20)
	w, url := through(t, newServer(t, nil), path)
	ctx := context.Background()
	n := open(t, url, openOptions{write: true, options: one(30)})
	z := n.(driver.ZeroWriter)
	before := w.sent.Load()
	for _, c := range []struct {
		what   string
		off, n int64
		err    error
	}{
		{"beyond the end", 6 << 20, 2 << 20, nil},
		{"between, again", 5 << 20, 1 << 20, nil},
		{"in the middle", 1 << 20, 1 << 20, driver.ErrUnsupported},
		{"the end", 2 << 20, 6 << 20, nil},
	} {
		if err := z.WriteZeroes(ctx, c.off, c.n, 0); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.what, err)
		}
		if n.Size() != 8<<20 {
			t.Errorf("%s: size %d", c.what, n.Size())
		}
	}
	if sent := w.sent.Load() - before; sent > 4096 {
		t.Errorf("%d bytes were sent", sent)
	}
	want := append(bytes.Clone(data[:2<<20]), make([]byte, 6<<20)...)
	if got := readFile(t, path); got != string(want) {
		t.Error("another file")
	}
	if _, err := n.WriteAt(ctx, data[:1000], 7<<20); err != nil {
		t.Fatal(err)
	}
	if err := z.WriteZeroes(ctx, 7<<20, 512, 0); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("zeroes over data: %v", err)
	}
}

// TestNoSFTP: a server without SFTP says so.
func TestNoSFTP(t *testing.T) {
	path, _ := newFile(t, 1000)
	s := newServer(t, func(s *sshServer) { s.subsystem = "other" })
	opens(t, "no SFTP", s.url(path), openOptions{}, "failed to initialize sftp handle: ssh: subsystem request failed")
}
