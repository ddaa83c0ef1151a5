package native

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/internal/native/serve"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// playing is the environment variable that makes this test the second program, and says what it does.
const playing = "COWL_TEST_NATIVE"

// starting is that which names a file to which each start of the second program adds a byte.
const starting = "COWL_TEST_NATIVE_STARTS"

func TestMain(m *testing.M) {
	if part := os.Getenv(playing); part != "" && len(os.Args) == 2 {
		if counter := os.Getenv(starting); counter != "" {
			if f, err := os.OpenFile(counter, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
				_, _ = f.Write([]byte{'.'})
				f.Close()
			}
		}
		os.Exit(play(part))
	}
	os.Exit(m.Run())
}

func play(part string) int {
	ends, err := serve.Inherited()
	if err != nil {
		return 3
	}
	control := ends.Control
	switch part {
	case "other version":
		_ = link.NewConn(control).Send(link.Reply{Version: link.Version + 1})
		_, _ = control.Read(make([]byte, 1))
		return 0
	case "silent":
		_, _ = control.Read(make([]byte, 1))
		return 0
	case "ends":
		return 7
	case "garbage":
		_, _ = control.Write([]byte("hello\n"))
		_, _ = control.Read(make([]byte, 1))
		return 0
	}
	if part == "odd slots" {
		_, _ = ends.Slots.Write((&link.SlotReply{Slot: 1}).Append(nil))
		ends.Slots, _ = net.Pipe()
	}
	if serve.Run(ends, engine(part)) != nil {
		return 1
	}
	return 0
}

// engine has disks in memory. Its name says what is wrong with them.
type engine string

func (e engine) Create(json.RawMessage) (bool, error) {
	if e == "making" {
		return true, nil
	}
	return false, &link.Error{Step: "create", Name: "x", Errno: int(syscall.EEXIST)}
}
func (e engine) Delete(json.RawMessage) error { return nil }

func (e engine) Open(args json.RawMessage) (serve.Disk, error) {
	if e == "no library" {
		return nil, &link.Error{Step: link.StepLibrary, Name: "libfoo.so.1", Text: "no such file"}
	}
	var size int64
	if err := json.Unmarshal(args, &size); err != nil {
		return nil, err
	}
	return &memory{engine: e, p: make([]byte, size), full: make([]bool, size/unit+1)}, nil
}

// unit is that of holes.
const unit = 4096

type memory struct {
	engine
	mu   sync.Mutex
	p    []byte
	full []bool
}

func (m *memory) Facts() (link.Facts, error) {
	return link.Facts{Size: int64(len(m.p)), Object: unit, Holes: true, Zeroes: true}, nil
}

func (m *memory) ReadAt(p []byte, off int64) error {
	switch m.engine {
	case "slow":
		time.Sleep(time.Hour)
	case "failing":
		return syscall.EDQUOT
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(p, m.p[off:])
	return nil
}

func (m *memory) WriteAt(p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off+int64(len(p)) > int64(len(m.p)) {
		return syscall.EINVAL
	}
	copy(m.p[off:], p)
	for i := off / unit; i*unit < off+int64(len(p)); i++ {
		m.full[i] = true
	}
	return nil
}

func (m *memory) Flush() error { return nil }

func (m *memory) WriteZeroes(off, n int64, _ bool) error {
	if m.engine == "no zeroes" {
		return errors.ErrUnsupported
	}
	return m.WriteAt(make([]byte, n), off)
}

func (m *memory) Discard(off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := (off + unit - 1) / unit; (i+1)*unit <= off+n; i++ {
		clear(m.p[i*unit : (i+1)*unit])
		m.full[i] = false
	}
	return nil
}

func (m *memory) Extents(off, n int64, yield func(int64, bool) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for end := off + n; off < end; {
		i := off / unit
		length := min((i+1)*unit, end) - off
		if !yield(length, m.full[i]) {
			return nil
		}
		off += length
	}
	return nil
}

func (m *memory) Resize(r link.Resize) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Prealloc != "" {
		return syscall.ENOTSUP
	}
	old := m.p
	m.p, m.full = make([]byte, r.Size), append(m.full, make([]bool, r.Size/unit+1)...)
	copy(m.p, old)
	return nil
}

