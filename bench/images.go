package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
)

// Images that no program makes here, or none in good time. In those of a disk, units of zeroes have no room, and
// those that have are in the order of the disk.

// units calls f with all units of a disk that are not of zeroes, in order; the last one has zeroes at its end.
// It returns the size of the disk in bytes.
func units(raw string, size int64, f func(number int64, p []byte) error) (int64, error) {
	in, err := os.Open(raw)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size()%512 != 0 {
		return 0, fmt.Errorf("%s: %d bytes are no whole sectors", raw, info.Size())
	}
	zero, p := make([]byte, size), make([]byte, size)
	for number := int64(0); number*size < info.Size(); number++ {
		n, err := io.ReadFull(in, p)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, err
		}
		clear(p[n:])
		if bytes.Equal(p, zero) {
			continue
		}
		if err := f(number, p); err != nil {
			return 0, err
		}
	}
	return info.Size(), nil
}

// writeImage makes a file: what f writes, behind a head of so many bytes, which f returns.
func writeImage(name string, room int64, f func(w io.Writer) (head []byte, err error)) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := out.Seek(room, io.SeekStart); err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 1<<20)
	head, err := f(w)
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	_, err = out.WriteAt(head, 0)
	return err
}

// makeBochs writes a growing image, with extents as Bochs makes them for a disk of 1 GiB.
func makeBochs(_ context.Context, raw, out string) error {
	const headSize, extent, entries = 512, 128 << 10, 8192
	le := binary.LittleEndian
	head := make([]byte, headSize+4*entries)
	copy(head, "Bochs Virtual HD Image")
	copy(head[32:], "Redolog")
	copy(head[48:], "Growing")
	for i, v := range []uint32{0x20000, headSize, entries, extent / 512 / 8, extent} {
		le.PutUint32(head[64+4*i:], v)
	}
	for i := range entries {
		le.PutUint32(head[headSize+4*i:], math.MaxUint32)
	}
	bitmap := make([]byte, 512)
	copy(bitmap, bytes.Repeat([]byte{0xff}, extent/512/8))
	return writeImage(out, int64(len(head)), func(w io.Writer) ([]byte, error) {
		next := uint32(0)
		size, err := units(raw, extent, func(number int64, p []byte) error {
			if number >= entries {
				return errors.New("the disk is too large for this image")
			}
			le.PutUint32(head[headSize+4*number:], next)
			next++
			_, err := w.Write(append(bitmap[:512:512], p...))
			return err
		})
		le.PutUint64(head[88:], uint64(size))
		return head, err
	})
}

// makeSparseimage writes one with bands of 1 MiB, as macOS makes them, and one table.
func makeSparseimage(_ context.Context, raw, out string) error {
	const node, table, band = 4096, 64, 1 << 20
	be := binary.BigEndian
	head := make([]byte, node)
	copy(head, "sprs")
	be.PutUint32(head[4:], 3)
	be.PutUint32(head[8:], band/512)
	be.PutUint32(head[12:], 1)
	return writeImage(out, node, func(w io.Writer) ([]byte, error) {
		at := table
		size, err := units(raw, band, func(number int64, p []byte) error {
			if at == node {
				return errors.New("the disk is too large for one table")
			}
			be.PutUint32(head[at:], uint32(number+1))
			at += 4
			_, err := w.Write(p)
			return err
		})
		be.PutUint32(head[16:], uint32(size/512))
		be.PutUint64(head[28:], uint64(size/512))
		return head, err
	})
}

// makeSparsebundle writes a folder with bands of 8 MiB, as macOS makes them.
func makeSparsebundle(_ context.Context, raw, out string) error {
	const band = 8 << 20
	bands := filepath.Join(out, "bands")
	if err := errors.Join(os.RemoveAll(out), os.MkdirAll(bands, 0o755)); err != nil {
		return err
	}
	size, err := units(raw, band, func(number int64, p []byte) error {
		return os.WriteFile(filepath.Join(bands, fmt.Sprintf("%x", number)), p, 0o644)
	})
	list := fmt.Sprintf("<plist version=\"1.0\"><dict><key>band-size</key><integer>%d</integer>"+
		"<key>bundle-backingstore-version</key><integer>1</integer>"+
		"<key>diskimage-bundle-type</key><string>com.apple.diskimage.sparsebundle</string><key>size</key><integer>%d</integer></dict></plist>", band, size)
	return errors.Join(err, os.WriteFile(filepath.Join(out, "Info.plist"), []byte(list), 0o644), os.WriteFile(filepath.Join(out, "token"), nil, 0o644))
}

