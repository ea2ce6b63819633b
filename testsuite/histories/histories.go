// Package histories keeps recorded histories of real requests, one for each
// way a request can end, and of what else is a workflow, and replays them with the
// workflows of today: what doesn't replay would block every one that was under way
// when a new version is started.
//
// A recording that fails to replay is not to be replaced: guard the change with
// workflow.GetVersion, and record anew under another name when the old path is
// gone. What isn't there yet is recorded with
//
//	go run ./testsuite/histories/record -hallpass bin/hallpass
//
// and once for each release into a folder named for it, v1.2.3.
package histories

import (
	"context"
	"fmt"
	"os"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Download fetches the whole history of a workflow. The run may be "", for the
// latest.
func Download(ctx context.Context, c client.Client, workflow, run string) (*history.History, error) {
	events := c.GetWorkflowHistory(ctx, workflow, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var h history.History
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			return nil, fmt.Errorf("history of %s: %w", workflow, err)
		}
		h.Events = append(h.Events, event)
	}
	return &h, nil
}

// Write writes a history as the JSON that Temporal's tools and replayers read,
// without the names of the machines and processes that it ran on.
func Write(path string, h *history.History) error {
	anonymize(h.ProtoReflect())
	data, err := temporalproto.CustomJSONMarshalOptions{Indent: "  "}.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode history: %w", err)
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// Read reads what Write has written.
func Read(path string) (*history.History, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	h, err := client.HistoryFromJSON(f, client.HistoryJSONOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// anonymize takes out who ran it, which nothing replays by: identities, and
// the names of the queues that workers keep to themselves.
func anonymize(m protoreflect.Message) {
	if queue, ok := m.Interface().(*taskqueue.TaskQueue); ok && queue.Kind == enums.TASK_QUEUE_KIND_STICKY {
		queue.Name = "sticky"
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Name() == "identity" && field.Kind() == protoreflect.StringKind:
			m.Set(field, protoreflect.ValueOfString("anonymous"))
		case field.IsMap() || field.Kind() != protoreflect.MessageKind:
		case field.IsList():
			for i := range value.List().Len() {
				anonymize(value.List().Get(i).Message())
			}
		default:
			anonymize(value.Message())
		}
		return true
	})
}
