package server_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/nbd/server"
)

// FuzzConversation sends any bytes to a server: it ends the connection when they end.
func FuzzConversation(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 12 {
		f.Add(stream(r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := server.New(server.Config{})
		if err := s.AddExport(&server.Export{Device: newMemory(1 << 16)}); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			s.ServeConn(context.Background(), theirs)
			close(done)
		}()
		go io.Copy(io.Discard, ours)
		ours.SetWriteDeadline(time.Now().Add(time.Minute))
		ours.Write(b)
		ours.Close()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("hangs")
		}
	})
}
