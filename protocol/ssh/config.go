package ssh

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kevinburke/ssh_config"

	"github.com/cowl-disk/cowl/block/driver"
)

// config is what ~/.ssh/config and the system's ssh_config say of a host.
type config struct {
	home  string
	files []*ssh_config.Config // the user's first: the first value of a key counts
	texts []string             // of files
}

// systemConfig is OpenSSH's file for all users.
const systemConfig = "/etc/ssh/ssh_config"

// loadConfig reads the files that there are.
func loadConfig(env *driver.Env) (*config, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "" // then there are no files of the user
	}
	c := &config{home: home}
	for _, name := range []string{c.path("~/.ssh/config"), systemConfig} {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || name == "" {
			continue
		}
		if err != nil {
			return nil, driver.Errorf(driver.ErrInvalid, "could not read the configuration of ssh: %w", err)
		}
		b, matches := withoutMatch(b)
		if matches && env != nil && env.Warn != nil {
			env.Warn("the Match sections of '" + name + "' are ignored")
		}
		f, err := ssh_config.DecodeBytes(b)
		if err != nil {
			return nil, driver.Errorf(driver.ErrInvalid, "could not read the configuration of ssh, '%s': %w", name, err)
		}
		c.files, c.texts = append(c.files, f), append(c.texts, string(b))
	}
	return c, nil
}

// withoutMatch leaves out Match sections, which the library does not know, and says
// whether there were any.
func withoutMatch(b []byte) ([]byte, bool) {
	var out bytes.Buffer
	skip, found := false, false
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, len(b)+1)
	for lines.Scan() {
		key, _, _ := strings.Cut(strings.Replace(strings.TrimSpace(lines.Text()), "=", " ", 1), " ")
		switch key, _, _ = strings.Cut(key, "\t"); strings.ToLower(key) {
		case "match":
			skip, found = true, true
		case "host":
			skip = false
		}
		if !skip {
			out.Write(lines.Bytes())
		}
		out.WriteByte('\n') // so that the library's line numbers are those of the file
	}
	return out.Bytes(), found
}

// get returns the value of a key for a host, "" for none.
func (c *config) get(host, key string) string {
	for _, f := range c.files {
		if v, err := f.Get(host, key); err == nil && v != "" {
			return v
		}
	}
	return ""
}

// list returns all values of a key that may be given several times.
func (c *config) list(host, key string) (all []string) {
	for _, f := range c.files {
		if v, err := f.GetAll(host, key); err == nil {
			all = append(all, v...)
		}
	}
	return all
}

// path expands ~ at the beginning of a file name; "" if there is no home.
func (c *config) path(name string) string {
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		if c.home == "" {
			return ""
		}
		return filepath.Join(c.home, filepath.FromSlash(rest))
	}
	return name
}

// target is a server with everything that the configuration says of it.
type target struct {
	alias, host, port, user string
}

// target resolves a name that the user gave. user and port win if they are not "".
func (c *config) target(alias, port, user string) *target {
	t := &target{alias: alias, host: alias, port: port, user: user}
	if v := c.get(alias, "HostName"); v != "" {
		t.host = strings.ReplaceAll(strings.ReplaceAll(v, "%h", alias), "%%", "%")
	}
	if t.port == "" {
		t.port = c.get(alias, "Port")
	}
	if t.port == "" {
		t.port = defaultPort
	}
	if t.user == "" {
		t.user = c.get(alias, "User")
	}
	if t.user == "" {
		t.user = localUser()
	}
	return t
}

// expand replaces the tokens of ssh_config in a value.
func (c *config) expand(v string, t *target) string {
	return strings.NewReplacer("%%", "%", "%d", c.home, "%h", t.host, "%n", t.alias, "%p", t.port, "%r", t.user, "%u", localUser()).Replace(v)
}
