package iscsi

import (
	"cmp"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/iscsi"
	"github.com/cowl-disk/cowl/opts"
)

// noTarget stands for a target in the settings of a session that only asks for names.
const noTarget = "discovery"

// Portal is the configuration of a session with a target, or of iscsi.Discover if target is "", at a
// portal as it would be for a URL: user names and passwords also come from the environment and,
// like the rest, from the settings of --iscsi.
func Portal(env *driver.Env, address, target string, chap *iscsi.Credentials) (iscsi.Config, error) {
	d := opts.Dict{"transport": "tcp", "from-url": true, "portal": address, "target": cmp.Or(target, noTarget)}
	if chap != nil {
		d["user"] = chap.User
		if chap.Secret != "" {
			d["password"] = chap.Secret
		}
	}
	o, err := decode(d, env)
	if err != nil {
		return iscsi.Config{}, err
	}
	cfg, err := o.config(&driver.Env{Objects: env.Objects}) // the password is where libiscsi has it: no warning
	cfg.Target, cfg.Dial = target, dial
	return cfg, err
}
