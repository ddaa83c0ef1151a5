package ova

import (
	"archive/tar"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// Kinds of error.
var (
	ErrFormat      = errors.New("not an appliance")
	ErrLimit       = errors.New("limit for appliances of strangers exceeded")
	ErrUnsupported = errors.New("not supported")
	ErrNoDisk      = errors.New("no such disk")
)

// Limits for archives of strangers.
const (
	maxMembers    = 10_000
	maxDescriptor = 1 << 20 // bytes of the descriptor, and of the manifest
	maxDisks      = 1000
)

// Member is a file of the archive. Offset and Size are in bytes.
type Member struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

// Disk is a disk of the appliance.
type Disk struct {
	ID   string `json:"id"`
	File string `json:"file,omitempty"` // as the descriptor has it; "" for an empty disk
	// Capacity is the size of the disk in bytes, -1 if the descriptor does not tell.
	Capacity    int64   `json:"capacity"`
	Format      string  `json:"format"` // the URI of the format
	Compression string  `json:"compression,omitempty"`
	Member      *Member `json:"-"` // the file; nil if the archive does not have it
}

// Appliance is what an archive holds.
type Appliance struct {
	Members    []Member
	Descriptor Member
	Manifest   *Member // nil: there is none
	Disks      []Disk
}

// envelope is the part of the descriptor that is about disks.
type envelope struct {
	XMLName xml.Name `xml:"Envelope"`
	Files   []struct {
		ID          string `xml:"id,attr"`
		Href        string `xml:"href,attr"`
		Compression string `xml:"compression,attr"`
		ChunkSize   string `xml:"chunkSize,attr"`
	} `xml:"References>File"`
	Disks []struct {
		ID       string `xml:"diskId,attr"`
		File     string `xml:"fileRef,attr"`
		Capacity string `xml:"capacity,attr"`
		Units    string `xml:"capacityAllocationUnits,attr"`
		Format   string `xml:"format,attr"`
	} `xml:"DiskSection>Disk"`
}

// Open reads the headers of an archive of size bytes, and its descriptor. r is used at one
// place at a time.
func Open(r io.ReaderAt, size int64) (*Appliance, error) {
	a := &Appliance{}
	section := io.NewSectionReader(r, 0, size)
	t := tar.NewReader(section)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: the archive is damaged behind member %d: %w", ErrFormat, len(a.Members), err)
		}
		if ok, err := a.takes(h); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		// The reader has consumed the header and nothing of the data.
		off, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if h.Size > size-off {
			return nil, fmt.Errorf("%w: the member '%.100s' of %d bytes at offset %d ends behind the end of the file, at %d", ErrFormat, h.Name, h.Size, off, size)
		}
		a.Members = append(a.Members, Member{Name: path.Clean(h.Name), Offset: off, Size: h.Size})
	}
	return a, a.describe(func(m Member) ([]byte, error) { return readMember(r, m) })
}

// takes says whether a member is a file, and refuses those that cannot be read in place.
func (a *Appliance) takes(h *tar.Header) (bool, error) {
	if len(a.Members) == maxMembers {
		return false, fmt.Errorf("%w: more than %d members", ErrLimit, maxMembers)
	}
	if h.Typeflag != tar.TypeReg {
		return false, nil
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return false, fmt.Errorf("%w: the member '%.100s' is stored with holes", ErrUnsupported, h.Name)
		}
	}
	return true, nil
}

func isDescriptor(name string) bool { return strings.EqualFold(path.Ext(name), ".ovf") }
func isManifest(name string) bool   { return strings.EqualFold(path.Ext(name), ".mf") }

// describe reads the descriptor.
func (a *Appliance) describe(read func(Member) ([]byte, error)) error {
	found := false
	for i, m := range a.Members {
		switch {
		case isDescriptor(m.Name):
			if !found {
				a.Descriptor, found = m, true
			}
		case isManifest(m.Name):
			if a.Manifest == nil {
				a.Manifest = &a.Members[i]
			}
		}
	}
	if !found {
		return fmt.Errorf("%w: the archive has no descriptor (.ovf)", ErrFormat)
	}
	text, err := read(a.Descriptor)
	if err != nil {
		return err
	}
	return a.parse(text)
}

