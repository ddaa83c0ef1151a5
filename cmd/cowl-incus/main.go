// Command cowl-incus makes images for Incus. It is called by the commands of cowl for that
// ("cowl pack-incus"), by its own name, or as distrobuilder.
package main

import (
	"context"
	"os"
	"time"

	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/cli/distrobuilder"
	"github.com/cowl-disk/cowl/internal/cli/program"
)

func main() {
	program.Main(func(ctx context.Context, s program.Streams) int {
		name := program.Name(os.Args)
		if program.KindOf(name) != program.Packer {
			name = "cowl"
		}
		p := &distrobuilder.Program{Name: name, Streams: s, Drivers: drivers.All(), Now: time.Now, Getenv: os.Getenv}
		var args []string
		if len(os.Args) > 1 {
			args = os.Args[1:]
		}
		return p.Run(ctx, args)
	})
}
