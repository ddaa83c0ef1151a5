package drivertest

import (
	"bytes"
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// testStream: an image that is written to a pipe is as good as any.
func testStream(t *testing.T, s *suite) {
	st, ok := s.Driver.(driver.Streamer)
	if !ok {
		t.Skip("the driver does not stream")
	}
	if s.Options["preallocation"] != nil {
		t.Skip("streams hold data alone")
	}
	ctx := context.Background()
	unit := int64(512)
	if u, ok := s.Driver.(driver.StreamUnit); ok {
		var err error
		if unit, err = u.StreamUnit(s.Options); unsupported(err) {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for seed := range uint64(4) { // the first one is empty
		r := testkit.Rand(seed)
		m := testkit.NewModel(s.size)
		req := &driver.StreamRequest{Size: s.size, Options: s.Options}
		var data []byte
		for off := int64(0); seed > 0 && off < s.size; {
			n := min((1+r.Int64N(20))*unit, s.size-off)
			if r.IntN(2) == 0 && (seed < 3 || off > 0) {
				p := make([]byte, n)
				testkit.FillDisk(r, p)
				m.Write(p, off)
				data = append(data, p...)
				if k := len(req.Data); k > 0 && req.Data[k-1].Offset+req.Data[k-1].Length == off {
					req.Data[k-1].Length += n
				} else {
					req.Data = append(req.Data, driver.Range{Offset: off, Length: n})
				}
			}
			off += n
		}
		var out bytes.Buffer
		w, err := st.NewStream(ctx, &out, req)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for len(data) > 0 {
			n := min(len(data), 1+r.IntN(300000))
			if k, err := w.Write(data[:n]); err != nil || k != n {
				t.Fatalf("seed %d: write: %d of %d, %v", seed, k, n, err)
			}
			data = data[n:]
		}
		total := w.Total()
		if err := w.Close(); err != nil {
			t.Fatalf("seed %d: close: %v", seed, err)
		}
		if total >= 0 && int64(out.Len()) != total {
			t.Fatalf("seed %d: %d bytes, announced %d", seed, out.Len(), total)
		}
		disk := mem.NewDisk(0)
		if _, err := disk.WriteAt(ctx, out.Bytes(), 0); err != nil {
			t.Fatal(err)
		}
		s.mem.Add("stream", disk)
		s.verify(t, "mem:stream", m)
	}
}
