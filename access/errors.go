package access

import (
	"errors"
	"fmt"
)

// Code classifies an Error, for programs. Codes are stable; messages are not.
type Code string

// The codes.
const (
	CodeMalformed   Code = "malformed"   // can't be read, or breaks a bound
	CodeUnverified  Code = "unverified"  // signature missing, wrong, or by a key nobody has
	CodeStale       Code = "stale"       // too old, or from the future
	CodeMismatch    Code = "mismatch"    // about another request, or a changed one
	CodeDuplicate   Code = "duplicate"   // has been said before
	CodeForbidden   Code = "forbidden"   // the signer may not say this
	CodeDenied      Code = "denied"      // policy, an approver or the issuer said no
	CodeLimited     Code = "limited"     // too many or too soon, by policy's limits; the message says when there is room again
	CodeDeaf        Code = "deaf"        // the request hears no more; what ends it goes to the workflow Stop
	CodeNotFound    Code = "not-found"   // no such request, resource, user
	CodeEnded       Code = "ended"       // too late: the request is past that point
	CodeUnavailable Code = "unavailable" // a part is down; try again
)

// ExitCode is what every program of ours ends with for an error of this code; what
// it means stands in docs/cli.md. An error without a code is 1.
func (c Code) ExitCode() int {
	switch c {
	case CodeMalformed:
		return 2
	case CodeDenied, CodeLimited:
		return 3
	case CodeUnavailable:
		return 5
	case CodeUnverified, CodeStale, CodeMismatch, CodeDuplicate, CodeForbidden, CodeEnded, CodeDeaf:
		return 6
	case CodeNotFound:
		return 7
	}
	return 1
}

// Error is a refusal with its reason. Only CodeUnavailable is worth a retry.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`        // lower case, one line, nothing secret
	Hint    string `json:"hint,omitempty"` // what to do next
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error. It formats as fmt.Sprintf does; it does not wrap.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy that says what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// HintOf is what to do next by the first Error in err's chain, or "" if there is none,
// or it doesn't say.
func HintOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// CodeOf is the code of the first Error in err's chain, or "" if there is
// none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
