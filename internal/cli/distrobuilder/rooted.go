package distrobuilder

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus"
	"github.com/cowl-disk/cowl/incus/definition"
	"github.com/cowl-disk/cowl/incus/guest"
)

// rooted is a root file system in which a definition may run programs.
type rooted struct {
	*imaging
	d    *definition.Definition
	tree *fstree.Tree
	when time.Time
	work definition.Work
	// afterToo runs the actions post-files also for build-dir.
	afterToo bool

	uuid   [16]byte // of the root file system of a virtual machine, where programs were told
	guest  *guest.Guest
	needs  [2][]string
	replay []*fstree.Tree // trees that hold contents of the current one
}

// before runs what comes before the files are made: repositories, packages, actions.
func (r *rooted) before() error {
	before, after := r.d.Needs(r.work)
	if r.work == definition.BuildDir && !r.afterToo {
		after = nil
	}
	r.needs = [2][]string{before, after}
	all := slices.Concat(before, after)
	if len(before) == 0 || r.skipActions { // the steps, of which nothing is to be done
		for _, step := range [][]string{{"Managing repositories"}, {"Running hooks", "trigger", "post-unpack"}, {"Managing packages"}, {"Running hooks", "trigger", "post-packages"}} {
			r.say(step[0], step[1:]...)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if r.skipActions {
		r.Program.warn("left out: " + strings.Join(all, ", "))
		r.needs = [2][]string{}
		return nil
	}
	if len(before) == 0 {
		return nil
	}
	return r.inside(func(g *guest.Guest) error { return g.Prepare(r.ctx, r.d, r.work.Before(), r.say) })
}

// after runs the actions post-files.
func (r *rooted) after() error {
	if len(r.needs[1]) == 0 {
		if r.work != definition.BuildDir || r.afterToo {
			r.say("Running hooks", "trigger", "post-files")
		}
		return nil
	}
	return r.inside(func(g *guest.Guest) error {
		if r.vm {
			sum := sha256.Sum256(fmt.Appendf(nil, "%+v %d", r.d.Image, r.when.Unix()))
			copy(r.uuid[:], sum[:])
			r.uuid[6], r.uuid[8] = r.uuid[6]&0x0f|0x40, r.uuid[8]&0x3f|0x80 // as a random one (RFC 9562)
			fs, part := incus.RootNames(r.uuid)
			g.Env = append(g.Env, "DISTROBUILDER_ROOT_UUID="+fs, "DISTROBUILDER_ROOT_PARTUUID="+part)
		}
		return g.Finish(r.ctx, r.d, r.work.After(), r.say)
	})
}

func (r *rooted) say(text string, fields ...string) { r.log("info", text, fields...) }

// inside unpacks the tree, runs something in it, and reads it back. What is newer than the
// image gets its time.
func (r *rooted) inside(do func(*guest.Guest) error) error {
	if r.guest == nil {
		var err error
		if r.guest, err = guest.New(r.ctx, r.cacheDirOrTemp(), r.Stderr); err != nil {
			return fmt.Errorf("%s: these parts of the definition run programs in the root file system (--skip-actions leaves them out): %w", strings.Join(slices.Concat(r.needs[0], r.needs[1]), ", "), err)
		}
	}
	if err := r.guest.Unpack(r.ctx, r.tree); err != nil {
		return err
	}
	r.guest.Env = guest.Environment(r.d)
	if err := do(r.guest); err != nil {
		return err
	}
	tree, err := r.guest.Export(r.ctx, fstree.Options{TempDir: r.cacheDir})
	if err != nil {
		return err
	}
	if _, given, _ := r.epoch(); given || r.reproducible {
		tree.ClampTimes(r.when)
	}
	r.replay = append(r.replay, r.tree)
	r.tree = tree
	return nil
}

// close releases the trees and removes the folder in which programs ran.
func (r *rooted) close() {
	for _, t := range append(r.replay, r.tree) {
		if err := t.Close(); err != nil {
			r.Program.warn(err.Error())
		}
	}
	if r.guest == nil || r.keepCache {
		return
	}
	if err := r.guest.Remove(); err != nil {
		r.Program.warn(err.Error())
	}
}
