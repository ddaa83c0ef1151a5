// Package codec compresses and decompresses clusters (section "Compressed Clusters
// Descriptor"), and keeps the one that was decompressed last.
package codec
