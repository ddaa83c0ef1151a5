package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// What servers say, in hexadecimal. The client's first request of a connection has
// the cookie 0000000100000000.
const (
	newstyle = "4e42444d41474943 49484156454f5054 0003"
	rep      = "0003e889045565a9"
	cookie   = "0000000100000000"
	unsupExt = rep + "0000000b 80000001 00000000"
	unsupSR  = rep + "00000008 80000001 00000000"
	ackSR    = rep + "00000008 00000001 00000000"
	ackExt   = rep + "0000000b 00000001 00000000"
	goReply  = rep + "00000007 00000003 0000000c 0000 0000000000100000 016d" + rep + "00000007 00000001 00000000"

	simpleServer     = newstyle + unsupExt + unsupSR + goReply
	structuredServer = newstyle + unsupExt + ackSR + goReply
	extendedServer   = newstyle + ackExt + goReply
	oldServer        = "4e42444d41474943 0000420281861253 0000000000100000 0000016d"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// script is a server that says what it is told to, whatever the client says. Then it
// waits for the client to go, or goes itself.
func script(t testing.TB, say []byte, stay bool) Config {
	return Config{
		Network: "unix", HandshakeTimeout: time.Minute,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go io.Copy(io.Discard, theirs)
			go func() {
				theirs.Write(say)
				if !stay {
					theirs.Close()
				}
			}()
			t.Cleanup(func() { theirs.Close() })
			return ours, nil
		},
	}
}

// TestHandshakes has servers that break the rules before the transmission phase.
func TestHandshakes(t *testing.T) {
	for name, say := range map[string]string{
		"nothing":          "",
		"magic":            "4e42444d41474944 49484156454f5054 0003",
		"second magic":     "4e42444d41474943 49484156454f5055 0003",
		"reply magic":      newstyle + "0003e889045565aa 0000000b 00000001 00000000",
		"other option":     newstyle + rep + "0000000c 00000001 00000000",
		"reply length":     newstyle + rep + "0000000b 80000001 7fffffff",
		"ack with data":    newstyle + rep + "0000000b 00000001 00000001 00",
		"wrong type":       newstyle + rep + "0000000b 00000003 00000000",
		"no size":          newstyle + ackExt + rep + "00000007 00000001 00000000",
		"huge size":        newstyle + ackExt + rep + "00000007 00000003 0000000c 0000 ffffffffffffffff 016d" + rep + "00000007 00000001 00000000",
		"info length":      newstyle + ackExt + rep + "00000007 00000003 0000000b 0000 0000000000100000 01",
		"block size":       newstyle + ackExt + rep + "00000007 00000003 0000000e 0003 00000003 00001000 02000000",
		"many infos":       newstyle + ackExt + strings.Repeat(rep+"00000007 00000003 00000003 0077 00", 10001),
		"refused":          newstyle + ackExt + rep + "00000007 80000006 00000000",
		"shutting down":    newstyle + rep + "0000000b 80000007 00000000",
		"old, cut off":     oldServer,
		"old, large flags": "4e42444d41474943 0000420281861253 0000000000100000 0100016d" + strings.Repeat("00", 124),
	} {
		c, err := Dial(t.Context(), script(t, unhex(say), false))
		if err == nil {
			t.Errorf("%s: accepted", name)
			c.Close()
		}
	}
}

