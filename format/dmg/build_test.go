package dmg

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/ulikunitz/xz"
)

// builder makes images.
type builder struct {
	tb     testing.TB
	data   []byte
	tables [][]byte
	master []byte // checksums of the tables
	sector int64

	onlyLZVN bool
}

// encodeADC makes literals, and copies where the last bytes repeat.
func encodeADC(p []byte) (out []byte) {
	for i := 0; i < len(p); {
		n := 0
		for i > 0 && n < 18 && i+n < len(p) && p[i+n] == p[i-1] {
			n++
		}
		long := n
		for i >= 600 && long < 67 && i+long < len(p) && p[i+long] == p[i+long-600] {
			long++
		}
		switch {
		case i >= 600 && long >= 4 && long > n: // distance 600
			m := 0
			for m < 67 && i+m < len(p) && p[i+m] == p[i+m-600] {
				m++
			}
			if m >= 4 {
				out = append(out, 0x40|byte(m-4), 599>>8, 599&0xff)
				i += m
				continue
			}
			fallthrough
		case n < 3:
			end := min(i+128, len(p))
			out = append(out, 0x80|byte(end-i-1))
			out = append(out, p[i:end]...)
			i = end
		default:
			out = append(out, byte(n-3)<<2, 0)
			i += n
		}
	}
	return out
}

// encode returns a run's bytes in the encoding of its kind.
func (b *builder) encode(kind uint32, p []byte) []byte {
	var out bytes.Buffer
	var err error
	switch kind {
	case typeRaw:
		return p
	case typeZlib:
		w := zlib.NewWriter(&out)
		_, err = w.Write(p)
		w.Close()
	case typeLZMA:
		var w *xz.Writer
		if w, err = (xz.WriterConfig{CheckSum: xz.CRC32}).NewWriter(&out); err == nil {
			if _, err = w.Write(p); err == nil {
				err = w.Close()
			}
		}
	case typeADC:
		return encodeADC(p)
	case typeLZFSE:
		return encodeLZFSE(p, b.onlyLZVN)
	default:
		return nil
	}
	if err != nil {
		b.tb.Fatal(err)
	}
	return out.Bytes()
}

// table adds a table of chunks of the given kinds that hold disk, and returns the place
// of its runs.
func (b *builder) table(disk []byte, chunk int, kinds ...uint32) {
	mish := make([]byte, mishHeader)
	copy(mish, "mish")
	be.PutUint32(mish[4:], 1)
	be.PutUint64(mish[8:], uint64(b.sector))
	be.PutUint64(mish[16:], uint64(len(disk)/sectorSize))
	sum := crc32.NewIEEE()
	count := uint32(0)
	add := func(kind uint32, sector, count, pos, length int) {
		r := make([]byte, runSize)
		be.PutUint32(r, kind)
		be.PutUint64(r[8:], uint64(sector))
		be.PutUint64(r[16:], uint64(count))
		be.PutUint64(r[24:], uint64(pos))
		be.PutUint64(r[32:], uint64(length))
		mish = append(mish, r...)
	}
	for i := 0; i*chunk < len(disk); i++ {
		p := disk[i*chunk : min((i+1)*chunk, len(disk))]
		kind := kinds[i%len(kinds)]
		if kind != typeIgnore {
			sum.Write(p)
		}
		enc := b.encode(kind, p)
		add(kind, i*chunk/sectorSize, len(p)/sectorSize, len(b.data), len(enc))
		b.data = append(b.data, enc...)
		count++
		if i == 1 {
			add(typeComment, i*chunk/sectorSize+len(p)/sectorSize, 0, len(b.data), 0)
			count++
		}
	}
	add(typeEnd, len(disk)/sectorSize, 0, len(b.data), 0)
	be.PutUint32(mish[64:], checksumCRC32)
	be.PutUint32(mish[68:], 32)
	be.PutUint32(mish[72:], sum.Sum32())
	be.PutUint32(mish[200:], count+1)
	b.tables = append(b.tables, mish)
	b.master = sum.Sum(b.master)
	b.sector += int64(len(disk) / sectorSize)
}

