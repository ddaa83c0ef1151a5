package qemuimg

import (
	"io"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/resources"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// TestCompressors holds that encoders of large clusters are few, whatever -m says.
func TestCompressors(t *testing.T) {
	var errs strings.Builder
	p := &Program{Name: "qemu-img", Drivers: []driver.Driver{qcow2.New(), mem.New()},
		Streams: program.Streams{Stdin: strings.NewReader(""), Stdout: io.Discard, Data: io.Discard, Stderr: &errs, Screen: &errs}}
	for size, want := range map[string][2]int{"64k": {16, 16}, "2M": {1, int(resources.MaxBuffers / (9 * 2 << 20))}} {
		if code := p.Run(t.Context(), []string{"create", "-f", "qcow2", "-o", "cluster_size=" + size, "mem:" + size, "1G"}); code != 0 {
			t.Fatalf("create: %s", errs.String())
		}
		c := p.newCall(t.Context())
		img, err := c.open(image{name: "mem:" + size, format: "qcow2"}, block.OpenOptions{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		if n := ops.Compressors(16, img); n < want[0] || n > want[1] {
			t.Errorf("clusters of %s: %d compressors, want %d to %d", size, n, want[0], want[1])
		}
		if err := c.close(img); err != nil {
			t.Fatal(err)
		}
	}
}
