package cli

import (
	"errors"
	"fmt"

	"hallpass/access"
)

// The exit codes. They are part of the interface.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2   // the command line or what it names is malformed
	ExitDenied      = 3   // by policy, an approver or the issuer
	ExitTimedOut    = 4   // nobody decided in time
	ExitUnreachable = 5   // the service isn't there
	ExitRefused     = 6   // a statement was not accepted
	ExitNotFound    = 7   // no such thing, or more than one
	ExitGaveUp      = 8   // not granted within --timeout
	ExitTampered    = 9   // what was issued went through other hands; it was given back
	ExitNoExec      = 126 // the command that run was given is there, and can't be run
	ExitNoCommand   = 127 // it isn't there
	ExitInterrupted = 130 // as a shell reports SIGINT
)

// failure is an error with an exit code and the next thing to type.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func (f *failure) withHint(format string, args ...any) *failure {
	f.hint = fmt.Sprintf(format, args...)
	return f
}

// failf makes an error that ends the program with code.
func failf(code int, format string, args ...any) *failure {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

// usagef says that the command line is wrong.
func usagef(format string, args ...any) *failure { return failf(ExitUsage, format, args...) }

// exitCode is the exit code that err ends the program with.
func exitCode(err error) int {
	var f *failure
	var code exit
	var t *tampering
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &t):
		return ExitTampered
	case errors.As(err, &f):
		return f.code
	}
	return access.CodeOf(err).ExitCode()
}

// hintOf is the next thing to do about err, or "".
func hintOf(err error) string {
	var f *failure
	if errors.As(err, &f) && f.hint != "" {
		return f.hint
	}
	return access.HintOf(err)
}

// besides is hint, behind what err itself says to do next.
func besides(err error, hint string) string {
	if first := access.HintOf(err); first != "" {
		return first + "; " + hint
	}
	return hint
}

// report writes err as one line and its hint as a second. A service whose errors
// go to a log has both in its last line: that is the one which is looked at.
func (a *app) report(err error) {
	hint := hintOf(err)
	if hint != "" && a.daemon && !a.err.tty {
		a.err.Printf("hallpass: %s; try: %s\n", err, hint)
		return
	}
	a.err.Printf("hallpass: %s\n", err)
	if hint != "" {
		a.err.Printf("  %s %s\n", a.err.dim("try:"), hint)
	}
}