// list returns the property list, with other data than tables in it.
func (b *builder) list() []byte {
	var out bytes.Buffer
	out.WriteString("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple Computer//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">\n<dict>\n\t<key>resource-fork</key>\n\t<dict>\n\t\t<key>blkx</key>\n\t\t<array>\n")
	element := func(id int, name string, data []byte) {
		fmt.Fprintf(&out, "\t\t\t<dict>\n\t\t\t\t<key>Attributes</key>\n\t\t\t\t<string>0x0050</string>\n\t\t\t\t<key>CFName</key>\n\t\t\t\t<string>%s</string>\n\t\t\t\t<key>Data</key>\n\t\t\t\t<data>\n", name)
		text := base64.StdEncoding.EncodeToString(data)
		for len(text) > 0 {
			n := min(44, len(text))
			out.WriteString("\t\t\t\t" + text[:n] + "\n")
			text = text[n:]
		}
		fmt.Fprintf(&out, "\t\t\t\t</data>\n\t\t\t\t<key>ID</key>\n\t\t\t\t<string>%d</string>\n\t\t\t\t<key>Name</key>\n\t\t\t\t<string>%s</string>\n\t\t\t</dict>\n", id, name)
	}
	for i, t := range b.tables {
		element(i, fmt.Sprintf("part %d", i), t)
	}
	out.WriteString("\t\t</array>\n\t\t<key>plst</key>\n\t\t<array>\n")
	element(0, "", make([]byte, 1032))
	out.WriteString("\t\t</array>\n\t</dict>\n</dict>\n</plist>\n")
	return out.Bytes()
}

// fork returns the same as a resource fork.
func (b *builder) fork() []byte {
	out := make([]byte, 256)
	be.PutUint32(out, 256)
	for _, t := range append(b.tables, make([]byte, 1032)) {
		out = be.AppendUint32(out, uint32(len(t)))
		out = append(out, t...)
	}
	be.PutUint32(out[8:], uint32(len(out)-256))
	be.PutUint32(out[4:], uint32(len(out)))
	be.PutUint32(out[12:], 30)
	return append(out, make([]byte, 30)...)
}

// trailer returns a trailer for data and a list or fork behind them.
func (b *builder) trailer(list, fork, dataLen, listLen int) []byte {
	k := make([]byte, trailerSize)
	copy(k, "koly")
	be.PutUint32(k[4:], 4)
	be.PutUint32(k[8:], trailerSize)
	be.PutUint32(k[12:], 1)
	be.PutUint64(k[32:], uint64(dataLen))
	be.PutUint32(k[56:], 1)
	be.PutUint32(k[60:], 1)
	copy(k[64:], "an id of 16 byte")
	be.PutUint32(k[80:], checksumCRC32)
	be.PutUint32(k[84:], 32)
	be.PutUint32(k[88:], crc32.ChecksumIEEE(b.data))
	if fork > 0 {
		be.PutUint64(k[40:], uint64(fork))
		be.PutUint64(k[48:], uint64(listLen))
	} else {
		be.PutUint64(k[216:], uint64(list))
		be.PutUint64(k[224:], uint64(listLen))
	}
	be.PutUint32(k[352:], checksumCRC32)
	be.PutUint32(k[356:], 32)
	be.PutUint32(k[360:], crc32.ChecksumIEEE(b.master))
	be.PutUint32(k[488:], 1)
	be.PutUint64(k[492:], uint64(b.sector))
	return k
}

// image returns the image with a property list.
func (b *builder) image() []byte {
	list := b.list()
	out := append(bytes.Clone(b.data), list...)
	return append(out, b.trailer(len(b.data), 0, len(b.data), len(list))...)
}

// forkImage returns the image with a resource fork.
func (b *builder) forkImage() []byte {
	fork := b.fork()
	out := append(bytes.Clone(b.data), fork...)
	return append(out, b.trailer(0, len(b.data), len(b.data), len(fork))...)
}
