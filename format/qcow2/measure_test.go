package qcow2

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/opts"
)

type measured struct {
	Required       int64 `json:"required"`
	FullyAllocated int64 `json:"fully-allocated"`
}

func TestMeasureSize(t *testing.T) {
	needTool(t, "qemu-img")
	for _, size := range []string{"0", "512", "1000", "1M", "100M", "1G", "4T"} {
		for _, o := range []string{"", "cluster_size=512", "cluster_size=4k", "cluster_size=2M", "extended_l2=on",
			"compat=0.10", "refcount_bits=1", "refcount_bits=64", "preallocation=metadata", "preallocation=falloc",
			"preallocation=full", "lazy_refcounts=on"} {
			t.Run(size+" "+o, func(t *testing.T) {
				args := []string{"measure", "--output=json", "-O", "qcow2", "--size", size}
				if o != "" {
					args = append(args, "-o", o)
				}
				r := runTool(t, "qemu-img", args...)
				d := opts.Dict{}
				if err := d.ParseList(o, ""); err != nil {
					t.Fatal(err)
				}
				got, err := new(Driver).Measure(context.Background(), &driver.MeasureRequest{Size: parseTestSize(t, size), Options: d})
				if r.code != 0 {
					if err == nil {
						t.Fatalf("accepted; QEMU says %s", r.stderr)
					}
					if want := strings.TrimPrefix(strings.TrimSpace(r.stderr), "qemu-img: "); words.Text(err) != want {
						t.Fatalf("got %q, want %q", err, want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				want := parseJSON[measured](t, r.stdout)
				if got.Required != want.Required || got.FullyAllocated != want.FullyAllocated {
					t.Fatalf("got %+v, want %+v", got, want)
				}
			})
		}
	}
}

func TestMeasureSource(t *testing.T) {
	needTool(t, "qemu-img")
	needTool(t, "qemu-io")
	src := filepath.Join(t.TempDir(), "s.qcow2")
	mustTool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", src, "100M")
	mustTool(t, "qemu-io", "-c", "write 0 1", "-c", "write 70000 5000", "-c", "write 3M 10M", "-c", "write -z 5M 1M",
		"-c", "write 104857088 512", src)
	entries := parseJSON[[]struct {
		Start, Length int64
		Data          bool
	}](t, mustTool(t, "qemu-img", "map", "--output=json", src))
	source := func(_ context.Context, off, n int64) (driver.Extent, error) {
		for _, e := range entries {
			if off >= e.Start && off < e.Start+e.Length {
				kind := driver.ExtentZero
				if e.Data {
					kind = driver.ExtentData
				}
				return driver.Extent{Kind: kind, Length: min(n, e.Start+e.Length-off)}, nil
			}
		}
		return driver.Extent{}, nil
	}
	for _, o := range []string{"cluster_size=512", "cluster_size=4k", "cluster_size=64k", "cluster_size=2M",
		"backing_file=b,backing_fmt=raw", "preallocation=full", "extended_l2=on"} {
		want := parseJSON[measured](t, mustTool(t, "qemu-img", "measure", "--output=json", "-O", "qcow2", "-o", o, src))
		d := opts.Dict{}
		if err := d.ParseList(o, ""); err != nil {
			t.Fatal(err)
		}
		got, err := new(Driver).Measure(context.Background(), &driver.MeasureRequest{Size: 100 << 20, Options: d, Source: source})
		if err != nil {
			t.Fatal(err)
		}
		if g := fmt.Sprint(got.Required, got.FullyAllocated); g != fmt.Sprint(want.Required, want.FullyAllocated) {
			t.Errorf("%s: got %s, want %+v", o, g, want)
		}
	}
}
