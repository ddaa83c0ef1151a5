package qemuimg

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/protocol/mem"
	"github.com/cowl-disk/cowl/protocol/null"
)

// FuzzCommandLine runs command lines without a driver that could reach files:
// they must end, without a panic, with an exit code that the command has.
func FuzzCommandLine(f *testing.F) {
	for _, s := range []string{"info null-co://", "info\njson:{'driver':'null-co','size':4096}", "map\n--output=json\n--image-opts\ndriver=null-co,size=1M",
		"compare\nnull-co://\nnull-co://", "measure\n-O\nqcow2\n--size\n1G", "create\n-f\nqcow2\n-o\nhelp", "resize\nx\n-1M", "check\n-r\nall\nx",
		"-T\nfoo\ninfo\nx", "convert\n-l\nsnapshot.id=1\nx\ny", "--help", "dd\nif=x\nof=y\nbs=1k", "bench\n-c\n1\nnull-co://", "info\n--object\nsecret,id=a,data=b\nx"} {
		f.Add(s)
	}
	drivers := []driver.Driver{raw.New(), qcow2.New(), mem.New(), null.NewCo(), null.NewAIO()}
	f.Fuzz(func(t *testing.T, s string) {
		args := strings.Split(s, "\n")
		for _, a := range args {
			// Secrets may lie in files, and latency is a driver's option.
			if strings.Contains(a, "file=") || strings.Contains(a, "latency") {
				return
			}
		}
		if strings.Contains(s, "compare") || strings.Contains(s, "convert") || strings.Contains(s, "bench") || strings.Contains(s, "dd") {
			// The work itself can take as long as a disk is large.
			args = append(args[:1:1], append([]string{"--bogus"}, args[1:]...)...)
		}
		var out, errs bytes.Buffer
		p := &Program{Name: "qemu-img", Drivers: drivers,
			Streams: program.Streams{Stdin: strings.NewReader(""), Stdout: &out, Data: &out, Stderr: &errs, Screen: &errs}}
		start := time.Now()
		code := p.Run(t.Context(), args)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%q took %v", args, took)
		}
		switch code {
		case 0, 1, 2, 3, 63:
		default:
			t.Errorf("%q: exit code %d", args, code)
		}
		if code != 0 && errs.Len() == 0 && out.Len() == 0 {
			t.Errorf("%q: exit code %d without a word", args, code)
		}
	})
}
