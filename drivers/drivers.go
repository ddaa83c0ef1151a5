// Package drivers holds the one list of all drivers. Programs and tests import
// it; the drivers themselves do not know of each other.
package drivers

import (
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/blkdebug"
	"github.com/cowl-disk/cowl/filter/blklogwrites"
	"github.com/cowl-disk/cowl/filter/blkverify"
	"github.com/cowl-disk/cowl/filter/compress"
	"github.com/cowl-disk/cowl/filter/copyonread"
	"github.com/cowl-disk/cowl/filter/preallocate"
	"github.com/cowl-disk/cowl/filter/quorum"
	"github.com/cowl-disk/cowl/filter/snapshotaccess"
	"github.com/cowl-disk/cowl/filter/throttle"
	"github.com/cowl-disk/cowl/format/asif"
	"github.com/cowl-disk/cowl/format/bochs"
	"github.com/cowl-disk/cowl/format/cloop"
	"github.com/cowl-disk/cowl/format/dmg"
	"github.com/cowl-disk/cowl/format/luks"
	"github.com/cowl-disk/cowl/format/parallels"
	"github.com/cowl-disk/cowl/format/qcow"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/qed"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/format/recognised"
	"github.com/cowl-disk/cowl/format/sparsebundle"
	"github.com/cowl-disk/cowl/format/sparseimage"
	"github.com/cowl-disk/cowl/format/vdi"
	"github.com/cowl-disk/cowl/format/vhdx"
	"github.com/cowl-disk/cowl/format/vmdk"
	"github.com/cowl-disk/cowl/format/vpc"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/gluster"
	"github.com/cowl-disk/cowl/protocol/http"
	"github.com/cowl-disk/cowl/protocol/iscsi"
	"github.com/cowl-disk/cowl/protocol/mem"
	"github.com/cowl-disk/cowl/protocol/nbd"
	"github.com/cowl-disk/cowl/protocol/nfs"
	"github.com/cowl-disk/cowl/protocol/null"
	"github.com/cowl-disk/cowl/protocol/rbd"
	"github.com/cowl-disk/cowl/protocol/sheepdog"
	"github.com/cowl-disk/cowl/protocol/ssh"
	"github.com/cowl-disk/cowl/protocol/vvfat"
)

// All returns every driver, in the order in which formats are probed. The first that has
// backing files is what overlays are made in.
func All() []driver.Driver {
	return append([]driver.Driver{
		raw.New(),
		qcow2.New(),
		luks.New(),
		qcow.New(),
		parallels.New(),
		qed.New(),
		vdi.New(),
		vpc.New(),
		vhdx.New(),
		vmdk.New(),
		bochs.New(),
		cloop.New(),
		dmg.New(),
		asif.New(),
		sparseimage.New(),
		sparsebundle.New(),
		file.New(),
		file.NewHostDevice(),
		file.NewHostCDROM(),
		nbd.New(),
		http.New(),
		http.NewTLS(),
		http.NewFTP(),
		http.NewFTPS(),
		ssh.New(),
		vvfat.New(),
		iscsi.New(),
		nfs.New(),
		sheepdog.New(),
		rbd.New(),
		gluster.New(),
		mem.New(),
		blkdebug.New(),
		blklogwrites.New(),
		blkverify.New(),
		compress.New(),
		copyonread.New(),
		preallocate.New(),
		quorum.New(),
		snapshotaccess.New(),
		throttle.New(),
		null.NewCo(),
		null.NewAIO(),
	}, recognised.Drivers()...)
}
