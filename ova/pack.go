package ova

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	block = 512 // of a tar archive

	// FormatStreamOptimized is the URI of stream-optimized disks of VMware.
	FormatStreamOptimized = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"

	// maxDigits is the room for a size in the descriptor.
	maxDigits = 19
)

// PackOptions say what to pack.
type PackOptions struct {
	// Name is that of the appliance, of its descriptor and the start of the names of its disks:
	// letters, digits, and "-_." inside. "" is "appliance".
	Name   string
	CPUs   int // 0: 1
	Memory int // MiB; 0: 1024
	// Time is the time of all members; the zero value is that of 1970.
	Time  time.Time
	Disks []PackDisk
}

// PackDisk is a disk to pack.
type PackDisk struct {
	Capacity int64 // bytes
	// Write writes the disk as a stream-optimized image. Its length must be a multiple of 512.
	Write func(w io.Writer) error
}

// Pack writes an appliance at the start of w, which has to be empty, and returns its length. The
// members are in the order of DSP0243, section 6.2: the descriptor, the manifest, the disks as the
// References have them. The archive is a plain ustar one, but for disks of 8 GiB and
// more, whose sizes ustar cannot tell. The same disks and options give the same bytes.
func Pack(w io.WriterAt, o PackOptions) (int64, error) {
	o.Name, o.CPUs, o.Memory = cmp.Or(o.Name, "appliance"), cmp.Or(o.CPUs, 1), cmp.Or(o.Memory, 1024)
	if err := o.check(); err != nil {
		return 0, err
	}
	if o.Time.IsZero() {
		o.Time = time.Unix(0, 0)
	}
	files := make([]packed, len(o.Disks))
	for i, d := range o.Disks {
		files[i] = packed{name: fmt.Sprintf("%s-disk%d.vmdk", o.Name, i+1), capacity: d.Capacity}
	}
	// The descriptor is written last, into room for the longest one.
	room := int64(len(o.descriptor(files, strings.Repeat("9", maxDigits))))
	manifestRoom := int64(len(o.manifest(make([]byte, sha256.Size), files)))
	ovfAt, mfAt := int64(block), 2*block+up(room)
	end := mfAt + up(manifestRoom)
	for i, d := range o.Disks {
		f := &files[i]
		f.at = end + block
		h := sha256.New()
		out := &offsetWriter{w: w, off: f.at}
		if err := d.Write(io.MultiWriter(out, h)); err != nil {
			return 0, err
		}
		f.size = out.off - f.at
		f.digest = h.Sum(nil)
		if f.size%block != 0 {
			return 0, fmt.Errorf("the image of disk %d has %d bytes, which is no multiple of %d", i+1, f.size, block)
		}
		if err := o.header(w, end, f.name, f.size); err != nil {
			return 0, err
		}
		end = out.off
	}
	text := o.descriptor(files, "")
	text = append(text, bytes.Repeat([]byte{'\n'}, int(room)-len(text))...)
	sum := sha256.Sum256(text)
	manifest := o.manifest(sum[:], files)
	for _, m := range []struct {
		at   int64
		name string
		data []byte
	}{{ovfAt, o.Name + ".ovf", text}, {mfAt, o.Name + ".mf", manifest}} {
		if err := o.header(w, m.at-block, m.name, int64(len(m.data))); err != nil {
			return 0, err
		}
		padded := make([]byte, up(int64(len(m.data))))
		copy(padded, m.data)
		if _, err := w.WriteAt(padded, m.at); err != nil {
			return 0, err
		}
	}
	// Two blocks of zeroes end an archive.
	_, err := w.WriteAt(make([]byte, 2*block), end)
	return end + 2*block, err
}

// packed is a disk in the archive.
type packed struct {
	name     string
	capacity int64
	at, size int64
	digest   []byte
}

func up(n int64) int64 { return (n + block - 1) / block * block }

func (o *PackOptions) check() error {
	if len(o.Disks) == 0 || len(o.Disks) > 60 {
		return fmt.Errorf("%w: an appliance of %d disks: 1 to 60 are packed", ErrUnsupported, len(o.Disks))
	}
	inside := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c)
	}
	if len(o.Name) > 60 || strings.Trim(o.Name, "-_.") != o.Name || strings.ContainsFunc(o.Name, func(c rune) bool { return !inside(c) }) {
		return fmt.Errorf("%w: the name '%.100s': at most 60 letters, digits and -_. inside", ErrUnsupported, o.Name)
	}
	if o.CPUs < 1 || o.Memory < 1 {
		return fmt.Errorf("%w: %d processors and %d MiB of memory", ErrUnsupported, o.CPUs, o.Memory)
	}
	return nil
}

