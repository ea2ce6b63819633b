package testsuite

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"hallpass/access"
)

// cmdListed waits until Temporal finds as many workflows as it should.
func cmdListed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "listed COUNT QUERY")
	listed(ts, worldOf(ts).dial(ts, "default"), args[0], args[1])
}

func listed(ts *testscript.TestScript, c client.Client, count, query string) {
	ts.Check(poll(count+" workflows with "+query, func() (bool, error) {
		found, err := c.CountWorkflow(context.Background(), &workflowservice.CountWorkflowExecutionsRequest{Query: query})
		if err != nil {
			return false, err
		}
		if is := strconv.FormatInt(found.GetCount(), 10); is != count {
			return false, fmt.Errorf("there are %s", is)
		}
		return true, nil
	}))
}

// cmdRelisted has a workflow show one list of names after the other, of which a request's
// only grows, and sees that Temporal finds it by what it shows and by nothing else.
func cmdRelisted(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "relisted")
	c, ctx := worldOf(ts).dial(ts, "default"), context.Background()
	names := temporal.NewSearchAttributeKeyKeywordList(access.AttrApprovers)
	show := func(ctx workflow.Context) error {
		for {
			var next []string
			workflow.GetSignalChannel(ctx, "show").Receive(ctx, &next)
			update := names.ValueSet(next)
			if len(next) == 0 {
				update = names.ValueUnset()
			}
			if err := workflow.UpsertTypedSearchAttributes(ctx, update); err != nil {
				return err
			}
		}
	}
	w := sdkworker.New(c, "relisted", sdkworker.Options{})
	w.RegisterWorkflowWithOptions(show, workflow.RegisterOptions{Name: "show"})
	ts.Check(w.Start())
	defer w.Stop()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "relisted", TaskQueue: "relisted"}, "show")
	ts.Check(err)
	var had []string
	for _, has := range [][]string{{"xavier", "yves"}, {"yves", "zoe"}, nil, {"xavier"}} {
		ts.Check(c.SignalWorkflow(ctx, run.GetID(), "", "show", has))
		for _, name := range has {
			listed(ts, c, "1", access.AttrApprovers+" = '"+name+"'")
		}
		for _, name := range had {
			if !slices.Contains(has, name) {
				listed(ts, c, "0", access.AttrApprovers+" = '"+name+"'")
			}
		}
		had = has
	}
	ts.Check(c.TerminateWorkflow(ctx, run.GetID(), "", "by the test"))
}