// TestReplies has servers that break the rules after it, in reply to a read of 8
// bytes at 16, or to a block status there.
func TestReplies(t *testing.T) {
	chunk := func(flags, typ, n string) string { return "668e33ef" + flags + typ + cookie + "000000" + n }
	data := func(off string) string { return "00000000000000" + off }
	for _, c := range []struct {
		name, server, say string
		ok                bool
	}{
		{"simple", simpleServer, "67446698 00000000" + cookie + "0102030405060708", true},
		{"oldstyle", oldServer + strings.Repeat("00", 124), "67446698 00000000" + cookie + "0102030405060708", true},
		{"structured", structuredServer, chunk("0001", "0001", "10") + data("10") + "0102030405060708", true},
		{"in pieces", structuredServer, chunk("0000", "0001", "0c") + data("14") + "05060708" + chunk("0000", "0001", "0a") + data("10") + "0102" +
			chunk("0000", "0001", "0a") + data("12") + "0304" + chunk("0001", "0000", "00"), true},
		{"extended", extendedServer, "6e8a278c 0001 0001" + cookie + data("10") + data("10") + data("10") + "0102030405060708", true},

		{"reply magic", simpleServer, "67446699 00000000" + cookie, false},
		{"simple instead", structuredServer, "67446698 00000000" + cookie + "0102030405060708", false},
		{"structured instead", simpleServer, chunk("0001", "0001", "10") + data("10") + "0102030405060708", false},
		{"compact instead", extendedServer, chunk("0001", "0001", "10") + data("10") + "0102030405060708", false},
		{"cookie", simpleServer, "67446698 00000000 0000000200000000 0102030405060708", false},
		{"cookie beyond", simpleServer, "67446698 00000000 00000001000000ff 0102030405060708", false},
		{"cut off", simpleServer, "67446698 00000000" + cookie + "01020304", false},
		{"overlap", structuredServer, chunk("0000", "0001", "0c") + data("10") + "01020304" + chunk("0001", "0001", "0e") + data("12") + "030405060708", false},
		{"before", structuredServer, chunk("0001", "0001", "10") + data("0f") + "0102030405060708", false},
		{"behind", structuredServer, chunk("0001", "0001", "10") + data("11") + "0102030405060708", false},
		{"far behind", structuredServer, chunk("0001", "0001", "10") + "fffffffffffffff8" + "0102030405060708", false},
		{"missing", structuredServer, chunk("0000", "0001", "0c") + data("10") + "01020304" + chunk("0001", "0000", "00"), false},
		{"empty data", structuredServer, chunk("0000", "0001", "08") + data("10"), false},
		{"short data", structuredServer, chunk("0000", "0001", "04") + "00000000", false},
		{"empty hole", structuredServer, chunk("0001", "0002", "0c") + data("10") + "00000000", false},
		{"large hole", structuredServer, chunk("0001", "0002", "0c") + data("10") + "00000009", false},
		{"short hole", structuredServer, chunk("0001", "0002", "08") + data("10"), false},
		{"not done", structuredServer, chunk("0000", "0000", "00"), false},
		{"none with data", structuredServer, chunk("0001", "0000", "01") + "00", false},
		{"unknown type", structuredServer, chunk("0001", "0009", "01") + "00", false},
		{"status", structuredServer, chunk("0001", "0005", "0c") + "00000001 00000008 00000000", false},
		{"error zero", structuredServer, chunk("0001", "8001", "06") + "00000000 0000", false},
		{"error length", structuredServer, chunk("0001", "8001", "06") + "00000005 0009", false},
		{"long error", structuredServer, "668e33ef 0001 8001" + cookie + "00100000", false},
		{"after the end", simpleServer, "67446698 00000005" + cookie + "67446698 00000005" + cookie, false},
	} {
		say := append(unhex(c.server), unhex(c.say)...)
		conn, err := Dial(t.Context(), script(t, unhex(c.server), true))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		conn.Close()
		// The reply must not come before the request: it would be to an unknown one.
		conn, err = Dial(t.Context(), afterRequest(t, say[:len(say)-len(unhex(c.say))], unhex(c.say)))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		p := bytes.Repeat([]byte{0xaa}, 8)
		err = conn.ReadAt(t.Context(), p, 16)
		switch {
		case c.ok && (err != nil || string(p) != "\x01\x02\x03\x04\x05\x06\x07\x08"):
			t.Errorf("%s: %x, %v", c.name, p, err)
		case !c.ok && c.name != "after the end" && !errors.Is(err, ErrLost):
			t.Errorf("%s: %x, %v", c.name, p, err)
		}
		if !c.ok {
			<-conn.Gone()
			if err := conn.ReadAt(t.Context(), p, 0); !errors.Is(err, ErrLost) {
				t.Errorf("%s, later: %v", c.name, err)
			}
		}
		conn.Close()
	}
}

// afterRequest is a server that says one thing during the handshake and another when
// a request has come.
func afterRequest(t testing.TB, before, after []byte) Config {
	return Config{
		Network: "unix", HandshakeTimeout: time.Minute,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { theirs.Close() })
			requests := make(chan struct{}, 1)
			go func() {
				// A request is what begins with its magic.
				var seen []byte
				b := make([]byte, 4096)
				for {
					n, err := theirs.Read(b)
					if err != nil {
						return
					}
					seen = append(seen, b[:n]...)
					if bytes.Contains(seen, unhex("25609513")) || bytes.Contains(seen, unhex("21e41c71")) {
						select {
						case requests <- struct{}{}:
						default:
						}
					}
				}
			}()
			go func() {
				theirs.Write(before)
				<-requests
				theirs.Write(after)
				theirs.Close()
			}()
			return ours, nil
		},
	}
}

