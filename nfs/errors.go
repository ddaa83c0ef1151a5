package nfs

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/cowl-disk/cowl/internal/message"
)

// Status is what a server answers to a call that fails: nfsstat3 (RFC 1813, section 2.6),
// nfsstat4 (RFC 8881, section 15.1; RFC 7862, section 11).
type Status uint32

// Statuses that this package treats in a way of their own.
const (
	ok                 Status = 0
	errPerm            Status = 1
	errNoEnt           Status = 2
	errIO              Status = 5
	errAcces           Status = 13
	errExist           Status = 17
	errIsDir           Status = 21
	errNoSpc           Status = 28
	errROFS            Status = 30
	errStale           Status = 70
	errNotSupp         Status = 10004
	errJukebox         Status = 10008 // NFS4ERR_DELAY in version 4
	errExpired         Status = 10011
	errGrace           Status = 10013
	errMinorVersion    Status = 10021
	errStaleClientID   Status = 10022
	errStaleStateID    Status = 10023
	errOldStateID      Status = 10024
	errBadStateID      Status = 10025
	errAdminRevoked    Status = 10047
	errBadSession      Status = 10052
	errBadSlot         Status = 10053
	errCompleteAlready Status = 10054
	errNotBound        Status = 10055
	errSeqMisordered   Status = 10063
	errUncachedReply   Status = 10068
	errDeadSession     Status = 10078
	errUnionNotSupp    Status = 10090
)

var statusNames = map[Status]string{
	errPerm: "PERM", errNoEnt: "NOENT", errIO: "IO", 6: "NXIO", errAcces: "ACCES", errExist: "EXIST", 18: "XDEV", 19: "NODEV", 20: "NOTDIR",
	errIsDir: "ISDIR", 22: "INVAL", 27: "FBIG", errNoSpc: "NOSPC", errROFS: "ROFS", 31: "MLINK", 63: "NAMETOOLONG", 66: "NOTEMPTY", 69: "DQUOT",
	errStale: "STALE", 71: "REMOTE", 10001: "BADHANDLE", 10002: "NOT_SYNC", 10003: "BAD_COOKIE", errNotSupp: "NOTSUPP", 10005: "TOOSMALL",
	10006: "SERVERFAULT", 10007: "BADTYPE", errJukebox: "JUKEBOX",
}

// statusNames4 are those of version 4 that version 3 has not, or names otherwise.
var statusNames4 = map[Status]string{
	errJukebox: "DELAY", 10009: "SAME", 10010: "DENIED", errExpired: "EXPIRED", 10012: "LOCKED", errGrace: "GRACE", 10014: "FHEXPIRED", 10015: "SHARE_DENIED",
	10016: "WRONGSEC", 10017: "CLID_INUSE", 10018: "RESOURCE", 10020: "NOFILEHANDLE", errMinorVersion: "MINOR_VERS_MISMATCH", errStaleClientID: "STALE_CLIENTID",
	errStaleStateID: "STALE_STATEID", errOldStateID: "OLD_STATEID", errBadStateID: "BAD_STATEID", 10026: "BAD_SEQID", 10029: "SYMLINK", 10032: "ATTRNOTSUPP",
	10033: "NO_GRACE", 10034: "RECLAIM_BAD", 10036: "BADXDR", 10038: "OPENMODE", 10040: "BADCHAR", 10041: "BADNAME", 10044: "OP_ILLEGAL", 10046: "FILE_OPEN",
	errAdminRevoked: "ADMIN_REVOKED", errBadSession: "BADSESSION", errBadSlot: "BADSLOT", errCompleteAlready: "COMPLETE_ALREADY", errNotBound: "CONN_NOT_BOUND_TO_SESSION",
	errSeqMisordered: "SEQ_MISORDERED", 10065: "REQ_TOO_BIG", 10066: "REP_TOO_BIG", errUncachedReply: "RETRY_UNCACHED_REP", errDeadSession: "DEADSESSION",
	10083: "WRONG_TYPE", errUnionNotSupp: "UNION_NOTSUPP",
}

// StatusError is an answer other than success.
type StatusError struct {
	Version int // of the protocol: 3 or 4
	Status  Status
}

// Name is the name of the status in its specification: "NFS3ERR_STALE".
func (e *StatusError) Name() string {
	name := statusNames[e.Status]
	if e.Version == 4 {
		if n, ok := statusNames4[e.Status]; ok {
			name = n
		}
	}
	if name == "" {
		name = fmt.Sprint(uint32(e.Status))
	}
	return fmt.Sprintf("NFS%dERR_%s", e.Version, name)
}

func (e *StatusError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *StatusError) Template() (string, []any) {
	if e.Status == errStale {
		return "%s: the file was removed on the server, or its file system is gone", []any{e.Name()}
	}
	return "%s", []any{e.Name()}
}

// Unwrap returns the error of the system that means the same, nil if there is none.
func (e *StatusError) Unwrap() error {
	switch e.Status {
	case errPerm:
		return syscall.EPERM
	case errNoEnt:
		return fs.ErrNotExist
	case errAcces:
		return syscall.EACCES
	case errExist:
		return fs.ErrExist
	case errIsDir:
		return syscall.EISDIR
	case 27:
		return syscall.EFBIG
	case errNoSpc, 69: // a quota, too
		return syscall.ENOSPC
	case errROFS:
		return syscall.EROFS
	case errNotSupp, errUnionNotSupp:
		return syscall.EOPNOTSUPP
	}
	return syscall.EIO
}

// lookupError adds the name that was looked up.
func lookupError(name string, err error) error {
	var s *StatusError
	if errors.As(err, &s) {
		return message.Errorf(err, "looking '%s' up: %s (%d)", name, s.Name(), -int64(s.Status))
	}
	return message.Errorf(nil, "looking '%s' up: %w", name, err)
}

// MountError is the mount service's refusal (RFC 1813, section 5.1.5).
type MountError struct{ Status uint32 }

var mountNames = map[uint32]string{1: "MNT3ERR_PERM", 2: "MNT3ERR_NOENT", 5: "MNT3ERR_IO", 13: "MNT3ERR_ACCES", 20: "MNT3ERR_NOTDIR", 22: "MNT3ERR_INVAL",
	63: "MNT3ERR_NAMETOOLONG", 10004: "MNT3ERR_NOTSUPP", 10006: "MNT3ERR_SERVERFAULT"}

// Name is the name of the status.
func (e *MountError) Name() string {
	if n, ok := mountNames[e.Status]; ok {
		return n
	}
	return fmt.Sprint("MNT3ERR_", e.Status)
}

func (e *MountError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *MountError) Template() (string, []any) {
	return "the directory cannot be mounted: %s (%d): %v (%d)", []any{e.Name(), e.Status, e.Unwrap(), e.Status}
}

// Unwrap returns the error of the system that means the same.
func (e *MountError) Unwrap() error { return (&StatusError{3, Status(e.Status)}).Unwrap() }

// UnavailableError says that a server does not have a program in a version.
type UnavailableError struct{ What string }

func (e *UnavailableError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *UnavailableError) Template() (string, []any) {
	return "the server has no %s over TCP", []any{e.What}
}

// check makes an error of a status.
func check(version int, s Status) error {
	if s == ok {
		return nil
	}
	return &StatusError{version, s}
}
