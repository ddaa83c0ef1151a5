package vsock

import (
	"context"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLoopback talks to itself by way of the local context id.
func TestLoopback(t *testing.T) {
	l, err := Listen(":" + strconv.Itoa(0xffffffff)) // any port
	if err != nil {
		t.Skipf("no vsock here: %v", err)
	}
	defer l.Close()
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	go func() {
		c, err := l.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	c, err := Dial(ctx, "1:"+port)
	if err != nil {
		t.Skipf("no local vsock here: %v", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q %v", b, err)
	}
}

func TestParseAddr(t *testing.T) {
	for s, want := range map[string]string{"2:10809": "2:10809", ":1": "4294967295:1", "x:1": "", "1": "", "1:-1": ""} {
		a, err := ParseAddr(s)
		if (err == nil) != (want != "") || err == nil && a.String() != want {
			t.Errorf("%s: %v, %v", s, a, err)
		}
	}
}
