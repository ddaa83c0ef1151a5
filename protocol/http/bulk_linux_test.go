package http

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/internal/inet"
)

// TestBulk wants long answers to be received in large pieces, over TLS, too.
func TestBulk(t *testing.T) {
	const size = 16 << 20
	for _, secure := range []bool{false, true} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(size))
			for range size >> 14 {
				_, _ = w.Write(make([]byte, 1<<14))
			}
		}))
		if secure {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		c, err := newClient(u, &openOptions{Timeout: 60}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		var below *inet.Bulk
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { below = bulk(info.Conn) }})
		for range 2 {
			a, err := c.get(ctx, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			large := false
			for done, p := 0, make([]byte, 64<<10); done < size; {
				n, err := io.ReadAtLeast(a.body, p, 1)
				if err != nil {
					t.Fatal(err)
				}
				done += n
				large = large || lowWater(t, below) > 1
			}
			if !large {
				t.Fatalf("TLS %t: the system wakes for each byte", secure)
			}
			a.body.Close()
		}
	}
	if bulk(tls.Client(&net.TCPConn{}, nil)) != nil {
		t.Fatal("a connection of others is one of ours")
	}
}

func lowWater(t *testing.T, b *inet.Bulk) (n int) {
	t.Helper()
	raw, err := b.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return n
}
