// Command cowl-agent is QEMU's guest agent (qemu-ga) alone, for systems that need
// nothing else of cowl.
package main

import (
	"context"
	"os"

	"github.com/cowl-disk/cowl/internal/cli/qemuga"
)

func main() {
	name := "qemu-ga"
	if len(os.Args) > 0 {
		name = os.Args[0]
	}
	os.Exit(qemuga.Main(context.Background(), name, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
