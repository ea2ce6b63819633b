package statement

import (
	"regexp"

	"hallpass/access"
)

var audienceForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// OpenRead verifies and parses a read statement and finds its signer.
func OpenRead(st access.Statement, keys Keys) (access.Read, access.User, error) {
	return open(st, access.TypeRead, keys, ParseRead)
}

// ParseRead reads the payload of a read statement strictly, without a
// signature.
func ParseRead(payload []byte) (access.Read, error) {
	f := read(payload)
	r := access.Read{
		Header:   f.header(access.TypeRead),
		Audience: f.text("audience", required, form(audienceForm, "audience", "sha256: and a SHA-256 in lower-case hex")),
		Until:    f.time("until", required),
	}
	if f.err == nil && !r.Until.After(r.Time) {
		f.fail("until is not after the statement itself")
	}
	if f.err == nil && r.Until.Sub(r.Time) > access.MaxRead {
		f.fail("until is more than %s after the statement itself", access.ShortDuration(access.MaxRead))
	}
	if err := f.end(); err != nil {
		return access.Read{}, err
	}
	return r, nil
}
