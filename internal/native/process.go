package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// Engine says whose disks a process opens.
type Engine struct {
	Name string // as cowl-native has it: "rbd" or "gluster"
	Text string // for people
	// Packages are those that have the library, for people.
	Packages string
	// Error words a step that failed, which is not one of all engines.
	Error func(e *link.Error) error

	// silence is how long the program may say nothing, 0: the usual time. For tests.
	silence time.Duration
}

const (
	// silence is how long the program may say nothing until it counts as hung.
	silence = 30 * time.Second
	// again is how long is waited once more: this process may have been stopped meanwhile.
	again = 2 * time.Second
	// closing bounds the farewell, in which what the library has in its cache is written, hurried that of a disk that nothing was written to since
	// it was flushed, or whose requests were cancelled, and late what is left of it when its own context ends.
	closing, hurried, late = time.Minute, 400 * time.Millisecond, 100 * time.Millisecond
	// dying is how long the system may take to tell how the program ended, buried how long its end
	// is waited for when it was killed: it ends in any case.
	dying, buried = time.Second, 200 * time.Millisecond
)

// The sockets, in the order in which the program has them.
const (
	control = iota
	data
	slotSocket
	sockets // how many they are
)

// Process is a running program with at most one open disk. Its methods may be called
// from several goroutines.
type Process struct {
	engine  atomic.Pointer[Engine] // whose errors it has
	cmd     *exec.Cmd
	sockets []net.Conn // by the constants
	conn    *link.Conn // on control
	slots   *slots
	nbd     *client.Conn  // on data, once a disk was opened
	ended   chan struct{} // closed when the process has ended; status is set then
	status  error
	hurry   atomic.Bool // a request was cancelled

	calls   chan struct{} // has room for one: during a call
	mu      sync.Mutex
	next    uint64
	waiting chan *link.Reply // not nil: for the reply to next
	lost    error            // not nil: the program is gone
	gone    chan struct{}    // closed then
}

// Start starts the program for an engine.
func (e *Engine) Start(ctx context.Context) (*Process, error) {
	path, err := find(e.Text)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: exec.Command(path, e.Name), calls: make(chan struct{}, 1), ended: make(chan struct{}), gone: make(chan struct{})}
	p.engine.Store(e)
	p.cmd.Stderr = os.Stderr
	// The allocator of the system keeps what was freed for each thread apart. The libraries have dozens of
	// threads, and take large pieces: that would be half of the memory of the program. The user's own setting wins.
	p.cmd.Env = append([]string{"MALLOC_ARENA_MAX=1"}, os.Environ()...)
	mem, err := p.connect()
	if err == nil {
		if err = p.cmd.Start(); err != nil {
			err = driver.Errorf(nil, "starting the program %s: %w", path, err)
		}
	}
	// The program alone holds them from here on: if it ends, that is seen.
	for _, f := range p.cmd.ExtraFiles {
		f.Close()
	}
	if err != nil {
		for _, c := range p.sockets {
			c.Close()
		}
		if mem != nil {
			unmap(mem)
		}
		return nil, err
	}
	p.conn = link.NewConn(p.sockets[control])
	p.slots = newSlots(p.sockets[slotSocket], mem, p.gone, p.slotsBroke)
	go func() {
		p.status = p.cmd.Wait()
		close(p.ended)
	}()
	hello := make(chan error, 1)
	go p.receive(hello)
	select {
	case err = <-hello:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		p.abandon(err)
		return nil, err
	}
	return p, nil
}

// connect makes what the program gets: a socket for each of the constants, and the memory of
// the slots.
func (p *Process) connect() (mem []byte, err error) {
	for range sockets {
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, err
		}
		p.sockets = append(p.sockets, ours)
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, theirs)
	}
	mem, f, err := sharedMemory(link.SlotCount * link.SlotSize)
	if err == nil {
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
	}
	return mem, err
}

// receive takes what the program says until it is gone. The first line goes to hello.
func (p *Process) receive(hello chan<- error) {
	quiet := p.engine.Load().silence
	if quiet == 0 {
		quiet = silence
	}
	first, late := true, false
	for {
		wait := quiet
		if late {
			wait = min(again, quiet)
		}
		var r link.Reply
		err := p.sockets[control].SetReadDeadline(time.Now().Add(wait))
		if err == nil {
			err = p.conn.Receive(&r)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !late:
			late = true
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = driver.Errorf(driver.ErrTimeout, "the program %s for disks of %s does not answer any more", program, p.engine.Load().Text)
		case err == nil && first && r.Version != link.Version:
			err = driver.Errorf(driver.ErrUnsupported, "the program %s is that of another version of cowl: install both from the same package", p.cmd.Path)
		case err != nil:
			err = p.reason(err)
		}
		if err != nil {
			p.kill(err)
			err = p.gave() // another socket may know better
		}
		if first {
			hello <- err
			first = false
		}
		if err != nil {
			return
		}
		late = false
		p.mu.Lock()
		if p.waiting != nil && r.ID == p.next {
			p.waiting <- &r
			p.waiting = nil
		}
		p.mu.Unlock()
	}
}

// reason is why a socket of the program cannot be read.
func (p *Process) reason(err error) error {
	if hasEnded(err) {
		return p.howItEnded()
	}
	return driver.Errorf(nil, "the program %s for disks of %s gives no sensible answer: %w", program, p.engine.Load().Text, err)
}

