package blkdebug

import (
	"context"
	"math"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/opts"
)

type options struct {
	Config       string `opt:"config" help:"Path to the configuration file"`
	Align        int64  `opt:"align" type:"size" help:"Required alignment in bytes"`
	MaxTransfer  int64  `opt:"max-transfer" type:"size" help:"Maximum transfer size in bytes"`
	OptWriteZero int64  `opt:"opt-write-zero" type:"size" help:"Optimum write zero alignment in bytes"`
	MaxWriteZero int64  `opt:"max-write-zero" type:"size" help:"Maximum write zero size in bytes"`
	OptDiscard   int64  `opt:"opt-discard" type:"size" help:"Optimum discard alignment in bytes"`
	MaxDiscard   int64  `opt:"max-discard" type:"size" help:"Maximum discard size in bytes"`
}

const prefix = "blkdebug:"

var desc = driver.Desc{
	Name:    "blkdebug",
	Kind:    driver.KindFilter,
	Schemes: []string{"blkdebug"},
	Children: []driver.ChildDesc{
		{Role: "image", Use: driver.UseFiltered, NameOption: "x-image"},
	},
	Summary:     "Injects errors, for tests",
	OpenOptions: opts.SchemaOf(options{}),
}

type blkdebug struct{}

// New returns the driver "blkdebug".
func New() driver.Driver { return blkdebug{} }

var _ driver.FilenameParser = blkdebug{}

// Desc implements driver.Driver.
func (blkdebug) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser: blkdebug:CONFIG:IMAGE, or, where the
// options say the rest, IMAGE.
func (blkdebug) ParseFilename(name string) (opts.Dict, error) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return opts.Dict{"x-image": name}, nil
	}
	config, image, ok := strings.Cut(rest, ":")
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "blkdebug requires both config file and image path")
	}
	d := opts.Dict{"x-image": image}
	if config != "" {
		d["config"] = config
	}
	return d, nil
}

// Open implements driver.Driver.
func (blkdebug) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	d := req.Options.Clone()
	rules, err := takeRules(d)
	if err != nil {
		return nil, err
	}
	named := len(d) == 0 || len(d) == 1 && d.String("config") != ""
	for k := range d {
		if strings.HasPrefix(k, "take-child-perms") || strings.HasPrefix(k, "unshare-child-perms") {
			return nil, driver.Errorf(driver.ErrUnsupported, "blkdebug: '%s' is not supported", k)
		}
	}
	var o options
	if err := desc.OpenOptions.Decode(d, &o); err != nil {
		return nil, err
	}
	if o.Config != "" {
		more, err := readConfig(o.Config)
		if err != nil {
			return nil, err
		}
		rules = append(more, rules...)
	}
	n := &node{Node: pass.Node{Child: req.Child("image")}, rules: rules, state: 1}
	if n.limits, err = o.limits(n.Node.Limits()); err != nil {
		return nil, err
	}
	if f, ok := n.Child.(driver.Named); ok && named && (len(rules) == 0 || o.Config != "") && f.Filename() != "" {
		n.name = prefix + o.Config + ":" + f.Filename()
	}
	n.RaiseEvent("none")
	return n, nil
}

// limits adds those that the options give to the child's.
func (o *options) limits(l driver.Limits) (driver.Limits, error) {
	align := max(o.Align, 1)
	for _, c := range []struct {
		name  string
		value int64
		unit  int64
	}{
		{"align", o.Align, 0},
		{"max-transfer", o.MaxTransfer, align},
		{"opt-write-zero", o.OptWriteZero, align},
		{"max-write-zero", o.MaxWriteZero, max(o.OptWriteZero, align)},
		{"opt-discard", o.OptDiscard, align},
		{"max-discard", o.MaxDiscard, max(o.OptDiscard, align)},
	} {
		bad := c.value >= math.MaxInt32 || c.unit > 0 && c.value%c.unit != 0 || c.unit == 0 && c.value&(c.value-1) != 0
		if bad {
			return l, driver.Errorf(driver.ErrInvalid, "cannot meet constraints with %s %d", c.name, c.value)
		}
	}
	l.RequestAlignment = max(l.RequestAlignment, o.Align)
	if o.MaxTransfer > 0 {
		l.MaxTransfer = o.MaxTransfer
	}
	if o.OptWriteZero > 0 {
		l.ZeroAlignment = o.OptWriteZero
	}
	if o.OptDiscard > 0 {
		l.DiscardAlignment = o.OptDiscard
	}
	l.MaxZero, l.MaxDiscard = o.MaxWriteZero, o.MaxDiscard
	return l, nil
}