// parse takes the disks from the descriptor.
func (a *Appliance) parse(text []byte) error {
	var e envelope
	if err := xml.Unmarshal(text, &e); err != nil {
		return fmt.Errorf("%w: the descriptor '%.100s' is damaged: %w", ErrFormat, a.Descriptor.Name, err)
	}
	if len(e.Disks) > maxDisks {
		return fmt.Errorf("%w: %d disks", ErrLimit, len(e.Disks))
	}
	for _, d := range e.Disks {
		disk := Disk{ID: d.ID, Capacity: capacity(d.Capacity, d.Units), Format: d.Format}
		for _, f := range e.Files {
			if d.File == "" || f.ID != d.File {
				continue
			}
			disk.File, disk.Compression = f.Href, f.Compression
			if f.ChunkSize != "" {
				return fmt.Errorf("%w: the file '%.100s' is in chunks", ErrUnsupported, f.Href)
			}
			disk.Member = a.member(f.Href)
			break
		}
		a.Disks = append(a.Disks, disk)
	}
	return nil
}

func (a *Appliance) member(name string) *Member {
	for i := range a.Members {
		if a.Members[i].Name == path.Clean(name) {
			return &a.Members[i]
		}
	}
	return nil
}

func readMember(r io.ReaderAt, m Member) ([]byte, error) {
	if m.Size > maxDescriptor {
		return nil, fmt.Errorf("%w: '%.100s' has %d bytes, at most %d are read", ErrLimit, m.Name, m.Size, maxDescriptor)
	}
	b := make([]byte, m.Size)
	if n, err := r.ReadAt(b, m.Offset); n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("could not read '%.100s': %w", m.Name, err)
	}
	return b, nil
}

// capacity is a size in bytes, -1 if it is none: units are "byte", "byte * 2^30" and such
// (DSP0004, annex C), in older descriptors "GigaBytes".
func capacity(text, units string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	unit := int64(1)
	switch u := strings.ReplaceAll(strings.ToLower(units), " ", ""); {
	case u == "", u == "byte", u == "bytes":
	case u == "kilobytes":
		unit = 1 << 10
	case u == "megabytes":
		unit = 1 << 20
	case u == "gigabytes":
		unit = 1 << 30
	case strings.HasPrefix(u, "byte*2^"):
		bits, err := strconv.ParseUint(u[len("byte*2^"):], 10, 8)
		if err != nil || bits > 62 {
			return -1
		}
		unit = 1 << bits
	case strings.HasPrefix(u, "byte*"):
		if unit, err = strconv.ParseInt(u[len("byte*"):], 10, 64); err != nil || unit <= 0 {
			return -1
		}
	default:
		return -1
	}
	if n > (1<<63-1)/unit {
		return -1
	}
	return n * unit
}

// Find returns the disk that name means: its number from 1, its identifier, or the name of
// its file.
func (a *Appliance) Find(name string) (*Disk, error) {
	d, err := a.disk(name)
	if err != nil {
		return nil, err
	}
	return d.there()
}

func (a *Appliance) disk(name string) (*Disk, error) {
	for i := range a.Disks {
		if d := &a.Disks[i]; name == d.ID || d.File != "" && name == d.File {
			return d, nil
		}
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 1 && n <= len(a.Disks) {
		return &a.Disks[n-1], nil
	}
	return nil, fmt.Errorf("%w: '%.100s' is none of the %d disks of the appliance", ErrNoDisk, name, len(a.Disks))
}

// there refuses a disk that cannot be read in place.
func (d *Disk) there() (*Disk, error) {
	switch {
	case d.File == "":
		return nil, fmt.Errorf("%w: the disk '%.100s' has no file: it is empty", ErrUnsupported, d.ID)
	case d.Member == nil:
		return nil, fmt.Errorf("%w: the archive does not have the file '%.100s' of the disk '%.100s'", ErrFormat, d.File, d.ID)
	case d.Compression != "" && d.Compression != "identity":
		return nil, fmt.Errorf("%w: the file '%.100s' is compressed with %.40s: unpack it first", ErrUnsupported, d.File, d.Compression)
	}
	return d, nil
}
