package vmdk

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

func (p *plan) createStream(ctx context.Context, file driver.Storage, text string) error {
	return driver.Errorf(driver.ErrUnsupported, "streamOptimized images are not written yet")
}
