package qemuimg

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/iscsi"
	driveriscsi "github.com/cowl-disk/cowl/protocol/iscsi"
)

// iscsiLister lists what a portal has.
type iscsiLister struct {
	*call
	initiator   string
	luns, asURL bool
	chap        *iscsi.Credentials
}

func iscsiLsCommand(c *call) *program.Command {
	l := &iscsiLister{call: c}
	return &program.Command{
		Name: "iscsi-ls", Summary: "List the targets of an iSCSI portal",
		Usage: []string{"[-s] [-i NAME] [--url] [--object OBJDEF] URL"},
		About: "Each target is printed with its portals, as iscsi-ls of libiscsi prints them. The user\nand password for CHAP may be in LIBISCSI_CHAP_USERNAME and LIBISCSI_CHAP_PASSWORD,\nwhere nobody else sees them, or in the settings of --iscsi.",
		Options: []program.Option{c.helpOption(),
			program.Flag(&l.luns, "-s, --show-luns", "log in to each target and list its units"),
			program.Text(&l.initiator, "-i, --initiator-name NAME", "the name of the initiator"),
			program.Flag(&l.asURL, "--url", "print the names by which the first unit of each target is opened"),
			c.objectOption(),
		},
		Operands: []program.Operand{{Name: "URL", Help: "iscsi://[USER[%PASSWORD]@]HOST[:PORT]"}},
		Examples: []string{"-s iscsi://storage"},
		Run:      func(context.Context, []string) int { return l.run() },
	}
}

// config is that of a session with a target; "": one that asks for their names.
func (l *iscsiLister) config(address, target string) (iscsi.Config, error) {
	cfg, err := driveriscsi.Portal(&driver.Env{Objects: &l.objects}, address, target, l.chap)
	cfg.Initiator = cmp.Or(l.initiator, cfg.Initiator)
	return cfg, err
}

func (l *iscsiLister) run() int {
	if len(l.operands) != 1 {
		return l.usage("Expecting the URL of one portal")
	}
	address, chap, err := iscsi.ParsePortal(l.operands[0])
	if err != nil {
		return l.fail(err)
	}
	l.chap = chap
	cfg, err := l.config(address, "")
	if err != nil {
		return l.fail(err)
	}
	targets, err := iscsi.Discover(l.ctx, cfg)
	if err != nil {
		return l.fail(err)
	}
	code := 0
	for _, t := range slices.Backward(targets) { // the order of iscsi-ls
		for _, portal := range slices.Backward(t.Portals) {
			address, _, _ := strings.Cut(portal, ",") // what follows is the number of its group
			if l.asURL {
				_, err = fmt.Fprintf(l.Stdout, "iscsi://%s/%s/0\n", address, t.Name)
			} else {
				_, err = fmt.Fprintf(l.Stdout, "Target:%s Portal:%s\n", t.Name, portal)
			}
			if err != nil {
				return l.print(err)
			}
			if !l.luns || l.asURL {
				continue
			}
			if err := l.list(t.Name, address); err != nil {
				if code = l.fail(fmt.Errorf("target %s at %s: %w", t.Name, address, err)); l.ctx.Err() != nil {
					return code
				}
			}
		}
	}
	return code
}

// list prints the units of a target.
func (l *iscsiLister) list(target, address string) error {
	cfg, err := l.config(address, target)
	if err != nil {
		return err
	}
	s, err := iscsi.Open(l.ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close(l.ctx)
	luns, err := iscsi.LUN{Doer: s}.ReportLUNs(l.ctx)
	if err != nil {
		return err
	}
	for _, wire := range luns {
		number, ok := iscsi.DecodeLUN(wire)
		if !ok {
			l.errorf("target %s has a unit whose address (%#x) is of no form that is known", target, wire)
			continue
		}
		text, err := l.unit(iscsi.LUN{Doer: s, Number: number})
		if err != nil {
			return fmt.Errorf("unit %d: %w", number, err)
		}
		if _, err := fmt.Fprintf(l.Stdout, "Lun:%-4d Type:%s\n", number, text); err != nil {
			return err
		}
	}
	return nil
}

// unit says what a unit is.
func (l *iscsiLister) unit(u iscsi.LUN) (string, error) {
	_ = u.TestUnitReady(l.ctx) // what it would tell the first command, it has told then
	what, err := u.Inquiry(l.ctx)
	if err != nil {
		return "", err
	}
	name := iscsi.TypeName(what.Type)
	if what.Type != iscsi.TypeDisk {
		return name, nil
	}
	size, err := u.Capacity(l.ctx)
	if err != nil {
		return "", err
	}
	if size.Blocks == 0 {
		return name + " (Size:0 )", nil
	}
	return fmt.Sprintf("%s (Size:%s)", name, cutSize((size.Blocks-1)*uint64(size.BlockSize))), nil
}

// cutSize is a size as iscsi-ls shows it: cut, and of the offset of the last block.
func cutSize(n uint64) string {
	const prefixes = " kMGTPE"
	i := 0
	for ; n > 1024 && i < len(prefixes)-1; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%d%c", n, prefixes[i])
}
