package qemuimg

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

// platform is what a place that takes disks wants. docs/formats/platforms.md names the
// source of each rule.
type platform struct {
	format  string
	options map[string]string
	unit    int64 // of the size of the disk, in bytes; 0: any whole sector
	archive bool  // the raw disk as disk.raw in a tar.gz
	hint    string
}

// platforms are the values of --for.
var platforms = map[string]platform{
	"azure":       {format: "vpc", options: map[string]string{"subformat": "fixed", "force_size": "on"}, unit: 1 << 20},
	"gce":         {format: "raw", unit: 1 << 30, archive: true},
	"aws":         {format: "vmdk", options: map[string]string{"subformat": "streamOptimized"}},
	"esxi":        {format: "vmdk", options: map[string]string{"subformat": "twoGbMaxExtentSparse", "adapter_type": "lsilogic"}, hint: "import it on the host with vmkfstools -i"},
	"workstation": {format: "vmdk", options: map[string]string{"subformat": "monolithicSparse", "adapter_type": "lsilogic"}},
	"hyper-v":     {format: "vhdx", options: map[string]string{"subformat": "dynamic", "block_size": "1048576"}, unit: 1 << 20},
	"xenserver":   {format: "vpc", options: map[string]string{"subformat": "dynamic", "force_size": "on"}, unit: 2 << 20},
	"virtualbox":  {format: "vdi", unit: 1 << 20},
	"proxmox":     {format: "qcow2"},
	"parallels":   {format: "parallels", unit: 1 << 20, hint: "it is an image for a disk of Parallels (.hds), without the folder and its descriptor"},
}

// platformNames are the names of platforms, sorted.
func platformNames() []string { return slices.Sorted(maps.Keys(platforms)) }

// platformHelp lists the names for the help, in two lines.
func platformHelp() string {
	names := platformNames()
	half := (len(names) + 1) / 2
	return strings.Join(names[:half], ", ") + ",\n" + strings.Join(names[half:], ", ")
}

func (cv *conversion) setPlatform(name string) error {
	p, ok := platforms[name]
	if !ok {
		return fmt.Errorf("Unknown platform '%s': %s are known", name, strings.Join(platformNames(), ", "))
	}
	cv.platform, cv.platformName = &p, name
	return nil
}

// tell says on the standard error what the platform changes.
func (cv *conversion) tell(format string, args ...any) {
	if !cv.quiet {
		fmt.Fprintf(cv.Stderr, "%s: for %s: %s\n", cv.Name, cv.platformName, fmt.Sprintf(format, args...))
	}
}

// choose sets the format and the options of the target, and refuses others.
func (cv *conversion) choose() error {
	p := cv.platform
	if cv.noCreate || cv.backing != nil || cv.backFm != nil || cv.target == "-" || len(cv.sources) > 0 && cv.sources[0] == "-" || cv.compress && p.archive {
		return errors.New("--for makes a new image of its own: it cannot be combined with -n, -b, -F and '-'")
	}
	if cv.format != nil && *cv.format != p.format {
		return fmt.Errorf("%s takes the format %s, not %s", cv.platformName, p.format, *cv.format)
	}
	given, err := cv.list.dict()
	if err != nil {
		return err
	}
	if p.archive && len(given) > 0 {
		return fmt.Errorf("-o has no effect for %s", cv.platformName)
	}
	cv.format = &p.format
	chosen := "format " + p.format
	for _, key := range slices.Sorted(maps.Keys(p.options)) {
		want := p.options[key]
		if got, ok := given[key]; ok && opts.Text(got) != want {
			return fmt.Errorf("%s needs %s=%s, not %s", cv.platformName, key, want, opts.Text(got))
		} else if !ok {
			if err := cv.list.add(key + "=" + want); err != nil {
				return err
			}
			chosen += ", " + key + "=" + want
		}
	}
	cv.tell("%s", chosen)
	if p.hint != "" {
		cv.tell("%s", p.hint)
	}
	return nil
}

// fill appends zeroes to the sources where the size of the disk has a unit.
func (cv *conversion) fill(job *ops.CopyJob) error {
	total := int64(0)
	for _, img := range job.Sources {
		total += (img.Size() + 511) / 512 * 512
	}
	unit := max(cv.platform.unit, 512)
	want := max((total+unit-1)/unit*unit, unit)
	if want == total {
		return nil
	}
	zeroes, err := cv.openSource(cv.ctx, block.Source{Options: opts.Dict{"driver": "null-co", "read-zeroes": "on", "size": strconv.FormatInt(want-total, 10)}}, "zeroes", block.OpenOptions{})
	if err != nil {
		return err
	}
	job.Sources = append(job.Sources, zeroes)
	cv.tell("the disk of %d bytes becomes one of %d, a multiple of %d", total, want, unit)
	return nil
}

// toArchive writes the disk as disk.raw in a compressed archive in GNU's older format. A
// file that fails is removed.
func (cv *conversion) toArchive(job ops.CopyJob) (err error) {
	size := int64(0)
	for _, img := range job.Sources {
		size += (img.Size() + 511) / 512 * 512
	}
	f, err := os.OpenFile(cv.target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("Could not create '%s': %s", cv.target, words.System(err))
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			err = errors.Join(err, os.Remove(cv.target))
		}
	}()
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "disk.raw", Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatGNU}); err != nil {
		return err
	}
	z := newGzipWriter(f)
	closed := false
	defer func() {
		if !closed {
			_ = z.Close() // something else has failed
		}
	}()
	if _, err := z.Write(head.Bytes()); err != nil {
		return err
	}
	_, err = ops.ConvertToWriter(cv.ctx, z, cv.reg.Lookup("raw"), opts.Dict{}, ops.ConvertJob{Sources: job.Sources, Sparse: max(0, job.Sparse),
		Salvage: job.Salvage, Salvaged: job.Salvaged, RateLimit: job.RateLimit, Checksum: job.Checksum, Progress: job.Progress, Warn: job.Warn})
	if err != nil {
		return err
	}
	// Two blocks of zeroes end an archive; the size of the disk is whole blocks.
	if _, err := z.Write(make([]byte, 1024)); err != nil {
		return err
	}
	closed = true
	if err := z.Close(); err != nil {
		return err
	}
	return f.Sync()
}
