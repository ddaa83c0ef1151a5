package squashfs

import "encoding/binary"

// metaWriter packs a stream of bytes into metadata blocks.
type metaWriter struct {
	packer packer
	out    []byte // finished blocks
	buf    []byte // less than metaSize bytes of the next block
	err    error  // of the packer
}

// ref is where a byte of a metadata stream is: the block's position among the packed
// blocks in the upper bits, the offset in the unpacked block in the lower 16.
func (w *metaWriter) ref() uint64 { return uint64(len(w.out))<<16 | uint64(len(w.buf)) }

func (w *metaWriter) write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), metaSize-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		if p = p[n:]; len(w.buf) == metaSize {
			w.flush()
		}
	}
}

// flush ends the block that has been begun.
func (w *metaWriter) flush() {
	if len(w.buf) == 0 || w.err != nil {
		return
	}
	at := len(w.out)
	w.out = append(w.out, 0, 0)
	var ok bool
	w.out, ok, w.err = w.packer.pack(w.out, w.buf)
	head := uint16(len(w.out) - at - 2)
	if !ok {
		w.out = append(w.out[:at+2], w.buf...)
		head = uint16(len(w.buf)) | metaRaw
	}
	binary.LittleEndian.PutUint16(w.out[at:], head)
	w.buf = w.buf[:0]
}

// appendTable appends a table of records to an image whose end is at base+len(b): the
// records in metadata blocks, then the positions of the blocks. It returns where those
// begin. prefix comes before them.
func appendTable(b []byte, base uint64, p packer, records []byte, prefix []byte) (out []byte, start uint64, err error) {
	var blocks []byte
	w := metaWriter{packer: p, out: b}
	for len(records) > 0 {
		n := min(len(records), metaSize)
		blocks = binary.LittleEndian.AppendUint64(blocks, base+uint64(len(w.out)))
		w.write(records[:n])
		w.flush()
		records = records[n:]
	}
	start = base + uint64(len(w.out))
	return append(append(w.out, prefix...), blocks...), start, w.err
}
