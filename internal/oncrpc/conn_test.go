package oncrpc

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// slow is a connection whose first Write goes on until it is told to end.
type slow struct {
	net.Conn
	began, end chan struct{}
	ended      atomic.Bool
}

func (s *slow) Write(p []byte) (int, error) {
	close(s.began)
	<-s.end
	s.ended.Store(true)
	return 0, net.ErrClosed
}

// TestPayloadIsFree: a call that fails with its connection returns when nothing of it is being
// sent any more, since its payload may be used for something else then.
func TestPayloadIsFree(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	s := &slow{Conn: near, began: make(chan struct{}), end: make(chan struct{})}
	c := NewConn(s, &Auth{}, time.Minute)
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		if _, err := c.Do(t.Context(), &Call{XID: 1, Payload: make([]byte, 1<<20)}); !errors.Is(err, ErrLost) {
			t.Errorf("%v, not a lost connection", err)
		}
		if !s.ended.Load() {
			t.Error("the call returned while it was being sent")
		}
	}()
	<-s.began
	c.Close()
	select {
	case <-returned:
	case <-time.After(50 * time.Millisecond): // it waits, as it should
	}
	close(s.end)
	<-returned
}

// TestNotSent: a call whose connection ends before it is sent does not wait for that.
func TestNotSent(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	s := &slow{Conn: near, began: make(chan struct{}), end: make(chan struct{})}
	c := NewConn(s, &Auth{}, time.Minute)
	go func() { _, _ = c.Do(t.Context(), &Call{XID: 1}) }()
	<-s.began
	result := make(chan error)
	go func() {
		_, err := c.Do(t.Context(), &Call{XID: 2})
		result <- err
	}()
	for c.Busy() < 2 {
		time.Sleep(time.Millisecond)
	}
	c.Close()
	if err := <-result; !errors.Is(err, ErrLost) {
		t.Errorf("%v, not a lost connection", err)
	}
	close(s.end)
}
