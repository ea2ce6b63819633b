package service

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
	"hallpass/evidence"
	"hallpass/testsuite/openapitest"
	"hallpass/transport"
)

var update = flag.Bool("update", false, "write the schemas of openapi.yaml anew")

// Every route is described, and nothing else is.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	spec, err := openapitest.Parse(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, r := range (&server{}).routes() {
		routes = append(routes, r.pattern)
	}
	slices.Sort(routes)
	if diff := cmp.Diff(routes, spec.Operations()); diff != "" {
		t.Errorf("routes (-served +described):\n%s", diff)
	}
}

// The schemas are those of the types that answers are encoded from.
func TestOpenAPISchemas(t *testing.T) {
	const mark = "  schemas:\n"
	head, _, _ := strings.Cut(string(openAPI), mark)
	want := head + mark + schemas()
	if *update {
		if err := os.WriteFile("openapi.yaml", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(openAPI), want); diff != "" {
		t.Errorf("openapi.yaml is behind; go test ./service -run OpenAPISchemas -update\n%s", diff)
	}
}

// schemas writes the schemas of all that is sent and answered.
func schemas() string {
	w := &schemaWriter{done: map[string]string{}}
	for name, v := range map[string]any{
		"Error": access.Error{}, "Statement": access.Statement{}, "Submitted": transport.Submitted{},
		"StatusAnswer": transport.StatusAnswer{}, "LockAnswer": transport.LockAnswer{}, "Summary": transport.Summary{},
		"HeldLock": evidence.Held{}, "HeldDelegation": evidence.Delegated{}, "Delegated": access.Delegated{}, "User": access.User{}, "ReviewTask": access.ReviewTask{},
		"Joining": joining{}, "Renewing": renewing{}, "Enrolled": access.Enrolled{}, "Reporting": reporting{}, "Reported": reported{},
		"Certificates": certificates{},
	} {
		w.named(name, reflect.TypeOf(v))
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.done)) {
		out.WriteString("    " + name + ":\n" + w.done[name])
	}
	return out.String()
}

type schemaWriter struct{ done map[string]string }

// named writes the schema of a struct, or of a word that is one of a few.
func (w *schemaWriter) named(name string, t reflect.Type) string {
	if _, ok := w.done[name]; ok {
		return name
	}
	w.done[name] = ""
	if t == reflect.TypeFor[access.State]() {
		var states []string
		for _, s := range access.States() {
			states = append(states, string(s))
		}
		w.done[name] = "      {type: string, enum: [" + strings.Join(states, ", ") + "]}\n"
		return name
	}
	var properties, required []string
	for _, f := range reflect.VisibleFields(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || tag == "" || tag == "-" {
			continue
		}
		optional := strings.Contains(options, "omit")
		properties = append(properties, "        "+tag+": "+w.of(f.Type, optional)+"\n")
		if !optional {
			required = append(required, tag)
		}
	}
	s := "      type: object\n"
	if len(required) > 0 {
		s += "      required: [" + strings.Join(required, ", ") + "]\n"
	}
	w.done[name] = s + "      properties:\n" + strings.Join(properties, "")
	return name
}

// of is the schema of a field in one line. What may be nil and is written all
// the same is null then.
func (w *schemaWriter) of(t reflect.Type, optional bool) string {
	kind := func(name string) string {
		if optional {
			return name
		}
		return `[` + name + `, "null"]`
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "{type: string, format: date-time}"
	case t == reflect.TypeFor[json.RawMessage]():
		return "{}"
	case t == reflect.TypeFor[access.State]():
		return "{$ref: \"#/components/schemas/" + w.named("State", t) + "\"}"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return w.of(t.Elem(), optional)
	case reflect.String:
		return "{type: string}"
	case reflect.Bool:
		return "{type: boolean}"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "{type: integer}"
	case reflect.Slice:
		return "{type: " + kind("array") + ", items: " + w.of(t.Elem(), true) + "}"
	case reflect.Map:
		return "{type: " + kind("object") + ", additionalProperties: " + w.of(t.Elem(), true) + "}"
	case reflect.Struct:
		name := t.Name()
		return "{$ref: \"#/components/schemas/" + w.named(strings.ToUpper(name[:1])+name[1:], t) + "\"}"
	}
	panic(fmt.Sprintf("no schema for %s", t))
}
