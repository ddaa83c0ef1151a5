package driver

import "strings"

// HidePassword returns a file name for people: a URL's password is "***", whether it
// stands in "user:password@host" or, as iSCSI has it, in "user%password@host".
func HidePassword(name string) string {
	scheme, rest, ok := strings.Cut(name, "://")
	if !ok {
		return name
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@')
	if at < 0 {
		return name
	}
	user := strings.IndexByte(rest[:at], ':')
	if strings.HasPrefix(name, "iscsi://") || strings.HasPrefix(name, "iser://") {
		user = strings.IndexByte(rest[:at], '%')
	}
	if user < 0 {
		return name
	}
	return scheme + "://" + rest[:user+1] + "***" + rest[at:]
}
