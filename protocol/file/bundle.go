package file

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
)

// bundles are the folders that are disk images: a file tells, by its name and a mark in
// it. A format opens that file, and finds the others beside it.
var bundles = []struct{ name, mark string }{
	{"Info.plist", "com.apple.diskimage.sparsebundle"},
	{"DiskDescriptor.xml", "<Parallels_disk_image"},
}

// bundleHead is how much of the file is searched for the mark.
const bundleHead = 2048

// describes returns the name of the file that describes the image that a folder is, ""
// if it is none.
func describes(folder string) string {
	if st, err := os.Stat(folder); err != nil || !st.IsDir() {
		return ""
	}
	for _, b := range bundles {
		name := filepath.Join(folder, b.name)
		if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() && hasMark(name, b.mark) {
			return name
		}
	}
	return ""
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
