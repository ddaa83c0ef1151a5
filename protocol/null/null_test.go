package null_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/null"
)

func open(t *testing.T, o opts.Dict) driver.Storage {
	t.Helper()
	n, err := null.NewCo().Open(context.Background(), &driver.OpenRequest{Options: o, Access: driver.Access{Write: true}})
	if err != nil {
		t.Fatal(err)
	}
	return n.(driver.Storage)
}

func TestReadAndWrite(t *testing.T) {
	ctx := context.Background()
	n := open(t, opts.Dict{"size": "1000", "latency-ns": "10"})
	if n.Size() != 1000 {
		t.Fatal(n.Size())
	}
	if m, err := n.WriteAt(ctx, bytes.Repeat([]byte{1}, 600), 400); m != 600 || err != nil {
		t.Fatal(m, err)
	}
	if _, err := n.WriteAt(ctx, []byte{1}, 1000); !errors.Is(err, driver.ErrRange) {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte{9}, 700)
	if m, err := n.ReadAt(ctx, p, 400); m != 600 || err != io.EOF || p[599] != 0 || p[600] != 9 {
		t.Fatal(m, err, p[599], p[600])
	}
}

func TestMap(t *testing.T) {
	ctx := context.Background()
	for on, kind := range map[string]driver.ExtentKind{"on": driver.ExtentZero, "off": driver.ExtentData} {
		n := open(t, opts.Dict{"read-zeroes": on})
		if e, err := n.Map(ctx, 512, 1<<40); err != nil || e.Kind != kind || e.Length != 1<<30-512 {
			t.Fatalf("%s: %+v, %v", on, e, err)
		}
		if e, _ := n.Map(ctx, 1<<30, 1); e.Kind != driver.ExtentEOF {
			t.Fatalf("%s: at the end: %+v", on, e)
		}
	}
}

func TestNames(t *testing.T) {
	p := null.NewAIO().(driver.FilenameParser)
	if _, err := p.ParseFilename("null-aio://"); err != nil {
		t.Fatal(err)
	}
	_, err := p.ParseFilename("null-aio:")
	if err == nil || err.Error() != "the only allowed filename for this driver is 'null-aio://'" {
		t.Fatal(err)
	}
	if _, err := null.NewCo().Open(context.Background(), &driver.OpenRequest{Options: opts.Dict{"latency-ns": "-1"}}); err == nil || err.Error() != "latency-ns is invalid" {
		t.Fatal(err)
	}
}
