package qcow2

import "github.com/cowl-disk/cowl/block/driver"

// testSecrets are secrets by id.
type testSecrets = driver.Secrets
