// Command cowl-native opens disks of engines that only their own client libraries can reach:
// Ceph's librbd and Gluster's libgfapi. cowl starts it when it needs one, and talks
// to it over two sockets (package internal/native/link). It is a program of its own, since one that
// loads libraries cannot be static, and since a library that crashes or hangs must not take
// cowl with it.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/cowl-disk/cowl/internal/version"
)

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

const usage = `cowl-native opens disks of Ceph and of Gluster for cowl, which starts it: there is
nothing to call it for. It has to lie beside cowl, or in ../libexec/cowl.
`

// run is main without the system. The exit code is 2 for wrong arguments.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 2 {
		switch args[1] {
		case "--version":
			fmt.Fprintf(stdout, "cowl-native %s\n", version.Own())
			return 0
		case "--help":
			fmt.Fprint(stdout, usage)
			return 0
		case "rbd", "gluster":
			if err := serveEngine(args[1]); err != nil {
				fmt.Fprintf(stderr, "cowl-native: %v\n", err)
				return 1
			}
			return 0
		}
	}
	fmt.Fprint(stderr, usage)
	return 2
}
