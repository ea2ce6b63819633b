package activities

import (
	"errors"

	"go.temporal.io/sdk/temporal"

	"hallpass/access"
)

// Fail turns err into what Temporal has to see. A refusal (an *access.Error in
// err's chain) is final: its code becomes the failure's type and the refusal
// itself, with its hint, the details. Everything else, and CodeUnavailable, is
// worth another try, for ever: a part that is down delays a request and never
// ends it.
func Fail(err error) error {
	if err == nil {
		return nil
	}
	var e *access.Error
	if !errors.As(err, &e) || e.Code == access.CodeUnavailable {
		return temporal.NewApplicationError(err.Error(), string(access.CodeUnavailable))
	}
	refusal := access.Error{Code: e.Code, Message: err.Error(), Hint: e.Hint}
	return temporal.NewNonRetryableApplicationError(refusal.Message, string(refusal.Code), nil, refusal)
}

// Refusal is the refusal that came back through Temporal, from an activity to
// the workflow or from an update to the client, or nil if err isn't one that
// Fail made.
func Refusal(err error) *access.Error {
	var app *temporal.ApplicationError
	if !errors.As(err, &app) || !app.NonRetryable() || !app.HasDetails() {
		return nil
	}
	var refusal access.Error
	if app.Details(&refusal) != nil || string(refusal.Code) != app.Type() || refusal.Code == "" {
		return nil
	}
	return &refusal
}

// again is Fail for work that has no refusals: whatever goes wrong is tried
// again.
func again(err error) error {
	if err == nil {
		return nil
	}
	return temporal.NewApplicationError(err.Error(), string(access.CodeUnavailable))
}