// header writes the header of a member.
func (o *PackOptions) header(w io.WriterAt, at int64, name string, size int64) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: o.Time.Truncate(time.Second), Format: tar.FormatUSTAR}
	if size >= 8<<30 {
		h.Format = tar.FormatGNU // the size in binary; the header stays one block
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return err
	}
	_, err := w.WriteAt(b.Bytes(), at)
	return err
}

func (o *PackOptions) manifest(descriptor []byte, files []packed) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "SHA256(%s.ovf)= %s\n", o.Name, hex.EncodeToString(descriptor))
	for _, f := range files {
		digest := f.digest
		if digest == nil {
			digest = make([]byte, sha256.Size)
		}
		fmt.Fprintf(&b, "SHA256(%s)= %s\n", f.name, hex.EncodeToString(digest))
	}
	return b.Bytes()
}

// descriptor is the text of an OVF 1.0 envelope. size, if not "", stands for the sizes of files.
func (o *PackOptions) descriptor(files []packed, size string) []byte {
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <References>
`)
	for i, f := range files {
		s := size
		if s == "" {
			s = fmt.Sprint(f.size)
		}
		fmt.Fprintf(&b, "    <File ovf:id=\"file%d\" ovf:href=\"%s\" ovf:size=\"%s\"/>\n", i+1, f.name, s)
	}
	b.WriteString("  </References>\n  <DiskSection>\n    <Info>Virtual disks</Info>\n")
	for i, f := range files {
		fmt.Fprintf(&b, "    <Disk ovf:diskId=\"vmdisk%d\" ovf:fileRef=\"file%d\" ovf:capacity=\"%d\" ovf:capacityAllocationUnits=\"byte\" ovf:format=\"%s\"/>\n", i+1, i+1, f.capacity, FormatStreamOptimized)
	}
	var name bytes.Buffer
	_ = xml.EscapeText(&name, []byte(o.Name))
	fmt.Fprintf(&b, `  </DiskSection>
  <VirtualSystem ovf:id="%[1]s">
    <Info>A virtual machine</Info>
    <Name>%[1]s</Name>
    <OperatingSystemSection ovf:id="102">
      <Info>The guest operating system: other, 64 bits</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>%[1]s</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType>
      </System>
`, name.String())
	// The elements of an Item are in the order of their names, as its schema demands.
	fmt.Fprintf(&b, "      <Item><rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits><rasd:ElementName>CPU</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>%d</rasd:VirtualQuantity></Item>\n", o.CPUs)
	fmt.Fprintf(&b, "      <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>Memory</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>%d</rasd:VirtualQuantity></Item>\n", o.Memory)
	for c := 0; c*perController < len(files); c++ {
		fmt.Fprintf(&b, "      <Item><rasd:Address>%d</rasd:Address><rasd:ElementName>SCSI Controller %d</rasd:ElementName><rasd:InstanceID>%d</rasd:InstanceID><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>\n", c, c, 3+c)
	}
	for i := range files {
		place := i % perController
		if place >= 7 {
			place++ // the controller itself is 7
		}
		fmt.Fprintf(&b, "      <Item><rasd:AddressOnParent>%d</rasd:AddressOnParent><rasd:ElementName>Disk %d</rasd:ElementName><rasd:HostResource>ovf:/disk/vmdisk%d</rasd:HostResource><rasd:InstanceID>%d</rasd:InstanceID><rasd:Parent>%d</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>\n",
			place, i+1, i+1, 100+i, 3+i/perController)
	}
	b.WriteString("    </VirtualHardwareSection>\n  </VirtualSystem>\n</Envelope>\n")
	return b.Bytes()
}

// perController is how many disks a SCSI controller takes.
const perController = 15

// offsetWriter writes one piece behind the other.
type offsetWriter struct {
	w   io.WriterAt
	off int64
}

func (o *offsetWriter) Write(p []byte) (int, error) {
	n, err := o.w.WriteAt(p, o.off)
	o.off += int64(n)
	return n, err
}
