package ova

import (
	"archive/tar"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"io"
	"path"
)

// passage reads an archive once, from its start to its end.
type passage struct {
	a   *Appliance
	in  *counter
	tar *tar.Reader
}

// counter counts what was read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func newPassage(ctx context.Context, r io.Reader) *passage {
	in := &counter{Reader: &reader{ctx, r}}
	return &passage{a: &Appliance{}, in: in, tar: tar.NewReader(in)}
}

// next goes to the next file, whose data p.tar reads then. io.EOF: there is none.
func (p *passage) next() (Member, error) {
	for {
		h, err := p.tar.Next()
		if err == io.EOF {
			return Member{}, err
		}
		if err != nil {
			return Member{}, fmt.Errorf("%w: the archive is damaged behind member %d: %w", ErrFormat, len(p.a.Members), err)
		}
		if ok, err := p.a.takes(h); err != nil {
			return Member{}, err
		} else if !ok {
			continue
		}
		m := Member{Name: path.Clean(h.Name), Offset: p.in.n, Size: h.Size}
		p.a.Members = append(p.a.Members, m)
		return m, nil
	}
}

// text reads a member that is a text.
func (p *passage) text(m Member) ([]byte, error) {
	if m.Size > maxDescriptor {
		return nil, fmt.Errorf("%w: '%.100s' has %d bytes, at most %d are read", ErrLimit, m.Name, m.Size, maxDescriptor)
	}
	b, err := io.ReadAll(p.tar)
	if err != nil {
		return nil, fmt.Errorf("could not read '%.100s': %w", m.Name, err)
	}
	return b, nil
}

// ReadStream is Open for an archive that can be read only once, as from a pipe, to its end. With verify it
// computes digests on the way, and returns what Verify does. It ends with ctx between two reads.
func ReadStream(ctx context.Context, r io.Reader, verify bool) (*Appliance, []Verified, error) {
	p := newPassage(ctx, r)
	var descriptor, manifest []byte     // the first of each
	sums := map[string]map[int][]byte{} // by name, and length: those that manifests use
	for {
		m, err := p.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		hashes := []hash.Hash{sha1.New(), sha256.New(), sha512.New()}
		into := io.MultiWriter(hashes[0], hashes[1], hashes[2])
		switch {
		case isDescriptor(m.Name), isManifest(m.Name):
			text, err := p.text(m)
			if err != nil {
				return nil, nil, err
			}
			if isDescriptor(m.Name) && descriptor == nil {
				descriptor = text
			} else if isManifest(m.Name) && manifest == nil {
				manifest = text
			}
			_, _ = into.Write(text)
		case verify:
			if _, err := io.Copy(into, p.tar); err != nil {
				return nil, nil, fmt.Errorf("could not read '%.100s': %w", m.Name, err)
			}
		}
		if _, known := sums[m.Name]; verify && !known { // of two of a name, the first one counts
			sums[m.Name] = map[int][]byte{}
			for _, h := range hashes {
				sums[m.Name][h.Size()] = h.Sum(nil)
			}
		}
	}
	if _, err := io.Copy(io.Discard, p.in); err != nil { // what is behind the end of the archive
		return nil, nil, err
	}
	err := p.a.describe(func(Member) ([]byte, error) { return descriptor, nil })
	if err != nil || !verify || p.a.Manifest == nil {
		return p.a, nil, err
	}
	out, err := p.a.verify(manifest, func(m *Member, h hash.Hash) ([]byte, error) { return sums[m.Name][h.Size()], nil })
	return p.a, out, err
}

// DiskStream goes to the file of a disk in an archive that can be read only once, and returns the disk and the
// bytes of its file. name is that of Find. The descriptor must come before the disk, as the specification
// (DSP0243, section 5) has it.
func DiskStream(ctx context.Context, r io.Reader, name string) (*Disk, io.Reader, error) {
	p := newPassage(ctx, r)
	var disk *Disk
	for {
		m, err := p.next()
		switch {
		case err == io.EOF && disk == nil:
			return nil, nil, fmt.Errorf("%w: the archive has no descriptor (.ovf)", ErrFormat)
		case err == io.EOF:
			return nil, nil, fmt.Errorf("%w: the archive does not have the file '%.100s' of the disk '%.100s'", ErrFormat, disk.File, disk.ID)
		case err != nil:
			return nil, nil, err
		case disk == nil && isDescriptor(m.Name):
			text, err := p.text(m)
			if err != nil {
				return nil, nil, err
			}
			if err := p.a.parse(text); err != nil {
				return nil, nil, err
			}
			if disk, err = p.a.disk(name); err != nil {
				return nil, nil, err
			}
			if disk.Member != nil {
				return nil, nil, fmt.Errorf("%w: the file '%.100s' comes before the descriptor: an appliance in this order cannot be read from a pipe", ErrUnsupported, disk.File)
			}
			// It is to come: no other reason speaks against reading it.
			disk.Member = &Member{Name: path.Clean(disk.File)}
			if _, err := disk.there(); err != nil {
				return nil, nil, err
			}
		case disk != nil && m.Name == disk.Member.Name:
			disk.Member = &m
			return disk, p.tar, nil
		}
	}
}
