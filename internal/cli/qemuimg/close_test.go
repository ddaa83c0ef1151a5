package qemuimg

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/mem"
	"github.com/cowl-disk/cowl/protocol/vvfat"
)

// silent is a protocol whose server does not answer when disks are closed.
type silent struct {
	*mem.Driver
	desc driver.Desc
}

// Desc implements driver.Driver.
func (s *silent) Desc() *driver.Desc { return &s.desc }

// Open implements driver.Driver.
func (s *silent) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := s.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return silentDisk{n.(driver.Storage)}, nil
}

type silentDisk struct{ driver.Storage }

// Close implements driver.Node: it waits until its caller does not any more.
func (silentDisk) Close(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// patient is a protocol of the name of local files that tells whether closing a disk may be cut short.
type patient struct {
	silent
	bounded bool
}

// Open implements driver.Driver.
func (p *patient) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := p.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return patientDisk{n.(driver.Storage), p}, nil
}

type patientDisk struct {
	driver.Storage
	p *patient
}

// Close implements driver.Node.
func (d patientDisk) Close(ctx context.Context) error {
	d.p.bounded = ctx.Done() != nil
	return d.Storage.Close(ctx)
}

func named(name string) silent {
	s := silent{Driver: mem.New().(*mem.Driver)}
	s.desc = *s.Driver.Desc()
	s.desc.Name, s.desc.Schemes = name, nil
	s.Add("disk", mem.NewDisk(1<<20))
	return s
}

// TestCloseInterrupted wants an image on a server that does not answer to be closed all the same once the command is
// interrupted, and that to be told; and an image in a local file to be written to the end.
func TestCloseInterrupted(t *testing.T) {
	far, near := named("far"), &patient{silent: named("file")}
	p, _, _ := testProgram("cowl")
	p.Drivers = []driver.Driver{&far, near, raw.New()}
	for name, cut := range map[string]bool{"far": true, "file": false} {
		ctx, cancel := context.WithCancel(t.Context())
		c := p.newCall(ctx)
		img, err := block.Open(ctx, c.reg, block.Source{Format: "raw", Options: opts.Dict{"file.driver": name, "file.filename": "disk"}},
			block.OpenOptions{Write: true, Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		closed := make(chan error, 1)
		go func() { closed <- c.close(img) }()
		select {
		case err = <-closed:
		case <-time.After(time.Minute):
			t.Fatalf("%s: it does not end", name)
		}
		if errors.Is(err, context.Canceled) != cut || !cut && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if near.bounded {
		t.Error("closing a local file is cut short")
	}
}

// TestServed tells images on this machine from those that have something elsewhere.
func TestServed(t *testing.T) {
	p, _, errs := testProgram("cowl")
	p.Drivers = []driver.Driver{file.New(), mem.New(), raw.New(), qcow2.New(), vvfat.New()}
	dir := t.TempDir()
	for _, args := range [][]string{
		{"-f", "raw", dir + "/raw", "1M"}, {"-f", "qcow2", dir + "/qcow2", "1M"}, {"-f", "raw", "mem:raw", "1M"},
		{"-f", "qcow2", "-b", dir + "/qcow2", "-F", "qcow2", dir + "/near"}, {"-f", "qcow2", "-b", "mem:raw", "-F", "raw", dir + "/mixed"},
		{"-f", "qcow2", "-b", dir + "/raw", "-F", "raw", "mem:top"},
	} {
		if code := p.Run(t.Context(), append([]string{"create"}, args...)); code != 0 {
			t.Fatalf("%v: %s", args, errs)
		}
	}
	for name, want := range map[string]bool{dir + "/raw": false, dir + "/qcow2": false, dir + "/near": false, "mem:raw": true, dir + "/mixed": true, "mem:top": true,
		"fat:" + t.TempDir(): false} {
		c := p.newCall(t.Context())
		img, err := c.open(image{name: name}, block.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := imageopt.Served(img); got != want {
			t.Errorf("%s: %v", name, got)
		}
		if err := c.close(img); err != nil {
			t.Error(err)
		}
	}
}

// hanging is a disk whose server answers no more once it is told so, whatever the context of a request.
type hanging struct {
	driver.Storage
	armed, asked, release chan struct{}
}

// Flush implements driver.Node.
func (h hanging) Flush(ctx context.Context) error {
	select {
	case <-h.armed:
		select {
		case h.asked <- struct{}{}:
		default:
		}
		<-h.release
	default:
	}
	return h.Storage.Flush(ctx)
}

// hangingServer is a protocol of one such disk.
type hangingServer struct {
	silent
	disk hanging
}

// Open implements driver.Driver.
func (s *hangingServer) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := s.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	d := s.disk
	d.Storage = n.(driver.Storage)
	return d, nil
}

// TestInterruptedChange: a command that changes an image on a server dies of the signal that interrupted it, if
// what is under way does not end. One that changes a local file does not, and one that ends does not.
func TestInterruptedChange(t *testing.T) {
	for _, name := range []string{"far", "file"} {
		s := &hangingServer{silent: named(name), disk: hanging{armed: make(chan struct{}), asked: make(chan struct{}, 1), release: make(chan struct{})}}
		p, _, errs := testProgram("cowl")
		p.Drivers = []driver.Driver{s, raw.New()}
		ctx, cancel := context.WithCancel(t.Context())
		c := p.newCall(ctx)
		c.over = make(chan struct{})
		died := make(chan struct{})
		c.die = func(got context.Context) {
			if got != ctx {
				t.Error("another context")
			}
			close(died)
		}
		img, err := c.openSource(ctx, block.Source{Format: "raw", Options: opts.Dict{"file.driver": name, "file.filename": "disk"}}, "disk", block.OpenOptions{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		close(s.disk.armed)
		go func() { _ = img.Flush(context.WithoutCancel(ctx)) }()
		<-s.disk.asked
		cancel()
		if name == "far" {
			select {
			case <-died:
				if got := errs.String(); got != "cowl: Interrupted; no answer in time: what was made may remain\n" {
					t.Errorf("%q", got)
				}
			case <-time.After(time.Minute):
				t.Error("it does not die")
			}
		}
		close(s.disk.release)
		if name == "file" {
			if err := img.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if !c.unwatched() {
				t.Error("changes of a local file are watched")
			}
		}
	}
}

// unwatched says whether nothing has been watched.
func (c *call) unwatched() (first bool) {
	c.watch.Do(func() { first = true })
	return first
}

// TestChangesNew wants new images on servers to be watched alone.
func TestChangesNew(t *testing.T) {
	p, _, _ := testProgram("cowl")
	p.Drivers = []driver.Driver{file.New(), mem.New(), raw.New()}
	for name, want := range map[string]bool{"disk": false, "file:disk": false, "mem:disk": true, "nosuch:disk": false} {
		c := p.newCall(t.Context())
		c.over = make(chan struct{})
		c.changesNew(name)
		close(c.over)
		if got := !c.unwatched(); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
