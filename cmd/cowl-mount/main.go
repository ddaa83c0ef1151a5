// Command cowl-mount shows a disk as a file over FUSE. "cowl mount" runs it; it is a program
// of its own, since its library opens files at every start.
package main

import (
	"context"
	"os"

	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/cli/fusedisk"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/qemuimg"
)

func main() {
	program.Main(func(ctx context.Context, s program.Streams) int {
		var args []string
		if len(os.Args) > 0 {
			args = os.Args[1:]
		}
		if program.Name(os.Args) == "cowl-mount" {
			args = append([]string{"mount"}, args...)
		}
		p := &qemuimg.Program{Name: "cowl", Streams: s, Drivers: drivers.All(), Mounter: fusedisk.Mounter{}}
		return p.Run(ctx, args)
	})
}
