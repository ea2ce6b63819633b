package access

import (
	"encoding/json"
	"fmt"
	"testing"
)

// What has no value that conditions could see counts as failed, whatever it is.
func TestFacts(t *testing.T) {
	f := Facts{
		"good": {Value: json.RawMessage(`{"n":1}`)}, "null": {Value: json.RawMessage(`null`)},
		"failed": {Failed: "no answer"}, "both": {Value: json.RawMessage(`1`), Failed: "late"},
		"empty": {}, "garbage": {Value: json.RawMessage(`{`)}, "huge": {Value: json.RawMessage(`1e999`)},
	}
	if got := fmt.Sprint(f.Unknown()); got != "[both empty failed garbage huge]" {
		t.Error(got)
	}
	if got := fmt.Sprint(f.Values()); got != "map[good:map[n:1] null:<nil>]" {
		t.Error(got)
	}
	if got := f.Failed(); len(got) != 5 || got[2] != "look-up failed failed: no answer" {
		t.Errorf("%q", got)
	}
	if Facts(nil).Values() != nil || Facts(nil).Unknown() != nil {
		t.Error("no facts are something")
	}
}