// hasEnded says whether a socket was closed.
func hasEnded(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// slotsBroke ends a program that gives no sensible answers about slots. If it has ended, its last
// words come first.
func (p *Process) slotsBroke(err error) {
	if hasEnded(err) {
		select {
		case <-p.gone:
			return
		case <-time.After(dying):
		}
	}
	p.kill(p.reason(err))
}

// howItEnded is the error of a program that has closed its sockets.
func (p *Process) howItEnded() error {
	reason := error(io.ErrUnexpectedEOF)
	select {
	case <-p.ended:
		if p.status != nil {
			reason = p.status
		}
	case <-time.After(dying):
	}
	return driver.Errorf(nil, "the program %s for disks of %s ended before its time: %w", program, p.engine.Load().Text, reason)
}

// kill ends the program; err is why all requests fail from now on, unless they already
// do.
func (p *Process) kill(err error) {
	p.mu.Lock()
	if p.lost == nil {
		p.lost = err
		close(p.gone)
	}
	p.mu.Unlock()
	_ = p.cmd.Process.Kill()
	for _, c := range p.sockets {
		c.Close()
	}
}

// bury waits a little for the end of a program that was killed. No request is under way.
func (p *Process) bury() {
	select {
	case <-p.ended:
	case <-time.After(buried):
	}
	p.slots.close()
	if p.nbd != nil {
		p.nbd.Close()
	}
}

// gave is why the program is gone, nil if it is not.
func (p *Process) gave() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Call has the program do an operation and reads what it answers into result, which may be
// nil. If ctx ends first the program ends, too: nobody can know what it has done.
func (p *Process) Call(ctx context.Context, op string, args, result any) error {
	select {
	case p.calls <- struct{}{}:
		defer func() { <-p.calls }()
	case <-p.gone:
		return p.gave()
	case <-ctx.Done():
		return ctx.Err()
	}
	r := link.Request{Op: op}
	if args != nil {
		b, err := json.Marshal(args)
		if err != nil {
			return err
		}
		r.Args = b
	}
	answer := make(chan *link.Reply, 1)
	p.mu.Lock()
	if p.lost != nil {
		p.mu.Unlock()
		return p.lost
	}
	p.next++
	r.ID = p.next
	p.waiting = answer
	p.mu.Unlock()
	go func() { _ = p.conn.Send(r) }() // if it fails, so does receiving
	select {
	case reply := <-answer:
		return p.engine.Load().take(reply, result)
	case <-p.gone:
		select {
		case reply := <-answer: // the last one of a program that ends
			return p.engine.Load().take(reply, result)
		default:
		}
		return p.gave()
	case <-ctx.Done():
		p.hurry.Store(true)
		p.kill(driver.Errorf(nil, "the request was cancelled: %w", ctx.Err()))
		return ctx.Err()
	}
}

// take reads the result of a reply.
func (e *Engine) take(reply *link.Reply, result any) error {
	if reply.Error != nil {
		return e.failed(reply.Error)
	}
	if result == nil || reply.Result == nil {
		return nil
	}
	return json.Unmarshal(reply.Result, result)
}

// failed words an error of the program.
func (e *Engine) failed(err *link.Error) error {
	switch {
	case err.Step == link.StepLibrary:
		return driver.Errorf(driver.ErrUnsupported, "disks of %s need the library %s, which cannot be loaded: install %s (%s)", e.Text, err.Name, e.Packages, err.Text)
	case err.Step != link.StepRequest:
		return e.Error(err)
	case err.Errno != 0:
		return driver.Errorf(nil, "%s: %w", err.Name, syscall.Errno(err.Errno))
	}
	return driver.Errorf(nil, "%s: %w", err.Name, errors.New(err.Text))
}

// dial makes the connection for data, unless there is one. The program must have opened a disk.
func (p *Process) dial(ctx context.Context) error {
	if p.nbd != nil {
		return nil
	}
	c, err := client.Dial(ctx, client.Config{Contexts: []string{wire.ContextAllocation},
		Dial: func(context.Context, string, string) (net.Conn, error) { return p.sockets[data], nil }})
	if err == nil && c.Size() != link.Size {
		c.Close()
		err = fmt.Errorf("a disk of %d bytes", c.Size())
	}
	if err == nil {
		p.nbd = c
		return nil
	}
	if ctx.Err() == nil {
		if lost := p.loss(); lost != nil {
			return lost
		}
		err = driver.Errorf(nil, "the program %s: %w", program, err)
	}
	return err
}

// loss is why the program is gone. It waits a little for that to be known.
func (p *Process) loss() error {
	select {
	case <-p.gone:
	case <-time.After(2 * dying):
	}
	return p.gave()
}

// End closes the disk, if one is open, and ends the program. What was written is flushed
// then; the error says if it could not be. It waits longer where it need not hurry, and only for a moment more
// when ctx has ended.
func (p *Process) End(ctx context.Context, hurry bool) error {
	err := p.finish(ctx, link.OpClose, hurry)
	p.kill(errClosed())
	p.bury()
	return err
}

// finish does the operation that closes the disk.
func (p *Process) finish(ctx context.Context, op string, hurry bool) error {
	limit := closing
	if hurry || p.hurry.Load() {
		limit = hurried
	}
	own, stop := driver.Farewell(ctx, late)
	defer stop()
	wait, cancel := context.WithTimeout(own, limit)
	defer cancel()
	err := p.Call(wait, op, nil, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		err = driver.Errorf(driver.ErrTimeout, "the program %s for disks of %s does not end", program, p.engine.Load().Text)
	}
	return err
}
