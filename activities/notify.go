package activities

import (
	"context"
	"slices"

	"go.temporal.io/sdk/activity"

	"hallpass/notify"
)

// NotifyInput is a message, and which channels have had it.
type NotifyInput struct {
	Message notify.Message `json:"message"`
	Had     []string       `json:"had,omitempty"`
}

// NotifyOutput says which channels have had it now, and whether it is worth
// another try because some haven't.
type NotifyOutput struct {
	Had   []string `json:"had,omitempty"`
	Again bool     `json:"again,omitempty"`
}

// Notify tells the channels of this worker. That one of them can't be reached
// is no error: what became of the others has to be known, so that nobody is told
// twice.
func (a *Activities) Notify(ctx context.Context, in NotifyInput) (NotifyOutput, error) {
	out := NotifyOutput{Had: in.Had}
	if a.Channels == nil {
		return out, nil
	}
	has := func(channel string) bool { return slices.Contains(out.Had, channel) }
	err := a.Channels.Send(ctx, in.Message, has, func(channel string) { out.Had = append(out.Had, channel) })
	if out.Again = err != nil; out.Again {
		activity.GetLogger(ctx).Warn("not everybody was told", "request", in.Message.Request, "event", in.Message.Event, "error", err)
	}
	return out, nil
}
