package activities_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/temporal"

	"hallpass/access"
	"hallpass/activities"
)

// What is final and what is worth another try.
func TestFail(t *testing.T) {
	denied := access.Errorf(access.CodeDenied, "no").WithHint("ask bob")
	for _, test := range []struct {
		name string
		err  error
		want *access.Error // nil: worth another try
	}{
		{"a refusal", denied, denied},
		{"a refusal, wrapped", fmt.Errorf("judge: %w", denied), &access.Error{Code: access.CodeDenied, Message: "judge: no", Hint: "ask bob"}},
		{"every other code", access.Errorf(access.CodeStale, "old"), access.Errorf(access.CodeStale, "old")},
		{"unavailable", access.Errorf(access.CodeUnavailable, "down"), nil},
		{"unavailable, wrapped", fmt.Errorf("record: %w", access.Errorf(access.CodeUnavailable, "down")), nil},
		{"anything else", errors.New("disk full"), nil},
		{"out of time", context.DeadlineExceeded, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			failure := activities.Fail(test.err)
			if diff := cmp.Diff(test.want, activities.Refusal(carried(failure))); diff != "" {
				t.Errorf("refusal (-want +got):\n%s", diff)
			}
			var app *temporal.ApplicationError
			if !errors.As(failure, &app) || app.NonRetryable() != (test.want != nil) {
				t.Errorf("%#v is retried: want %t", failure, test.want == nil)
			}
		})
	}
	if err := activities.Fail(nil); err != nil {
		t.Errorf("Fail(nil) = %v", err)
	}
}

// What Fail hasn't made is no refusal, whatever it looks like.
func TestRefusal(t *testing.T) {
	for name, err := range map[string]error{
		"nil":                 nil,
		"plain":               errors.New("no"),
		"failed by hand":      temporal.NewNonRetryableApplicationError("by hand", "", nil),
		"type without detail": temporal.NewNonRetryableApplicationError("no", string(access.CodeDenied), nil),
		"detail of a kind":    temporal.NewNonRetryableApplicationError("no", string(access.CodeDenied), nil, "denied"),
		"another code inside": temporal.NewNonRetryableApplicationError("no", string(access.CodeDenied), nil, access.Error{Code: access.CodeStale}),
		"no code":             temporal.NewNonRetryableApplicationError("no", "", nil, access.Error{Message: "no"}),
		"retryable":           temporal.NewApplicationError("no", string(access.CodeDenied), access.Error{Code: access.CodeDenied}),
		"cancelled":           temporal.NewCanceledError(),
	} {
		if refusal := activities.Refusal(carried(err)); refusal != nil {
			t.Errorf("%s: is taken for the refusal %+v", name, refusal)
		}
	}
}

// carried is err as it arrives on the other side of Temporal.
func carried(err error) error {
	converter := temporal.GetDefaultFailureConverter()
	return converter.FailureToError(converter.ErrorToFailure(err))
}
