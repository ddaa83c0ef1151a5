//go:build !linux

// Command guestinit is the first process of a Linux guest; elsewhere it does nothing.
package main

func main() { println("guestinit is for Linux guests only") }
