package rbd

import (
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native"
	"github.com/cowl-disk/cowl/internal/native/link"
)

// engine returns Ceph, as a program of its own.
func engine() *native.Engine {
	return &native.Engine{Name: "rbd", Text: "Ceph", Packages: "the package librbd1", Error: stepError}
}

// stepError words a step that failed.
func stepError(e *link.Error) error {
	no := syscall.Errno(e.Errno)
	switch e.Step {
	case "initialize":
		return driver.Errorf(nil, "error initializing: %w", no)
	case "conf":
		return driver.Errorf(nil, "error reading conf file %s: %w", e.Name, no)
	case "option":
		return driver.Errorf(nil, "invalid conf option %s: %w", e.Name, no)
	case "set":
		return driver.Errorf(nil, "could not set '%s': %w", e.Name, no)
	case "connect":
		return driver.Errorf(nil, "error connecting: %w", no)
	case "pool":
		return driver.Errorf(nil, "error opening pool %s: %w", e.Name, no)
	case "namespace":
		return driver.Errorf(nil, "error checking namespace: %w", no)
	case "no namespace":
		return driver.Errorf(no, "namespace '%s' does not exist", e.Name)
	case "create":
		return driver.Errorf(nil, "error rbd create: %w", no)
	case "remove":
		return driver.Errorf(nil, "error removing image %s: %w", e.Name, no)
	case "header":
		return driver.Errorf(nil, "error reading header from %s: %w", e.Name, no)
	case "info":
		return driver.Errorf(nil, "error getting image info from %s: %w", e.Name, no)
	case "open for encryption":
		return driver.Errorf(nil, "error opening image '%s' for encryption format: %w", e.Name, no)
	case "format encryption":
		return driver.Errorf(nil, "encryption format fail: %w", no)
	case "load encryption":
		return driver.Errorf(nil, "encryption load fail: %w", no)
	case "load layers":
		return driver.Errorf(nil, "layered encryption load fail: %w", no)
	case "size":
		return driver.Errorf(nil, "cannot get effective image size: %w", no)
	case "resize after encryption":
		return driver.Errorf(nil, "cannot resize image after format: %w", no)
	case "no encryption":
		return driver.Errorf(driver.ErrUnsupported, "RBD library does not support image encryption")
	case "no layers":
		return driver.Errorf(driver.ErrUnsupported, "RBD library does not support layered encryption")
	case "encryption format":
		return driver.Errorf(driver.ErrUnsupported, "unknown image encryption format: %s", e.Name)
	case "resize":
		return driver.Errorf(nil, "failed to resize file: %w", no)
	case "create snapshot", "apply snapshot", "list snapshots":
		return no
	case "remove snapshot":
		return driver.Errorf(nil, "failed to remove the snapshot: %w", no)
	}
	return driver.Errorf(nil, "%s: %w", e.Step, no)
}
