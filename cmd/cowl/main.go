// Command cowl works with virtual disk images. Called by the name qemu-img or
// qemu-nbd, it takes that program's command line; called as cowl, the same as
// commands ("cowl nbd" for the server), and some of its own.
package main

import "github.com/cowl-disk/cowl/internal/cli/multicall"

func main() { multicall.Main() }
