//go:build !linux

// Command fatguest is the first process of a Linux guest; elsewhere it does nothing.
package main

func main() { println("fatguest is for Linux guests only") }
