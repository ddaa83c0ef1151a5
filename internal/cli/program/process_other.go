//go:build !unix

package program

import "os"

var endSignals = []os.Signal{os.Interrupt}

func ignoreBrokenPipes() {}

func dieOf(os.Signal) { os.Exit(1) }

func prepareDescriptors() error { return nil }

func brokenPipe(error) bool { return false }
