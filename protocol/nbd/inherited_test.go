//go:build unix

package nbd_test

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	nbdserver "github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/nbd"
)

// inherit makes a connected pair of sockets. The first is a bare descriptor, as a
// process is started with it.
func inherit(t *testing.T) (fd int, peer net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	f := os.NewFile(uintptr(fds[1]), "peer")
	defer f.Close()
	if peer, err = net.FileConn(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	return fds[0], peer
}

func openInherited(ctx context.Context, number string, more opts.Dict) (*block.Image, error) {
	d := opts.Dict{"driver": "nbd", "server.type": "fd", "server.str": number}
	for k, v := range more {
		d[k] = v
	}
	return block.Open(ctx, block.NewRegistry(nbd.New()), block.Source{Options: d}, block.OpenOptions{Write: true, Gate: driver.DenyAll})
}

// TestInheritedSocket uses a socket once, whatever would be made anew with an address.
func TestInheritedSocket(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	fd, peer := inherit(t)
	dev := &forgetful{now: make([]byte, 1<<20), durable: make([]byte, 1<<20)}
	srv := nbdserver.New(nbdserver.Config{})
	if err := srv.AddExport(&nbdserver.Export{Device: dev, MultiConn: true}); err != nil {
		t.Fatal(err)
	}
	go srv.ServeConn(context.Background(), peer)
	number := strconv.Itoa(fd)
	img, err := openInherited(ctx, number, opts.Dict{"reconnect-delay": "600"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(ctx)
	if _, err := img.WriteAt(ctx, []byte("over the socket"), 4096); err != nil {
		t.Fatal(err)
	}
	if got := string(dev.now[4096 : 4096+15]); got != "over the socket" {
		t.Errorf("%q", got)
	}
	// The number is taken: it is neither the same socket nor one of ours.
	if again, err := openInherited(ctx, number, nil); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		again.Close(ctx)
		t.Errorf("the same socket once more: %v", err)
	}
	// Requests would wait ten minutes for an address that can be connected to again.
	peer.Close()
	if _, err := img.ReadAt(ctx, make([]byte, 512), 0); err == nil || !strings.Contains(err.Error(), "one connection only") {
		t.Errorf("after the connection was lost: %v", err)
	}
}

func TestInheritedRefused(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	datagrams, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(datagrams[0])
	defer unix.Close(datagrams[1])
	fd, peer := inherit(t)
	peer.Close()
	for _, c := range []struct {
		number string
		more   opts.Dict
		want   string
	}{
		{"", nil, "unable to parse FD number "},
		{"x", nil, "unable to parse FD number x"},
		{"-", nil, "unable to parse FD number -"},
		{"+-3", nil, "unable to parse FD number +-3"},
		{"3 ", nil, "unable to parse FD number 3 "},
		{"0x3", nil, "unable to parse FD number 0x3"},
		{"99999999999", nil, "out of range"},
		{"-1", nil, "file descriptor '-1' is not a socket"},
		{"1000000", nil, "file descriptor '1000000' is not a socket"},
		{strconv.Itoa(int(w.Fd())), nil, "is not a socket"},
		{strconv.Itoa(datagrams[0]), nil, "not a stream socket"},
		{strconv.Itoa(fd), opts.Dict{"connections": "2"}, "is one connection, not 2"},
		{strconv.Itoa(fd), opts.Dict{"server.host": "h"}, "parameter 'host' is unexpected"},
		{strconv.Itoa(fd), opts.Dict{"server.bogus": "h"}, "parameter 'bogus' is unexpected"},
		{strconv.Itoa(fd), opts.Dict{"open-timeout": "600"}, "failed to read initial magic"},
	} {
		img, err := openInherited(t.Context(), c.number, c.more)
		if err == nil {
			img.Close(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %v: %v, want %q", c.number, c.more, err, c.want)
		}
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("a descriptor that was refused is closed: %v", err)
	}
}
