package tlscreds

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// attributeNames are the names that GnuTLS gives to the types of attributes. Others
// are shown by number.
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "surName", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
	"2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.13": "description",
	"2.5.4.15": "businessCategory", "2.5.4.17": "postalCode", "2.5.4.20": "telephoneNumber", "2.5.4.41": "name",
	"2.5.4.42": "givenName", "2.5.4.43": "initials", "2.5.4.44": "generationQualifier", "2.5.4.46": "dnQualifier",
	"2.5.4.65": "pseudonym", "0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC",
	"1.2.840.113549.1.9.1":     "EMAIL",
	"1.3.6.1.4.1.311.60.2.1.1": "jurisdictionOfIncorporationLocalityName",
	"1.3.6.1.4.1.311.60.2.1.2": "jurisdictionOfIncorporationStateOrProvinceName",
	"1.3.6.1.4.1.311.60.2.1.3": "jurisdictionOfIncorporationCountryName",
}

// attribute is an AttributeTypeAndValue whose value is left as it is.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type attributeSET []attribute // a SET, by the end of its name

// DN returns the distinguished name of a certificate's subject as authorization
// rules of QEMU have it: escaped as in RFC 4514, but in the order of the certificate,
// the country first: "C=GB,O=Example,CN=host.example.org". It is "" if the name
// cannot be read.
func DN(c *x509.Certificate) string {
	var seq []attributeSET
	if rest, err := asn1.Unmarshal(c.RawSubject, &seq); err != nil || len(rest) > 0 {
		return ""
	}
	var b strings.Builder
	for i, set := range seq {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, a := range set {
			if j > 0 {
				b.WriteByte('+')
			}
			name, known := attributeNames[a.Type.String()]
			if !known {
				name = a.Type.String()
			}
			b.WriteString(name + "=")
			if s, ok := text(a.Value); known && ok {
				b.WriteString(escape(s))
			} else {
				b.WriteString("#" + hex.EncodeToString(a.Value.FullBytes))
			}
		}
	}
	return b.String()
}

// text returns the characters of a string.
func text(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagNumericString:
		return string(v.Bytes), utf8.Valid(v.Bytes)
	case asn1.TagT61String:
		for _, c := range v.Bytes {
			if c >= utf8.RuneSelf {
				return "#" + hex.EncodeToString(v.Bytes), true
			}
		}
		return string(v.Bytes), true
	case asn1.TagBMPString:
		if len(v.Bytes)%2 != 0 {
			return "", false
		}
		units := make([]uint16, len(v.Bytes)/2)
		for i := range units {
			units[i] = binary.BigEndian.Uint16(v.Bytes[2*i:])
		}
		return string(utf16.Decode(units)), true
	}
	return "", false
}

// escape escapes a value as section 2.4 of RFC 4514 has it.
func escape(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case strings.ContainsRune(`,+"\<>;`, r), i == 0 && (r == ' ' || r == '#'), i == len(s)-1 && r == ' ':
			b.WriteByte('\\')
		case r == 0:
			b.WriteString(`\00`)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
