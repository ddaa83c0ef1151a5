package http

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions are the options of the drivers.
type openOptions struct {
	URL                 string `opt:"url" help:"URL of the disk"`
	Readahead           int64  `opt:"readahead" type:"size" default:"262144" help:"Size of the pieces that small reads fetch, a multiple of 512"`
	Timeout             int64  `opt:"timeout" default:"5" help:"Seconds without any progress after which a request is given up"`
	SSLVerify           bool   `opt:"sslverify" default:"on" help:"Verify the server's certificate"`
	CACert              string `opt:"cacert" help:"File of certificates (PEM) to trust in place of the system's"`
	Cookie              string `opt:"cookie" help:"Cookie to send with each request"`
	CookieSecret        string `opt:"cookie-secret" help:"ID of the secret that holds the cookie"`
	Username            string `opt:"username" help:"User name for the server"`
	PasswordSecret      string `opt:"password-secret" help:"ID of the secret that holds the password of the user"`
	ProxyUsername       string `opt:"proxy-username" help:"User name for the proxy"`
	ProxyPasswordSecret string `opt:"proxy-password-secret" help:"ID of the secret that holds the password for the proxy"`
	Header              string `opt:"header" help:"Further header field to send, as 'Name: value'; several are separated by line feeds"`
	HeaderSecret        string `opt:"header-secret" help:"ID of the secret that holds further header fields"`
}

var openSchema = opts.SchemaOf(openOptions{})

const (
	maxTimeout   = 10000   // seconds, as in QEMU
	minWindow    = 4 << 10 // of the cache, in bytes
	maxWindow    = 4 << 20
	connections  = 8 // at a time
	maxRedirects = 50
)

// check refuses values that make no sense, and returns the URL.
func (o *openOptions) check(scheme string) (*url.URL, error) {
	invalid := func(format string, args ...any) (*url.URL, error) {
		return nil, driver.Errorf(driver.ErrInvalid, format, args...)
	}
	switch {
	case o.URL == "":
		return invalid("curl block driver requires an 'url' option")
	case !strings.HasPrefix(o.URL, scheme+"://"):
		return invalid("%s curl driver cannot handle the URL '%s' (does not start with '%s://')", scheme, driver.HidePassword(o.URL), scheme)
	case o.Readahead%512 != 0:
		return invalid("HTTP_READAHEAD_SIZE %d is not a multiple of 512", o.Readahead)
	case o.Timeout < 0 || o.Timeout > maxTimeout:
		return invalid("timeout parameter is too large or negative")
	case o.Cookie != "" && o.CookieSecret != "":
		return invalid("curl driver cannot handle both cookie and cookie secret")
	case o.Header != "" && o.HeaderSecret != "":
		return invalid("header and header-secret may not be used at the same time")
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" {
		return invalid("'%s' is not a valid URL", driver.HidePassword(o.URL))
	}
	return u, nil
}

// name is the file name of the disk: the URL, or all options where the URL alone would
// not open it again.
func (o *openOptions) name(scheme string) string {
	d := opts.Dict{}
	for k, v := range map[string]string{"cookie": o.Cookie, "cookie-secret": o.CookieSecret, "username": o.Username,
		"password-secret": o.PasswordSecret, "proxy-username": o.ProxyUsername, "proxy-password-secret": o.ProxyPasswordSecret,
		"cacert": o.CACert, "header": o.Header, "header-secret": o.HeaderSecret} {
		if v != "" {
			d[k] = v
		}
	}
	if !o.SSLVerify {
		d["sslverify"] = "off"
	}
	if len(d) == 0 {
		return driver.HidePassword(o.URL)
	}
	d["driver"], d["url"] = scheme, driver.HidePassword(o.URL)
	b, err := json.Marshal(d)
	if err != nil {
		return driver.HidePassword(o.URL)
	}
	return "json:" + string(b)
}

// tls returns how connections over TLS are made.
func (o *openOptions) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !o.SSLVerify}
	if o.CACert != "" {
		pem, err := os.ReadFile(o.CACert)
		if err != nil {
			return nil, driver.Errorf(driver.ErrInvalid, "could not read the certificates to trust: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, driver.Errorf(driver.ErrInvalid, "there are no certificates in '%s'", o.CACert)
		}
	}
	return config, nil
}

// transport returns what makes the connections.
func (o *openOptions) transport(objects driver.Objects) (*http.Transport, error) {
	config, err := o.tls()
	if err != nil {
		return nil, err
	}
	login, err := userinfo(o.ProxyUsername, o.ProxyPasswordSecret, objects)
	if err != nil {
		return nil, err
	}
	proxy := proxies()
	return &http.Transport{
		// Several connections carry more than one with HTTP/2, which a configuration
		// of our own leaves out.
		TLSClientConfig: config,
		Proxy: func(r *http.Request) (*url.URL, error) {
			u, err := proxy(r.URL)
			if u != nil && login != nil {
				own := *u
				own.User = login
				u = &own
			}
			return u, err
		},
		DialContext:         connect,
		MaxConnsPerHost:     connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
		ReadBufferSize:      64 << 10,
	}, nil
}

// proxies returns what finds the proxy for a URL: by http_proxy, https_proxy, all_proxy
// and no_proxy, in small letters or capitals.
func proxies() func(*url.URL) (*url.URL, error) {
	c := httpproxy.FromEnvironment()
	all := os.Getenv("all_proxy")
	if all == "" {
		all = os.Getenv("ALL_PROXY")
	}
	if c.HTTPProxy == "" {
		c.HTTPProxy = all
	}
	if c.HTTPSProxy == "" {
		c.HTTPSProxy = all
	}
	return c.ProxyFunc()
}

// userinfo returns a name and the password that a secret holds, nil for none.
func userinfo(name, secret string, objects driver.Objects) (*url.Userinfo, error) {
	if name == "" && secret == "" {
		return nil, nil
	}
	if secret == "" {
		return url.User(name), nil
	}
	password, err := driver.FindObject[driver.Secret](objects, secret)
	if err != nil {
		return nil, err
	}
	return url.UserPassword(name, string(password)), nil
}

// fields returns the header fields that each request to the host of the URL has.
func (o *openOptions) fields(objects driver.Objects) (http.Header, error) {
	h := http.Header{}
	text := map[string]string{"cookie": o.Cookie, "header": o.Header}
	for name, id := range map[string]string{"cookie": o.CookieSecret, "header": o.HeaderSecret} {
		if id == "" {
			continue
		}
		secret, err := driver.FindObject[driver.Secret](objects, id)
		if err != nil {
			return nil, err
		}
		text[name] = string(secret)
	}
	if text["cookie"] != "" {
		h.Set("Cookie", text["cookie"])
	}
	for line := range strings.Lines(text["header"]) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, driver.Errorf(driver.ErrInvalid, "a header field is 'Name: value'")
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h, nil
}

// sameHost says whether two URLs are of one server, which may see the same secrets.
func sameHost(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		if p := u.Port(); p != "" {
			return p
		}
		return u.Scheme
	}
	// From https to http secrets would be readable on the way.
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) &&
		net.JoinHostPort("", port(a)) == net.JoinHostPort("", port(b))
}
