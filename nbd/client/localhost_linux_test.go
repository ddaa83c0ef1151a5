package client_test

import (
	"net"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
)

// TestLocalhost connects to localhost, and listens there, on a system without a file of
// hosts and without a name server.
func TestLocalhost(t *testing.T) {
	if !testkit.WithHosts(t, "") {
		return
	}
	listeners, err := server.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]net.Listener{}
	ports := map[string]bool{}
	for _, l := range listeners {
		defer l.Close()
		host, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		families[map[string]string{"127.0.0.1": "tcp4", "::1": "tcp6"}[host]], ports[port] = l, true
	}
	if len(ports) != 1 {
		t.Errorf("ports %v, want one for all", ports)
	}
	if families["tcp4"] == nil {
		t.Fatalf("%v: nothing listens at 127.0.0.1", listeners)
	}
	if families["tcp6"] == nil {
		// Only a system without that address may do without.
		if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
			l.Close()
			t.Fatalf("%v: nothing listens at ::1", listeners)
		}
	}
	for network, l := range families {
		_, port, _ := net.SplitHostPort(l.Addr().String())
		reached(t, l, client.Config{Network: network, Address: net.JoinHostPort("localhost", port)})
	}
	// One that is left is found, whichever it is.
	for network, l := range families {
		for other, o := range families {
			if other != network {
				o.Close()
			}
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		reached(t, l, client.Config{Network: "tcp", Address: net.JoinHostPort("localhost", port)})
		break
	}
}

// reached fails the test unless a client with cfg comes to l. The connection is hung up on:
// what counts is that it was made.
func reached(t *testing.T, l net.Listener, cfg client.Config) {
	t.Helper()
	accepted := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			nc.Close()
		}
		accepted <- err
	}()
	if _, err := client.Dial(t.Context(), cfg); err == nil {
		t.Error("a server that hangs up was taken for one")
	} else if _, ok := err.(*client.ConnectError); ok {
		t.Fatalf("%s %s: %v", cfg.Network, cfg.Address, err)
	}
	if err := <-accepted; err != nil {
		t.Error(err)
	}
}