// TestHostileServers has thousands of damaged servers.
func TestHostileServers(t *testing.T) {
	n := 6000
	if testing.Short() || testkit.Race {
		n = 800
	}
	before := runtime.NumGoroutine()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		hs := unhex([]string{simpleServer, structuredServer, extendedServer}[i%3])
		reply := unhex("668e33ef 0001 0001" + cookie + "00000010 0000000000000010 0102030405060708")
		if i%3 == 0 {
			reply = unhex("67446698 00000000" + cookie + "0102030405060708")
		} else if i%3 == 2 {
			reply = unhex("6e8a278c 0001 0001" + cookie + "0000000000000010 0000000000000010 0000000000000010 0102030405060708")
		}
		hurt := reply
		if r.IntN(3) == 0 {
			hurt = hs
		}
		for range 1 + r.IntN(3) {
			hurt[r.IntN(len(hurt))] ^= 1 << r.IntN(8)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var theirs net.Conn
		cfg := Config{Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, other := net.Pipe()
			theirs = other
			go io.Copy(io.Discard, other)
			go func() {
				other.Write(hs)
				for range 3 {
					other.Write(reply)
				}
				other.Close()
			}()
			return ours, nil
		}, Contexts: nil}
		if c, err := Dial(ctx, cfg); err == nil {
			c.ReadAt(ctx, make([]byte, 8), 16)
			<-c.Gone()
			c.Close()
		}
		if ctx.Err() != nil {
			t.Fatalf("hangs with %x, %x", hs, reply)
		}
		cancel()
		theirs.Close()
	}
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// TestLoss has a connection go while many requests wait.
func TestLoss(t *testing.T) {
	hs := unhex(simpleServer)
	var theirs net.Conn
	c, err := Dial(t.Context(), Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, other := net.Pipe()
		theirs = other
		go io.Copy(io.Discard, other)
		go other.Write(hs)
		return ours, nil
	}, InFlight: 8})
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for i := range 50 { // more than may be under way
		go func() {
			if i%2 == 0 {
				errs <- c.ReadAt(context.Background(), make([]byte, 100000), 0)
			} else {
				errs <- c.WriteAt(context.Background(), make([]byte, 100000), 0, false)
			}
		}()
	}
	theirs.Close()
	for range 50 {
		if err := <-errs; !errors.Is(err, ErrLost) {
			t.Errorf("%v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestCancelHandshake has a server that says nothing.
func TestCancelHandshake(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, script(t, nil, true)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestCancel leaves requests whose replies never come, one in the middle of its data.
func TestCancel(t *testing.T) {
	c, err := Dial(t.Context(), afterRequest(t, unhex(simpleServer), nil))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	hold := make(chan struct{})
	c, err = Dial(t.Context(), Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, other := net.Pipe()
		t.Cleanup(func() { other.Close() })
		go io.Copy(io.Discard, other)
		go func() {
			other.Write(unhex(simpleServer))
			<-hold
			other.Write(unhex("67446698 00000000" + cookie + "01020304")) // and no more
		}()
		return ours, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	res := make(chan error)
	go func() { res <- c.ReadAt(ctx, make([]byte, 8), 0) }()
	close(hold)
	cancel()
	if err := <-res; !errors.Is(err, context.Canceled) && !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	c.Close()
}

func FuzzReceive(f *testing.F) {
	f.Add(unhex("668e33ef 0001 0001"+cookie+"00000010 0000000000000010 0102030405060708"), true)
	f.Add(unhex("67446698 00000000"+cookie+"0102030405060708"), false)
	f.Add(unhex("668e33ef 0000 0002"+cookie+"0000000c 0000000000000010 00000004 668e33ef 0001 8001"+cookie+"00000006 00000005 0000"), true)
	f.Fuzz(func(t *testing.T, say []byte, structured bool) {
		hs := unhex(simpleServer)
		if structured {
			hs = unhex(structuredServer)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := Dial(ctx, afterRequest(t, hs, say))
		if err != nil {
			t.Fatal(err)
		}
		c.ReadAt(ctx, make([]byte, 8), 16)
		if ctx.Err() != nil {
			t.Fatal("hangs")
		}
		c.Close()
	})
}

// TestCoverage checks the record of parts against a plain one.
func TestCoverage(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var c coverage
		var have [64]bool
		total := uint64(0)
		for range 30 {
			off := r.IntN(60)
			n := 1 + r.IntN(4)
			free := true
			for i := off; i < off+n; i++ {
				free = free && !have[i]
			}
			if got := c.add(uint64(off), uint64(n)); got != free {
				t.Fatalf("add %d+%d: %v, want %v (%v)", off, n, got, free, c.parts)
			}
			if free {
				total += uint64(n)
				for i := off; i < off+n; i++ {
					have[i] = true
				}
			}
		}
		if c.total != total {
			t.Fatalf("%d, want %d", c.total, total)
		}
	}
}
