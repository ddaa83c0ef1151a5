package server_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
)

// BenchmarkRequests keeps 32 requests under way over a Unix socket, against a device
// that costs nothing.
func BenchmarkRequests(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 10} {
		for _, write := range []bool{false, true} {
			name := "read"
			if write {
				name = "write"
			}
			b.Run(fmt.Sprintf("%s%dk", name, size>>10), func(b *testing.B) {
				_, sock := start(b, server.Config{}, &server.Export{Device: &holes{size: 1 << 30}})
				c, err := client.Dial(context.Background(), client.Config{Network: "unix", Address: sock})
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				b.SetBytes(int64(size))
				b.ReportAllocs()
				var wg sync.WaitGroup
				for g := range 32 {
					wg.Go(func() {
						p := make([]byte, size)
						for i := g; i < b.N; i += 32 {
							off := int64(i) * int64(size) % (1 << 29)
							var err error
							if write {
								err = c.WriteAt(context.Background(), p, off, false)
							} else {
								err = c.ReadAt(context.Background(), p, off)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
