package parallels

import (
	"cmp"
	"encoding/xml"
	"math"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	descriptorName = "DiskDescriptor.xml"
	descriptorMark = "<Parallels_disk_image"

	// topGUID is the image that is in use, where the descriptor does not say otherwise.
	topGUID  = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
	noParent = "{00000000-0000-0000-0000-000000000000}"

	typeCompressed = "Compressed" // an image with a header and a table
	typePlain      = "Plain"      // the bytes of the disk
)

// descriptor is DiskDescriptor.xml, as far as reading needs it (docs/interop/prl-xml of the
// QEMU project).
type descriptor struct {
	XMLName    xml.Name  `xml:"Parallels_disk_image"`
	Sectors    int64     `xml:"Disk_Parameters>Disk_size"`
	Encryption string    `xml:"Disk_Parameters>Encryption>Engine"`
	Storages   []storage `xml:"StorageData>Storage"`
	Top        string    `xml:"Snapshots>TopGUID"`
	Shots      []shot    `xml:"Snapshots>Shot"`
}

// storage is a part of the disk.
type storage struct {
	Start  int64 // sectors
	End    int64
	Images []imageFile `xml:"Image"`
}

// imageFile is what a snapshot, or the disk as it is, keeps of a part.
type imageFile struct {
	GUID string
	Type string
	File string
}

// shot says which image is below another one.
type shot struct {
	GUID   string
	Parent string `xml:"ParentGUID"`
}

func sameGUID(a, b string) bool {
	return strings.EqualFold(strings.Trim(a, "{} \n"), strings.Trim(b, "{} \n"))
}

// decodeDescriptor decodes a descriptor and refuses what cannot be read.
func decodeDescriptor(text []byte) (*descriptor, error) {
	var d descriptor
	if err := xml.Unmarshal(text, &d); err != nil {
		return nil, corrupt("the disk descriptor is damaged: %w", err)
	}
	if d.Encryption != "" {
		return nil, driver.Errorf(driver.ErrUnsupported, "the disk is encrypted ('%.40s'), which is not supported", d.Encryption)
	}
	if d.Sectors <= 0 || d.Sectors > math.MaxInt64/sectorSize {
		return nil, corrupt("a disk of %d sectors cannot be", d.Sectors)
	}
	d.Top = cmp.Or(strings.TrimSpace(d.Top), topGUID)
	slices.SortStableFunc(d.Storages, func(a, b storage) int { return cmp.Compare(a.Start, b.Start) })
	end := int64(0)
	for _, s := range d.Storages {
		if s.Start != end || s.End <= s.Start || s.End > math.MaxInt64/sectorSize {
			return nil, corrupt("a part of the disk from sector %d to %d cannot be: the one before ends at %d", s.Start, s.End, end)
		}
		end = s.End
	}
	if end < d.Sectors {
		return nil, corrupt("the disk has %d sectors, its parts %d", d.Sectors, end)
	}
	return &d, nil
}

// chain returns the images from one down to that without a parent.
func (d *descriptor) chain(guid string) ([]string, error) {
	if len(d.Shots) == 0 && len(d.Storages) > 0 && len(d.Storages[0].Images) == 1 {
		// One image, whatever it is called.
		return []string{d.Storages[0].Images[0].GUID}, nil
	}
	var out []string
	for !sameGUID(guid, noParent) {
		i := slices.IndexFunc(d.Shots, func(s shot) bool { return sameGUID(s.GUID, guid) })
		if i < 0 {
			return nil, corrupt("the descriptor does not say what is below the image %.60s", guid)
		}
		if out = append(out, guid); len(out) > len(d.Shots) {
			return nil, corrupt("the image %.60s is below itself", guid)
		}
		guid = d.Shots[i].Parent
	}
	return out, nil
}

// checkName refuses names that could lead out of the bundle.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\\:\x00") {
		return driver.Errorf(driver.ErrGate, "the descriptor names the file '%.100s', which is not in the folder of the disk", name)
	}
	return nil
}
