package access

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// TypeRead is the type of the statement by which the service knows who asks. It
// is good for reading, at one service, for some minutes; it moves nothing.
const TypeRead Type = "read"

// MaxRead is how long a read statement can be good for.
const MaxRead = 15 * time.Minute

// Read is the payload of a read statement.
type Read struct {
	Header
	Audience string    `json:"audience"` // the service it is for, as Audience names it
	Until    time.Time `json:"until"`    // good up to, not including
}

// Audience names a service by the certificate of its CA, in DER: by what a
// client has made sure of before it sends anything. No other service can show
// that certificate, whatever address it is reached by.
func Audience(certificate []byte) string {
	sum := sha256.Sum256(certificate)
	return "sha256:" + hex.EncodeToString(sum[:])
}