func (m *memory) Usage() (int64, error) {
	if m.engine == "slow" {
		time.Sleep(time.Hour)
	}
	return 123, nil
}

func (m *memory) Close() error {
	if m.engine == "stuck" {
		time.Sleep(time.Hour)
	}
	return nil
}

// theirs is the engine as cowl has it.
func theirs() *Engine {
	return &Engine{Name: "rbd", Text: "Memory", Packages: "the package foo", Error: func(e *link.Error) error {
		return fmt.Errorf("step %s: %w", e.Step, syscall.Errno(e.Errno))
	}}
}

// as has this test be the second program.
func as(t *testing.T, part string) {
	t.Helper()
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("there is no second program for this system")
	}
	t.Setenv(Variable, os.Args[0])
	t.Setenv(playing, part)
}

// open opens a disk of a size.
func open(t *testing.T, part string, size int64, opt Options) *Disk {
	t.Helper()
	as(t, part)
	opt.Subject = "the disk"
	d, err := theirs().Open(t.Context(), nil, size, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

func TestReadWrite(t *testing.T) {
	ctx := t.Context()
	d := open(t, "memory", 1<<20, Options{Write: true})
	want := bytes.Repeat([]byte("0123456789abcdef"), 100000)
	if _, err := d.WriteAt(ctx, want, 77777); err != nil { // beyond the end
		t.Fatal(err)
	}
	if got := 77777 + int64(len(want)); d.Size() != got {
		t.Errorf("%d bytes, not %d", d.Size(), got)
	}
	got := make([]byte, len(want)+100)
	n, err := d.ReadAt(ctx, got, 77777)
	if n != len(want) || err == nil || !bytes.Equal(got[:n], want) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := errors.Join(d.WriteZeroes(ctx, 77777, 10, 0), d.Discard(ctx, 0, 300000), d.Flush(ctx)); err != nil {
		t.Error(err)
	}
	if x, err := d.Map(ctx, 100, 1<<20); err != nil || x.Kind != driver.ExtentZero || x.Length != 300000/unit*unit-100 {
		t.Errorf("%+v, %v", x, err)
	}
	if x, err := d.Map(ctx, 300000, 1<<30); err != nil || x.Kind != driver.ExtentData || x.Length != d.Size()-300000 {
		t.Errorf("%+v, %v", x, err)
	}
	if n, err := d.DiskUsage(ctx); n != 123 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := d.Resize(ctx, 1000, driver.ResizeOptions{}); err != nil || d.Size() != 1000 {
		t.Errorf("%d, %v", d.Size(), err)
	}
	if err := d.Resize(ctx, 2000, driver.ResizeOptions{Prealloc: driver.PreallocFull}); !errors.Is(err, syscall.ENOTSUP) || d.Size() != 1000 {
		t.Errorf("%d, %v", d.Size(), err)
	}
}

// TestAhead reads a disk in order and out of order.
func TestAhead(t *testing.T) {
	ctx := t.Context()
	size := int64(20<<20 + 77)
	if testkit.Race { // which makes everything slow
		size = 6<<20 + 77
	}
	d := open(t, "memory", size, Options{Write: true})
	p := make([]byte, d.Size())
	for i := range p {
		p[i] = byte(i * i >> 7)
	}
	if _, err := d.WriteAt(ctx, p, 0); err != nil {
		t.Fatal(err)
	}
	d.ahead = d.newAhead()
	for _, off := range []int64{0, 100, 5<<20 + 3, size - 1<<20, 3} {
		for ; off < d.Size(); off += 3 << 20 {
			if _, err := d.Map(ctx, off, d.Size()); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 3<<20+5)
			n, _ := d.ReadAt(ctx, got, off)
			if !bytes.Equal(got[:n], p[off:min(off+int64(len(got)), d.Size())]) {
				t.Fatalf("other data at %d", off)
			}
		}
	}
}

// TestReadOnly wants changes of a disk that is open for reading refused.
func TestReadOnly(t *testing.T) {
	ctx := t.Context()
	d := open(t, "memory", 1<<20, Options{})
	_, err := d.WriteAt(ctx, []byte{1}, 0)
	for i, err := range []error{err, d.WriteZeroes(ctx, 0, 1, 0), d.Discard(ctx, 0, 1), d.Resize(ctx, 1, driver.ResizeOptions{})} {
		if !errors.Is(err, driver.ErrReadOnly) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// TestReasons wants errors to say more than NBD can.
func TestReasons(t *testing.T) {
	d := open(t, "failing", 1<<20, Options{})
	if _, err := d.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, syscall.EDQUOT) || !strings.HasPrefix(err.Error(), "reading of the disk: ") {
		t.Error(err)
	}
	d = open(t, "no zeroes", 1<<20, Options{Write: true})
	if err := d.WriteZeroes(t.Context(), 0, 10, 0); !errors.Is(err, driver.ErrUnsupported) {
		t.Error(err)
	}
	if err := theirs().Create(t.Context(), nil, nil, nil); !errors.Is(err, syscall.EEXIST) || !strings.Contains(err.Error(), "step create") {
		t.Error(err)
	}
	if err := theirs().Delete(t.Context(), nil, time.Minute); err != nil {
		t.Error(err)
	}
	if err := d.Call(t.Context(), "dance", nil, nil); err == nil {
		t.Error("an operation that there is not")
	}
}

// TestStart wants one clear line about a program that does not start as it should.
func TestStart(t *testing.T) {
	ctx := t.Context()
	for part, want := range map[string]string{
		"other version": "is that of another version of cowl",
		"ends":          "ended before its time: exit status 7",
		"garbage":       "gives no sensible answer",
		"no library":    "need the library libfoo.so.1, which cannot be loaded: install the package foo (no such file)",
	} {
		t.Run(part, func(t *testing.T) {
			as(t, part)
			if _, err := theirs().Open(ctx, nil, 0, Options{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Error(err)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		as(t, "silent")
		e := theirs()
		e.silence = 50 * time.Millisecond
		if _, err := e.Open(ctx, nil, 0, Options{}); !errors.Is(err, driver.ErrTimeout) || !strings.Contains(err.Error(), "does not answer any more") {
			t.Error(err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		as(t, "memory")
		t.Setenv(Variable, "")
		t.Setenv("PATH", t.TempDir())
		if _, err := theirs().Open(ctx, nil, 0, Options{}); !errors.Is(err, driver.ErrUnsupported) || !strings.Contains(err.Error(), "need the program cowl-native, which is not installed") {
			t.Error(err)
		}
		t.Setenv(Variable, "/nonexistent")
		if _, err := theirs().Open(ctx, nil, 0, Options{}); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
			t.Error(err)
		}
	})
}

// TestLost kills the program in the middle of requests: they fail, and so do later ones.
func TestLost(t *testing.T) {
	ctx := t.Context()
	d := open(t, "slow", 1<<20, Options{})
	failed := make(chan error)
	go func() {
		_, err := d.ReadAt(ctx, make([]byte, 10), 0)
		failed <- err
	}()
	if err := d.p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "ended before its time: signal: killed") {
		t.Error(err)
	}
	if _, err := d.ReadAt(ctx, make([]byte, 10), 0); err == nil || !strings.Contains(err.Error(), "ended before its time") {
		t.Error(err)
	}
	if _, err := d.DiskUsage(ctx); err == nil || !strings.Contains(err.Error(), "ended before its time") {
		t.Error(err)
	}
}

// TestHangs stops the program, as if it hung.
func TestHangs(t *testing.T) {
	if !testkit.Long() {
		t.Skip("COWL_LONG is not set")
	}
	as(t, "memory")
	e := theirs()
	e.silence = 2*link.Alive + time.Second
	d, err := e.Open(t.Context(), nil, int64(1<<20), Options{})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Stop(t, d.p.cmd.Process)
	if _, err := d.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, driver.ErrTimeout) || !strings.Contains(err.Error(), "does not answer any more") {
		t.Error(err)
	}
	_ = d.Close(t.Context())
}

// TestCancelled wants requests to end with their context or their time-out, and the disk
// to close at once afterwards.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := open(t, "slow", 1<<20, Options{})
	go cancel()
	if _, err := d.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
	d = open(t, "slow", 1<<20, Options{Timeout: 50 * time.Millisecond})
	if _, err := d.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, driver.ErrTimeout) || !strings.Contains(err.Error(), "no answer within") {
		t.Error(err)
	}
	// An operation that waits for another one ends with its own context, too.
	d = open(t, "slow", 1<<20, Options{})
	begun := make(chan error)
	long, stop := context.WithCancel(t.Context())
	go func() {
		_, err := d.DiskUsage(long)
		begun <- err
	}()
	for len(d.p.calls) == 0 {
		runtime.Gosched()
	}
	if _, err := d.DiskUsage(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop()
	if err := <-begun; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	d = open(t, "stuck", 1<<20, Options{Write: true})
	d.p.hurry.Store(true)
	if err := d.Close(t.Context()); !errors.Is(err, driver.ErrTimeout) {
		t.Error(err)
	}
}

// TestClosingCancelled wants a closing that takes long to end with its context, well before it times out.
func TestClosingCancelled(t *testing.T) {
	for _, before := range []bool{true, false} {
		d := open(t, "stuck", 1<<20, Options{Write: true})
		ctx, cancel := context.WithCancel(t.Context())
		if before {
			cancel()
		}
		closed := make(chan error)
		go func() { closed <- d.Close(ctx) }()
		for !before && len(d.p.calls) == 0 {
			runtime.Gosched()
		}
		cancel()
		if err := <-closed; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v: %v", before, err)
		}
		<-d.p.ended
	}
}

// TestOrphan wants the program to end when cowl does.
func TestOrphan(t *testing.T) {
	as(t, "slow")
	cmd := exec.Command(os.Args[0], "rbd")
	p := &Process{cmd: cmd}
	mem, err := p.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer unmap(mem)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	defer p.sockets[data].Close()
	defer p.sockets[slotSocket].Close()
	c := link.NewConn(p.sockets[control])
	var r link.Reply
	if err := errors.Join(c.Receive(&r), c.Send(link.Request{ID: 1, Op: link.OpOpen, Args: json.RawMessage("1000")})); err != nil {
		t.Fatal(err)
	}
	p.sockets[control].Close()
	if err := cmd.Wait(); err == nil && cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v", cmd.ProcessState)
	}
}

// TestReceive wants a line that comes in parts, with time-outs in between, to be whole.
func TestReceive(t *testing.T) {
	a, b := net.Pipe()
	c := link.NewConn(a)
	var r link.Reply
	for _, part := range []string{`{"id":`, `12`} {
		if err := a.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = b.Write([]byte(part))
			_ = a.SetReadDeadline(time.Now())
		}()
		if err := c.Receive(&r); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if err := a.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = b.Write([]byte("3}\n")) }()
	if err := c.Receive(&r); err != nil || r.ID != 123 {
		t.Errorf("%+v, %v", r, err)
	}
	// A line without an end takes no memory without bound.
	go func() {
		for p := make([]byte, 1<<20); ; {
			if _, err := b.Write(p); err != nil {
				return
			}
		}
	}()
	if err := c.Receive(&r); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Error(err)
	}
	a.Close()
}

// TestFind wants the program in the folders that it is said to be in.
func TestFind(t *testing.T) {
	as(t, "memory")
	t.Setenv(Variable, "")
	dir := t.TempDir()
	self := filepath.Join(dir, "bin", "self")
	for _, d := range []string{"bin", "libexec/cowl"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(self, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"libexec/cowl/" + program, "bin/" + program} {
		want := filepath.Join(dir, name)
		if err := os.WriteFile(want, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestFound$", "-test.v")
		cmd.Env = append(os.Environ(), "COWL_TEST_FIND=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "found: "+want+"\n") {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// TestFound tells TestFind what is found.
func TestFound(t *testing.T) {
	if os.Getenv("COWL_TEST_FIND") == "" {
		t.Skip("TestFind runs it")
	}
	path, err := find("Memory")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("found: %s\n", path)
}
