package main

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Chunks of images that macOS makes, and the kinds of them.
const (
	dmgChunk = 512 << 9
	dmgZero  = 2
	dmgZlib  = 0x80000005
	dmgBzip2 = 0x80000006
	dmgEnd   = 0xffffffff
)

func makeDmgZlib(_ context.Context, raw, out string) error {
	return makeDmg(raw, out, dmgZlib, func(p []byte) ([]byte, error) {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		if _, err := w.Write(p); err != nil {
			return nil, err
		}
		err := w.Close()
		return b.Bytes(), err
	})
}

// makeDmgBzip2 needs the program bzip2.
func makeDmgBzip2(ctx context.Context, raw, out string) error {
	return makeDmg(raw, out, dmgBzip2, func(p []byte) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "bzip2", "-c")
		cmd.Stdin = bytes.NewReader(p)
		return cmd.Output()
	})
}

// makeDmg writes a disk image of macOS with one table of compressed chunks, since no program for Linux does.
func makeDmg(raw, out string, kind uint32, compress func([]byte) ([]byte, error)) (err error) {
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	be := binary.BigEndian
	table := make([]byte, 204)
	copy(table, "mish")
	entry := func(kind uint32, sector, count, pos, length int64) {
		e := make([]byte, 40)
		be.PutUint32(e, kind)
		be.PutUint64(e[8:], uint64(sector))
		be.PutUint64(e[16:], uint64(count))
		be.PutUint64(e[24:], uint64(pos))
		be.PutUint64(e[32:], uint64(length))
		table = append(table, e...)
	}
	var sector, pos int64
	for p := make([]byte, dmgChunk); ; {
		n, err := io.ReadFull(in, p)
		if err == io.EOF {
			break
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return err
		}
		if n%512 != 0 {
			return fmt.Errorf("%s: %d bytes are no whole sectors", raw, n)
		}
		count := int64(n / 512)
		if bytes.Count(p[:n], []byte{0}) == n {
			entry(dmgZero, sector, count, pos, 0)
		} else {
			b, err := compress(p[:n])
			if err != nil {
				return err
			}
			if _, err := f.Write(b); err != nil {
				return err
			}
			entry(kind, sector, count, pos, int64(len(b)))
			pos += int64(len(b))
		}
		sector += count
	}
	entry(dmgEnd, sector, 0, pos, 0)
	be.PutUint64(table[16:], uint64(sector))
	be.PutUint32(table[200:], uint32(len(table)-204)/40)
	list := "<plist version=\"1.0\">\n<dict><key>resource-fork</key><dict><key>blkx</key><array>\n<dict><key>Data</key><data>\n" +
		base64.StdEncoding.EncodeToString(table) + "\n</data></dict>\n</array></dict></dict></plist>\n"
	trailer := make([]byte, 512)
	copy(trailer, "koly")
	be.PutUint32(trailer[4:], 4)
	be.PutUint32(trailer[8:], 512)
	be.PutUint64(trailer[32:], uint64(pos))
	be.PutUint64(trailer[216:], uint64(pos))
	be.PutUint64(trailer[224:], uint64(len(list)))
	be.PutUint64(trailer[492:], uint64(sector))
	_, err = f.Write(append([]byte(list), trailer...))
	return err
}
