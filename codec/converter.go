package codec

import (
	"context"
	"encoding/json"
	"slices"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
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
	dc := converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), r)
	return &converting{dc, &patient{dc}}
}

// converting is what activities and clients convert with. It is asked for what a workflow
// converts with for each of its channels, which keep it as long as they are there.
type converting struct {
	converter.DataConverter
	workflows *patient
}

var _ workflow.ContextAware = (*converting)(nil)

func (c *converting) WithContext(context.Context) converter.DataConverter { return c }

func (c *converting) WithWorkflowContext(workflow.Context) converter.DataConverter {
	return c.workflows
}

// patient is what workflows convert with.
type patient struct{ converter.DataConverter }

func (p *patient) FromPayloads(payloads *commonpb.Payloads, to ...any) error {
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

// FailureConverter is the Temporal client's failure converter with this ring.
// Messages and stacks are encrypted, too, if anything is.
//
// What an activity failed with is waited for in a workflow, as Converter does:
// a refusal that can't be read would be taken for none.
func (r *Ring) FailureConverter() converter.FailureConverter {
	return failing{r, temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{
		DataConverter: r.Converter(), EncodeCommonAttributes: r.path != "",
	})}
}

// failing is what activities and clients convert failures with.
type failing struct {
	ring *Ring
	converter.FailureConverter
}

var _ converter.FailureConverterWithSerializationContext = failing{}

// WithSerializationContext is how the SDK asks for what a workflow reads the
// failures of its activities with.
func (f failing) WithSerializationContext(ctx converter.SerializationContext) converter.FailureConverter {
	if _, ok := ctx.(converter.ActivitySerializationContext); ok {
		return patiently(f)
	}
	return f
}

// patiently is what workflows read failures of activities with.
type patiently failing

func (p patiently) FailureToError(failure *failurepb.Failure) error {
	for f := failure; f != nil; f = f.GetCause() {
		payloads := f.GetApplicationFailureInfo().GetDetails().GetPayloads()
		if f.GetEncodedAttributes() != nil {
			payloads = append(slices.Clone(payloads), f.GetEncodedAttributes())
		}
		if _, err := p.ring.Decode(payloads); access.CodeOf(err) == access.CodeNotFound {
			panic(err.Error())
		}
	}
	return p.FailureConverter.FailureToError(failure)
}
