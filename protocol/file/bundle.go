package file

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
)

// bundles are the folders that are disk images: a file tells, by its name and a mark in
// it. A format opens that file, and finds the others beside it.
var bundles = []struct {
	name, mark string
	written    bool // the format can write it
}{
	{"Info.plist", "com.apple.diskimage.sparsebundle", false},
	{"DiskDescriptor.xml", "<Parallels_disk_image", true},
}

// bundleHead is how much of the file is searched for the mark.
const bundleHead = 2048

// describes returns the name of the file that describes the image that a folder is, ""
// if it is none, and whether such an image can be written.
func describes(folder string) (name string, written bool) {
	if st, err := os.Stat(folder); err != nil || !st.IsDir() {
		return "", false
	}
	for _, b := range bundles {
		name := filepath.Join(folder, b.name)
		if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() && hasMark(name, b.mark) {
			return name, b.written
		}
	}
	return "", false
}

func hasMark(name, mark string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, bundleHead)
	n, _ := io.ReadFull(f, head)
	return bytes.Contains(head[:n], []byte(mark))
}
