// Package check verifies the metadata of an image file, and repairs it. It works on
// the file, below the caches of an open image.
//
// Run counts the references to every cluster from the tables (tables.go, snapshot.go,
// shared.go, bitmap.go), compares them with the refcounts (refcounts.go), and verifies
// the copied flags (copied.go). counts.go holds the counts. What is written, and in
// which order, is in repair.go, repair_rebuild.go and repair_snapshot.go.
package check
