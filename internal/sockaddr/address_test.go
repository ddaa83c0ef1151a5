package sockaddr_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/sockaddr"
	"github.com/cowl-disk/cowl/opts"
)

// declared is what a driver with several servers declares.
type declared struct {
	Servers []sockaddr.Address `opt:"server"`
}

var schema = opts.SchemaOf(declared{})

// decode reads the options of one server, which are given without their prefix.
func decode(t *testing.T, list string) (*sockaddr.Address, error) {
	t.Helper()
	own, d := opts.Dict{}, opts.Dict{}
	if err := own.ParseList(list, ""); err != nil {
		t.Fatal(err)
	}
	for k, v := range own {
		d["server.0."+k] = v
	}
	var o declared
	if err := schema.Decode(d, &o); err != nil {
		return nil, err
	}
	if len(o.Servers) != 1 {
		t.Fatalf("%d servers", len(o.Servers))
	}
	return &o.Servers[0], nil
}

func TestEndpoint(t *testing.T) {
	for _, c := range []struct{ options, network, address, shown, err string }{
		{"type=inet,host=h,port=1", "tcp", "h:1", "h:1", ""},
		{"type=inet,host=::1,port=1", "tcp", "[::1]:1", "::1:1", ""},
		{"type=inet,host=h,port=1,ipv4=on", "tcp4", "h:1", "h:1", ""},
		{"type=inet,host=h,port=1,ipv6=on", "tcp6", "h:1", "h:1", ""},
		{"type=inet,host=h,port=1,ipv4=off", "tcp6", "h:1", "h:1", ""},
		{"type=inet,host=h,port=1,ipv4=on,ipv6=on", "tcp", "h:1", "h:1", ""},
		{"type=inet,host=h,port=1,ipv4=off,ipv6=off", "", "", "", "cannot disable IPv4 and IPv6 at same time"},
		{"type=inet,host=h", "", "", "", "parameter 'port' is missing"},
		{"type=inet,host=h,port=1,path=p", "", "", "", "parameter 'path' is unexpected"},
		{"type=inet,host=h,port=1,abstract=on", "", "", "", "parameter 'abstract' is unexpected"},
		{"host=h,port=1", "", "", "", "parameter 'type' is missing"},
		{"type=x", "", "", "", "parameter 'type' does not accept value 'x'"},
		{"type=unix,path=/p", "unix", "/p", "/p", ""},
		{"type=unix,path=p,abstract=on", "unix", "@p", "@p", ""},
		{"type=unix,path=p,abstract=on,tight=off", "", "", "", "padded"},
		{"type=unix,path=p,ipv4=on", "", "", "", "parameter 'ipv4' is unexpected"},
		{"type=vsock,cid=2,port=3", "vsock", "2:3", "2:3", ""},
		{"type=fd,str=3", "fd", "3", "descriptor 3", ""},
	} {
		a, err := decode(t, c.options)
		var e *sockaddr.Endpoint
		if err == nil {
			e, err = a.Endpoint()
		}
		if c.err != "" {
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.err)) || !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%s: %v", c.options, err)
			}
			continue
		}
		if err != nil || e.Network != c.network || e.Address != c.address || e.String() != c.shown {
			t.Errorf("%s: %+v, %v", c.options, e, err)
			continue
		}
		// The options of the address give the address again.
		d := a.Options("server.0")
		var o declared
		if err := schema.Decode(d, &o); err != nil {
			t.Fatal(err)
		}
		if again, err := o.Servers[0].Endpoint(); err != nil || again.Network != e.Network || again.Address != e.Address {
			t.Errorf("%s: %v: %+v, %v", c.options, d, again, err)
		}
	}
}

func TestOld(t *testing.T) {
	for _, c := range []struct{ given, host, port, path, address, err string }{
		{"", "h", "", "", "h:77", ""},
		{"", "h", "5", "", "h:5", ""},
		{"", "", "", "/p", "/p", ""},
		{"", "h", "", "/p", "", "path and host"},
		{"", "", "5", "", "", "port may not be used without host"},
		{"type=inet,host=x,port=1", "", "", "", "x:1", ""},
		{"type=inet,host=x,port=1", "h", "", "", "", "at the same time"},
	} {
		a := &sockaddr.Address{}
		if c.given != "" {
			a, _ = decode(t, c.given)
		}
		err := a.Old(c.host, c.port, c.path, "77")
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if e, err := a.Endpoint(); err != nil || e.Address != c.address {
			t.Errorf("%+v: %+v, %v", c, e, err)
		}
	}
	if a := (&sockaddr.Address{}); a.Old("", "", "", "1") != nil || a.Given() {
		t.Error("nothing given is something")
	}
}

// TestDial connects, and words what goes wrong.
func TestDial(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "s")
	dial := func(options string) error {
		t.Helper()
		a, err := decode(t, options)
		if err != nil {
			t.Fatal(err)
		}
		e, err := a.Endpoint()
		if err != nil {
			t.Fatal(err)
		}
		c, err := e.Dial(ctx)
		if err != nil {
			return e.Error(err)
		}
		return c.Close()
	}
	if err := dial("type=unix,path=" + path); !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "to '"+path+"'") {
		t.Error(err)
	}
	for _, at := range []string{"unix " + path, "tcp 127.0.0.1:0"} {
		network, address, _ := strings.Cut(at, " ")
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		options := "type=unix,path=" + path
		if network == "tcp" {
			_, port, _ := net.SplitHostPort(l.Addr().String())
			options = "type=inet,host=localhost,port=" + port
		}
		if err := dial(options); err != nil {
			t.Error(err)
		}
		l.Close()
		if err := dial(options); err == nil {
			t.Error("connected to what does not listen")
		}
	}
	if err := dial("type=unix,path=" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}

// TestTimeout: an attempt that took too long is found by its kind, whoever ended it.
func TestTimeout(t *testing.T) {
	e := &sockaddr.Endpoint{Network: "tcp"}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, true},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}, true},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, false},
	} {
		if err := e.Error(c.err); errors.Is(err, driver.ErrTimeout) != c.want || !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%v: a timeout is %v", err, !c.want)
		}
	}
}
