//go:build !linux

// Command diskguest is the first process of a Linux guest; elsewhere it does nothing.
package main

func main() { println("diskguest is for Linux guests only") }
