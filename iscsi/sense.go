package iscsi

import (
	"encoding/binary"
	"fmt"

	"github.com/cowl-disk/cowl/internal/message"
)

// Sense keys (SPC-4, 4.5.6).
const (
	SenseNotReady       = 0x02
	SenseMediumError    = 0x03
	SenseHardwareError  = 0x04
	SenseIllegalRequest = 0x05
	SenseUnitAttention  = 0x06
	SenseDataProtect    = 0x07
	SenseAborted        = 0x0b
)

// Additional sense codes with their qualifiers (SPC-4, annex E).
const (
	asNotReadyBecoming   = 0x0401
	asInvalidOpcode      = 0x2000
	asOutOfRange         = 0x2100
	asInvalidField       = 0x2400
	asNoUnit             = 0x2500
	asInvalidParameter   = 0x2600
	asWriteProtected     = 0x2700
	asSpaceAllocation    = 0x2707
	asReset              = 0x29 // without the qualifier
	asCommandsCleared    = 0x2f00
	asMediumNotPresent   = 0x3a00
	asThinThreshold      = 0x3807
	asInternalTargetFail = 0x4400
)

// SenseError is the sense data of a command that failed (SPC-4, 4.5).
type SenseError struct {
	Key  byte
	Code uint16 // additional sense code and qualifier
}

var senseKeys = [16]string{"NO_SENSE", "RECOVERED_ERROR", "NOT_READY", "MEDIUM_ERROR", "HARDWARE_ERROR", "ILLEGAL_REQUEST", "UNIT_ATTENTION",
	"DATA_PROTECT", "BLANK_CHECK", "VENDOR_SPECIFIC", "COPY_ABORTED", "ABORTED_COMMAND", "OBSOLETE", "VOLUME_OVERFLOW", "MISCOMPARE", "COMPLETED"}

var senseCodes = map[uint16]string{
	asNotReadyBecoming:   "BECOMING_READY",
	asInvalidOpcode:      "INVALID_OPERATION_CODE",
	asOutOfRange:         "LBA_OUT_OF_RANGE",
	asInvalidField:       "INVALID_FIELD_IN_CDB",
	asNoUnit:             "LOGICAL_UNIT_NOT_SUPPORTED",
	asInvalidParameter:   "INVALID_FIELD_IN_PARAMETER_LIST",
	asWriteProtected:     "WRITE_PROTECTED",
	asSpaceAllocation:    "SPACE_ALLOCATION_FAILED_WRITE_PROTECT",
	0x2900:               "POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED",
	asCommandsCleared:    "COMMANDS_CLEARED_BY_ANOTHER_INITIATOR",
	asMediumNotPresent:   "MEDIUM_NOT_PRESENT",
	asThinThreshold:      "THIN_PROVISIONING_SOFT_THRESHOLD_REACHED",
	asInternalTargetFail: "INTERNAL_TARGET_FAILURE",
	0x2a09:               "CAPACITY_DATA_HAS_CHANGED",
	0x3f0e:               "REPORTED_LUNS_DATA_HAS_CHANGED",
	0x1100:               "UNRECOVERED_READ_ERROR",
	0x0c00:               "WRITE_ERROR",
}

func (e *SenseError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *SenseError) Template() (string, []any) {
	code := senseCodes[e.Code]
	if code == "" {
		code = fmt.Sprintf("code %02x/%02x", e.Code>>8, e.Code&0xff)
	}
	return "sense key %s(%d), %s(0x%04x)", []any{senseKeys[e.Key&15], e.Key, code, e.Code}
}

// Unsupported says whether the target has no such command, or not in this form.
func (e *SenseError) Unsupported() bool {
	return e.Key == SenseIllegalRequest && (e.Code == asInvalidOpcode || e.Code == asInvalidField || e.Code == asInvalidParameter)
}

// NoSpace says whether the room behind a thin logical unit is used up.
func (e *SenseError) NoSpace() bool { return e.Key == SenseDataProtect && e.Code == asSpaceAllocation }

// NoUnit says whether there is no logical unit of this number.
func (e *SenseError) NoUnit() bool { return e.Key == SenseIllegalRequest && e.Code == asNoUnit }

// NoMedium says whether the drive is empty.
func (e *SenseError) NoMedium() bool {
	return e.Key == SenseNotReady && e.Code>>8 == asMediumNotPresent>>8
}

// reset says whether the commands of this initiator may be gone without an answer.
func (e *SenseError) reset() bool {
	return e.Key == SenseUnitAttention && (e.Code>>8 == asReset || e.Code == asCommandsCleared)
}

// parseSense reads sense data of either form (SPC-4, 4.5.2 and 4.5.3).
func parseSense(b []byte) *SenseError {
	e := &SenseError{}
	if len(b) == 0 {
		return e
	}
	switch b[0] & 0x7f {
	case 0x70, 0x71:
		if len(b) > 2 {
			e.Key = b[2] & 15
		}
		if len(b) > 13 {
			e.Code = binary.BigEndian.Uint16(b[12:])
		}
	case 0x72, 0x73:
		if len(b) > 3 {
			e.Key, e.Code = b[1]&15, binary.BigEndian.Uint16(b[2:])
		}
	}
	return e
}
