//go:build !linux

// Command nbdguest is the first process of a Linux guest; elsewhere it does nothing.
package main

func main() { println("nbdguest is for Linux guests only") }
