package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hallpass/access"
)

// What OCSF 1.5.0 requires, by class: the attributes with "requirement":
// "required" of base_event.json and of the class itself, and the constraints
// "at_least_one" (https://github.com/ocsf/ocsf-schema, tag v1.5.0: events/base_event.json
// with its includes classification and occurrence, events/iam/*.json, objects/*.json).
// That privileges are named is our own demand.
var (
	ocsfRequired = []string{"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}

	ocsfByClass = map[float64]struct {
		required   []string
		atLeastOne []string
		activities []float64 // those of the enum that we may use
	}{
		3001: {[]string{"user"}, nil, []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99}},
		3002: {[]string{"user"}, []string{"service", "dst_endpoint"}, []float64{1, 2, 3, 4, 5, 99}},
		3004: {[]string{"entity"}, nil, []float64{1, 2, 3, 4, 99}},
		3005: {[]string{"user", "privileges"}, nil, []float64{1, 2, 99}},
	}

	// Of objects: attributes that are required, and of which one has to be there.
	ocsfObjects = map[string][2][]string{
		"metadata":     {{"product", "version"}, nil},
		"product":      {{"name", "vendor_name"}, nil},
		"user":         {nil, {"account", "name", "uid"}},
		"entity":       {nil, {"name", "uid"}},
		"actor":        {nil, {"process", "user", "invoked_by", "session", "app_name", "app_uid"}},
		"dst_endpoint": {nil, {"ip", "uid", "name", "hostname"}},
		"src_endpoint": {nil, {"ip", "uid", "name", "hostname"}},
		"account":      {nil, {"name", "uid"}},
		"session":      {nil, nil},
	}
)

// ocsfCheck holds one event to the tables.
func ocsfCheck(t *testing.T, e map[string]any) {
	t.Helper()
	has := func(o map[string]any, name string) bool {
		switch v := o[name].(type) {
		case nil:
			return false
		case string:
			return v != ""
		case []any:
			return len(v) > 0
		}
		return true
	}
	for _, name := range ocsfRequired {
		if !has(e, name) {
			t.Errorf("no %s in %v", name, e)
		}
	}
	class, ok := ocsfByClass[e["class_uid"].(float64)]
	if !ok {
		t.Fatalf("class %v", e["class_uid"])
	}
	for _, name := range class.required {
		if !has(e, name) {
			t.Errorf("class %v: no %s in %v", e["class_uid"], name, e)
		}
	}
	if class.atLeastOne != nil && !slices.ContainsFunc(class.atLeastOne, func(name string) bool { return has(e, name) }) {
		t.Errorf("class %v: none of %v in %v", e["class_uid"], class.atLeastOne, e)
	}
	activity := e["activity_id"].(float64)
	if !slices.Contains(class.activities, activity) || e["activity_name"] == "" {
		t.Errorf("class %v has no activity %v %v", e["class_uid"], activity, e["activity_name"])
	}
	if e["type_uid"] != e["class_uid"].(float64)*100+activity || e["category_uid"] != 3.0 {
		t.Errorf("type %v of class %v and activity %v", e["type_uid"], e["class_uid"], activity)
	}
	if s := e["severity_id"].(float64); s < 1 || s > 6 {
		t.Errorf("severity %v", s)
	}
	if at := e["time"].(float64); at < float64(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()) {
		t.Errorf("time %v is not in milliseconds", at)
	}
	var objects func(map[string]any)
	objects = func(o map[string]any) {
		for name, v := range o {
			inner, ok := v.(map[string]any)
			if !ok || name == "unmapped" {
				continue
			}
			rule, ok := ocsfObjects[name]
			if !ok {
				t.Errorf("nobody knows what %s needs", name)
			}
			for _, want := range rule[0] {
				if !has(inner, want) {
					t.Errorf("%s has no %s: %v", name, want, inner)
				}
			}
			if rule[1] != nil && !slices.ContainsFunc(rule[1], func(name string) bool { return has(inner, name) }) {
				t.Errorf("%s has none of %v: %v", name, rule[1], inner)
			}
			objects(inner)
		}
	}
	objects(e)
}

func exported(t *testing.T, w *world, q Query) (out []map[string]any) {
	t.Helper()
	var b bytes.Buffer
	if err := w.log.ExportOCSF(context.Background(), &b, q); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		out = append(out, e)
	}
	return out
}

