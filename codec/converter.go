package codec

import (
	"context"
	"encoding/json"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
)

// Converter is the Temporal client's data converter with this ring.
//
// In a workflow, what can't be decrypted for want of a key panics, which has
// Temporal try again until a worker has the key. An error would end the request
// for good. A message is an exception: nothing waits for it, because anybody
// might make one up that names a key which nobody has. Who takes messages as
// *access.Statement doesn't hear it. Who takes them as *json.RawMessage hears
// in its place, which is no statement, what is wrong with it: it takes the same
// steps then as one that can be read, so that a worker that has the key by then
// can replay it.
func (r *Ring) Converter() converter.DataConverter {
	return converting{converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), r)}
}

// converting is what activities and clients convert with.
type converting struct{ converter.DataConverter }

var _ workflow.ContextAware = converting{}

func (c converting) WithContext(context.Context) converter.DataConverter { return c }

func (c converting) WithWorkflowContext(workflow.Context) converter.DataConverter {
	return patient(c)
}

// patient is what workflows convert with.
type patient struct{ converter.DataConverter }

func (p patient) FromPayloads(payloads *commonpb.Payloads, to ...any) error {
	err := p.DataConverter.FromPayloads(payloads, to...)
	if err == nil {
		return nil
	}
	if raw, message := only(to).(*json.RawMessage); message && sealed(payloads) {
		*raw = json.RawMessage(err.Error())
		return nil
	}
	if access.CodeOf(err) != access.CodeNotFound {
		return err
	}
	if _, message := only(to).(*access.Statement); message {
		return err
	}
	panic(err.Error())
}

// only is the one thing that a message is read into.
func only(to []any) any {
	if len(to) != 1 {
		return nil
	}
	return to[0]
}

func sealed(payloads *commonpb.Payloads) bool {
	for _, p := range payloads.GetPayloads() {
		if string(p.GetMetadata()[converter.MetadataEncoding]) == Encoding {
			return true
		}
	}
	return false
}
