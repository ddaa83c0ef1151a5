// Package drivertest is the suite of tests that every driver runs.
//
// A driver's own package calls Run with a Harness of a few lines. The suite
// looks at what the driver declares and at what its nodes can do, and runs what
// applies: round trips at all alignments, random operations beside a model with
// reopening and checking in between, concurrent use (made for the race
// detector), images on top of a backing file, failing writes, and damaged
// images. Everything goes through the block layer, as in real use. Formats are
// laid out on disks in memory, so that faults can be injected.
//
// RunFixture is the part of the suite for formats that are only read.
// Benchmark runs the same harness for speed.
package drivertest
