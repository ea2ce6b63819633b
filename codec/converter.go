package codec

import (
	"context"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
)

// Converter is the Temporal client's data converter with this ring.
//
// In a workflow, what can't be decrypted for want of a key panics, which has
// Temporal try again until a worker has the key. An error would end the request
// for good. A message is an exception: it isn't heard, because anybody might
// make one up that names a key which nobody has.
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
	if access.CodeOf(err) != access.CodeNotFound {
		return err
	}
	for _, v := range to {
		if _, message := v.(*access.Statement); message {
			return err
		}
	}
	panic(err.Error())
}
