package sheepdog

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/internal/message"
)

// Delete removes a VDI or snapshot, which are named as for Find, and gives its room back.
func (c *Client) Delete(ctx context.Context, name string, snapshot uint32, tag string) error {
	vdi, err := c.Find(ctx, name, snapshot, tag)
	if err != nil {
		return err
	}
	ino, err := c.inode(ctx, vdi)
	if err != nil {
		return err
	}
	if err := c.do(ctx, &request{op: opDelete, snapshot: snapshot, out: nameField(name, tag), once: true}); err != nil {
		return err
	}
	if ino.tree {
		return nil
	}
	if err := c.forget(ctx, ino); err != nil && !errors.Is(err, NoObject) {
		return message.Errorf(nil, "%s is deleted, but its room could not all be given back: %w", name, err)
	}
	return nil
}

// forget drops the references of a VDI that nobody can open any more to its objects: servers
// count them, and remove what none refers to.
func (c *Client) forget(ctx context.Context, ino *inode) error {
	table, err := c.table(ctx, ino, 0, ino.objects(ino.size))
	if err != nil {
		return err
	}
	for i := 0; i < len(table); {
		if table[i] == 0 {
			i++
			continue
		}
		from := i
		for i < len(table) && table[i] != 0 && i-from < forgetBatch {
			i++
		}
		if err := c.do(ctx, &request{op: opWrite, object: inodeObject(ino.vdi), offset: tableOffset(uint32(from)), copies: ino.copies, policy: ino.policy,
			out: make([]byte, 4*(i-from))}); err != nil {
			return err
		}
	}
	return nil
}

// forgetBatch is how many references are dropped with one request: the server does more
// work for each of them than for other writes.
const forgetBatch = 256
