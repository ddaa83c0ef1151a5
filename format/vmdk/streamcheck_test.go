package vmdk

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const checkGrain = grainSectors * sectorSize

// streamOf returns a streamOptimized image of a disk whose grains from..to hold data.
func streamOf(t *testing.T, size int64, from, to int64) []byte {
	t.Helper()
	disk := make([]byte, size)
	for g := from; g < to; g++ {
		copy(disk[g*checkGrain:], bytes.Repeat([]byte{byte(g + 1), byte(g>>8) + 1}, checkGrain/2))
	}
	return streamImage(t, disk)
}

// grainAt finds the marker of a grain.
func grainAt(t *testing.T, b []byte, grain int64) int {
	t.Helper()
	for off := checkGrain; off < len(b); off += sectorSize {
		if le.Uint64(b[off:]) == uint64(grain*grainSectors) && le.Uint32(b[off+8:]) != 0 {
			return off
		}
	}
	t.Fatalf("grain %d is not there", grain)
	return 0
}

// tableOf returns where the table of a grain lies, as the directory says that the footer names.
func tableOf(b []byte, grain int64) int64 {
	dir := le.Uint64(b[len(b)-2*sectorSize+56:]) * sectorSize
	return int64(le.Uint32(b[int64(dir)+grain/tableEntries*4:])) * sectorSize
}

// entryOf returns the entry of a grain in its table.
func entryOf(b []byte, grain int64) []byte {
	at := tableOf(b, grain) + grain%tableEntries*4
	return b[at : at+4]
}

func checkBytes(t *testing.T, b []byte, budget *driver.Budget) (*driver.CheckResult, []string, error) {
	t.Helper()
	memory := mem.New().(*mem.Driver)
	disk := mem.NewDisk(0)
	if _, err := disk.WriteAt(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	memory.Add("a", disk)
	img, err := block.Open(t.Context(), block.NewRegistry(New(), memory), block.Source{Filename: "mem:a", Format: "vmdk"},
		block.OpenOptions{Gate: driver.DenyAll, Use: block.Use{Check: true}, Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	var lines []string
	last := int64(0)
	res, err := img.Tree().Node().(driver.Checker).Check(t.Context(), driver.CheckFix{}, func(s string) { lines = append(lines, s) }, func(done, total int64) {
		if done < last || total != img.Size() {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	return res, lines, err
}

// TestCheckGrains: each grain is decoded, and those that are damaged are told of in the order of the disk.
func TestCheckGrains(t *testing.T) {
	const grains = 3 * checkBatch
	good := streamOf(t, grains*checkGrain-3*sectorSize, 1, grains-1)
	if res, lines, err := checkBytes(t, good, nil); err != nil || *res != (driver.CheckResult{}) || len(lines) != 0 {
		t.Fatalf("%+v %q %v", res, lines, err)
	}
	b := bytes.Clone(good)
	for _, g := range []int64{1, checkBatch, checkBatch + 1, 2*checkBatch - 1} {
		b[grainAt(t, b, g)+grainMarkerSize+8] ^= 0x10 // the stream
	}
	le.PutUint32(b[grainAt(t, b, 100)+8:], 5)   // its length
	b[grainAt(t, b, 7)+grainMarkerSize] ^= 0xff // the header of the stream
	le.PutUint32(entryOf(b, 20), 1<<30)         // behind the end
	dir := le.Uint64(b[len(b)-2*sectorSize+56:]) * sectorSize
	le.PutUint32(b[dir+4:], 1<<30) // the table of the last batch
	res, lines, err := checkBytes(t, b, nil)
	if err != nil || res.Corruptions != 8 || res.CheckErrors != 0 {
		t.Errorf("%+v %v", res, err)
	}
	want := []string{"ERROR: entry 1 of the grain directory (0x40000000) names a table that cannot be there"}
	for _, g := range []int{1, 7, 20, 100, checkBatch, checkBatch + 1, 2*checkBatch - 1} {
		line := fmt.Sprintf("ERROR: grain %d (sector %d): ", g, g*grainSectors)
		if g == 20 {
			line = fmt.Sprintf("ERROR: cluster offset for sector %d points after EOF", g*grainSectors)
		}
		want = append(want, line)
	}
	if !slices.EqualFunc(lines, want, strings.HasPrefix) {
		t.Errorf("%q, want %q", lines, want)
	}
}

// TestCheckGrainsBounds: many entries that name one grain do not cost the decoding of all; with little memory fewer
// goroutines decode.
func TestCheckGrainsBounds(t *testing.T) {
	b := streamOf(t, 512*checkGrain, 0, 512)
	first := le.Uint32(entryOf(b, 0))
	for g := int64(511); g > 0; g-- {
		le.PutUint32(entryOf(b, g), first)
	}
	// What the other grains had is gone: the table follows the first one.
	from, to := tableOf(b, 0)-sectorSize, int64(first)*sectorSize+sectorSize
	small := append(bytes.Clone(b[:to]), b[from:]...)
	moved := uint32((from - to) / sectorSize)
	footer := small[len(small)-2*sectorSize:]
	dir := le.Uint64(footer[56:]) - uint64(moved)
	le.PutUint64(footer[56:], dir)
	le.PutUint32(small[dir*sectorSize:], le.Uint32(small[dir*sectorSize:])-moved)
	res, lines, err := checkBytes(t, small, nil)
	if err != nil || res.Corruptions != 1 || len(lines) != 1 || !strings.Contains(lines[0], "over each other") {
		t.Errorf("%+v %q %v", res, lines, err)
	}
	if _, _, err := checkBytes(t, b, &driver.Budget{MaxMemory: 5 << 19}); err != nil {
		t.Errorf("with little memory: %v", err)
	}
}