// makeASIF writes one with chunks of 1 MiB and one table of one group.
func makeASIF(_ context.Context, raw, out string) error {
	const chunk, group, directory = 1 << 20, 2048, 0x200
	be := binary.BigEndian
	// The header, a table, and the bitmap of its first group.
	head := make([]byte, 3*chunk)
	copy(head, "shdw")
	be.PutUint32(head[4:], 1)
	be.PutUint32(head[8:], directory)
	be.PutUint64(head[0x10:], directory)
	be.PutUint64(head[0x18:], 2*directory)
	be.PutUint64(head[0x38:], 1<<40)
	be.PutUint32(head[0x40:], chunk)
	be.PutUint16(head[0x44:], 512)
	be.PutUint64(head[directory:], 1)   // the newer directory
	be.PutUint64(head[directory+8:], 1) // its table
	be.PutUint64(head[chunk+8*group:], 2)
	return writeImage(out, int64(len(head)), func(w io.Writer) ([]byte, error) {
		next := uint64(len(head) / chunk)
		size, err := units(raw, chunk, func(number int64, p []byte) error {
			if number >= group {
				return errors.New("the disk is too large for one group")
			}
			be.PutUint64(head[chunk+8*number:], 1<<62|next)
			next++
			_, err := w.Write(p)
			return err
		})
		be.PutUint64(head[0x30:], uint64(size/512))
		return head, err
	})
}

// makeSnapshotTable makes an empty qcow2 with so many snapshots, each with a table of its own as QEMU makes it: QEMU itself
// writes the list anew for each, which takes a quarter of an hour for 10,000.
func makeSnapshotTable(image string, n int) error {
	const cluster, disk, most = 64 << 10, 64 << 20, 32000
	if n > most {
		return fmt.Errorf("%d snapshots need more than one block of reference counts", n)
	}
	be := binary.BigEndian
	var list []byte
	const counts, table, tables = 2 * cluster, 3 * cluster, 4 * cluster // offsets
	for i := range n {
		e := make([]byte, 56)
		id, name := fmt.Sprint(i+1), fmt.Sprint("snapshot ", i)
		be.PutUint64(e, uint64(tables+i*cluster))
		be.PutUint32(e[8:], 1)
		be.PutUint16(e[12:], uint16(len(id)))
		be.PutUint16(e[14:], uint16(len(name)))
		be.PutUint32(e[16:], 1_700_000_000)
		be.PutUint32(e[36:], 16)
		be.PutUint64(e[48:], disk)
		e = append(append(e, id...), name...)
		list = append(list, append(e, make([]byte, -len(e)&7)...)...)
	}
	listAt := tables + n*cluster
	head := make([]byte, tables)
	copy(head, "QFI\xfb")
	be.PutUint32(head[4:], 3)
	be.PutUint32(head[20:], 16)
	be.PutUint64(head[24:], disk)
	be.PutUint32(head[36:], 1) // entries of the table of the disk
	be.PutUint64(head[40:], table)
	be.PutUint64(head[48:], cluster) // the table of reference counts
	be.PutUint32(head[56:], 1)
	be.PutUint32(head[60:], uint32(n))
	be.PutUint64(head[64:], uint64(listAt))
	be.PutUint32(head[96:], 4) // 16 bits a count
	be.PutUint32(head[100:], 104)
	be.PutUint64(head[cluster:], counts)
	for i := range (listAt + len(list) + cluster - 1) / cluster {
		be.PutUint16(head[counts+2*i:], 1)
	}
	return writeImage(image, int64(listAt), func(w io.Writer) ([]byte, error) {
		_, err := w.Write(append(list, make([]byte, -len(list)&(cluster-1))...))
		return head, err
	})
}
