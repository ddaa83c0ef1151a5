package http_test

import (
	"bytes"
	"math/rand/v2"
	nethttp "net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/protocol/http"
)

// TestFarAway: of a server that is far away, large reads in order are fetched ahead, each part once.
func TestFarAway(t *testing.T) {
	data := make([]byte, 20<<20+5)
	r := rand.New(rand.NewPCG(1, 1))
	for i := 0; i < len(data); i += 64 {
		data[i] = byte(r.Uint32())
	}
	var requests atomic.Int32
	s := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, q *nethttp.Request) {
		if requests.Add(1) == 1 {
			time.Sleep(10 * time.Millisecond)
		}
		nethttp.ServeContent(w, q, "disk", time.Unix(1e9, 0), bytes.NewReader(data))
	}))
	defer s.Close()
	d := http.New()
	o, err := d.(driver.FilenameParser).ParseFilename(s.URL + "/disk")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := d.Open(t.Context(), &driver.OpenRequest{Options: o, Sequential: true, Env: &driver.Env{Warn: func(string) {}}})
	if err != nil {
		t.Fatal(err)
	}
	n := opened.(driver.Storage)
	p := make([]byte, 1<<20)
	if _, err := n.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	for requests.Load() < 5 { // more than was asked for
		time.Sleep(time.Millisecond)
	}
	for off := 1 << 20; off < len(data); off += len(p) {
		got, err := n.ReadAt(t.Context(), p, int64(off))
		if got < min(len(p), len(data)-off) || !bytes.Equal(p[:got], data[off:off+got]) {
			t.Fatalf("at %d: %d bytes, %v", off, got, err)
		}
	}
	if got, most := requests.Load(), int32(len(data)/(2<<20)+3); got > most {
		t.Errorf("%d requests for %d windows", got, most)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