// Every event of a log in which everything happens is a valid one of its class.
func TestExportOCSF(t *testing.T) {
	w, r, c := visited(t)
	w.rulebook("locks: {groups: [security]}\n" + hostsPolicy)
	for _, event := range []string{access.SessionOpened, access.SessionClosed} {
		st := w.report("agent", c, func(s *access.Session) { s.Event = event })
		if err := w.log.Report(context.Background(), st, w.on); err != nil {
			t.Fatal(err)
		}
	}
	w.end(End{Request: r.ID, State: access.StateExpired})
	w.live()
	for _, l := range []access.Lock{{Kind: access.LockUser, Name: "alice"}, {Kind: access.LockResource, Name: "ssh/web-1"}} {
		l.Header, l.Action, l.Reason = w.header(access.TypeLock, "carol"), access.ActionLock, "stolen laptop"
		if _, err := w.log.Lock(context.Background(), w.book, w.sign("carol", l), w.now); err != nil {
			t.Fatal(err)
		}
	}
	for _, typ := range []string{RulebookBroken, SweepStuck, CredentialRefused, StatementRefused} {
		w.record(Event{Type: typ, Code: access.CodeUnverified, Why: "something \x1b[31m odd"})
	}
	all := exported(t, w, Query{})
	if report := w.verify(VerifyOptions{}); int64(len(all)) != report.Size {
		t.Errorf("%d events of %d", len(all), report.Size)
	}
	find := func(typ string) map[string]any {
		for _, e := range all {
			if e["metadata"].(map[string]any)["event_code"] == typ {
				return e
			}
		}
		t.Fatalf("no %s", typ)
		return nil
	}
	for i, e := range all {
		ocsfCheck(t, e)
		if e["metadata"].(map[string]any)["sequence"] != float64(i) {
			t.Errorf("event %d says it is %v", i, e["metadata"])
		}
	}
	issued := find(CredentialIssued)
	if issued["class_name"] != "User Access Management" || issued["privileges"].([]any)[0] != "web-1/deploy" ||
		issued["user"].(map[string]any)["name"] != "alice" || issued["resources"].([]any)[0].(map[string]any)["name"] != "ssh/web-1" {
		t.Errorf("issued: %v", issued)
	}
	logon := find(SessionOpened)
	if logon["src_endpoint"].(map[string]any)["ip"] != "10.0.0.1" || logon["dst_endpoint"].(map[string]any)["hostname"] != "web-1" ||
		logon["user"].(map[string]any)["account"].(map[string]any)["name"] != "deploy" || logon["actor"] != nil {
		t.Errorf("logon: %v", logon)
	}
	lock := find(LockSet)
	if lock["class_uid"] != 3001.0 || lock["activity_id"] != 9.0 || lock["user"].(map[string]any)["name"] != "alice" ||
		lock["actor"].(map[string]any)["user"].(map[string]any)["name"] != "carol" {
		t.Errorf("lock: %v", lock)
	}
	if refused := find(CredentialRefused); refused["status_id"] != 2.0 || refused["status_code"] != string(access.CodeUnverified) {
		t.Errorf("refused: %v", refused)
	}
	// What a type becomes that isn't in the table.
	if ocsf := ocsfOf(Record{Event: Event{Type: "request.new-kind", Request: "x"}}, "log"); ocsf.ClassUID != ocsfEntity || ocsf.Entity.UID != "x" {
		t.Errorf("unknown type: %+v", ocsf)
	}
}

// Every mapping is in the documentation, as it is.
func TestOCSFTableIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/spec/ocsf.md")
	if err != nil {
		t.Fatal(err)
	}
	for typ, kind := range ocsfKinds {
		row := ""
		for line := range strings.Lines(string(page)) {
			if strings.HasPrefix(line, "| `"+typ+"` |") {
				row = line
			}
		}
		for _, want := range []string{ocsfClasses[kind.class], kind.name} {
			if !strings.Contains(row, want) {
				t.Errorf("docs/spec/ocsf.md says of %s: %q, without %q", typ, row, want)
			}
		}
	}
	if !strings.Contains(string(page), ocsfVersion) {
		t.Error("docs/spec/ocsf.md doesn't name the version")
	}
}
