package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/inet"
	"github.com/cowl-disk/cowl/iscsi"
)

// iscsiLister lists what a portal has.
type iscsiLister struct {
	*call
	cfg         iscsi.Config
	luns, asURL bool
}

func iscsiLsCommand(c *call) *program.Command {
	l := &iscsiLister{call: c}
	return &program.Command{
		Name: "iscsi-ls", Summary: "List the targets of an iSCSI portal",
		Usage: []string{"[-s] [-i NAME] [--url] URL"},
		About: "Each target is printed with its portals, as iscsi-ls of libiscsi prints them. The user\nand password for CHAP may be in LIBISCSI_CHAP_USERNAME and LIBISCSI_CHAP_PASSWORD,\nwhere nobody else sees them.",
		Options: []program.Option{c.helpOption(),
			program.Flag(&l.luns, "-s, --show-luns", "log in to each target and list its units"),
			program.Text(&l.cfg.Initiator, "-i, --initiator-name NAME", "the name of the initiator"),
			program.Flag(&l.asURL, "--url", "print the names by which the first unit of each target is opened"),
		},
		Operands: []program.Operand{{Name: "URL", Help: "iscsi://[USER[%PASSWORD]@]HOST[:PORT]"}},
		Examples: []string{"-s iscsi://storage"},
		Run:      func(context.Context, []string) int { return l.run() },
	}
}

func (l *iscsiLister) run() int {
	if len(l.operands) != 1 {
		return l.usage("Expecting the URL of one portal")
	}
	var err error
	if l.cfg.Address, l.cfg.CHAP, err = iscsi.ParsePortal(l.operands[0]); err != nil {
		return l.fail(err)
	}
	if user := os.Getenv("LIBISCSI_CHAP_USERNAME"); l.cfg.CHAP == nil && user != "" {
		l.cfg.CHAP = &iscsi.Credentials{User: user, Secret: os.Getenv("LIBISCSI_CHAP_PASSWORD")}
	}
	l.cfg.HeaderDigest, l.cfg.Dial = iscsi.DigestAllow, dialShort
	targets, err := iscsi.Discover(l.ctx, l.cfg)
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
	cfg := l.cfg
	cfg.Target, cfg.Address = target, address
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

// dialShort connects, with errors that say no more than the reason.
func dialShort(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := inet.Dial(ctx, network, address)
	var no syscall.Errno
	if errors.As(err, &no) {
		return nil, no
	}
	if reason := inet.Reason(err); reason != nil {
		return nil, reason
	}
	return nc, err
}
