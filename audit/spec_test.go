package audit

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

// Whoever writes a second verifier has docs/spec/audit-log.md and nothing
// else, and has to refuse what isn't in it: so all of it is, in its order.
func TestSpecNamesEveryField(t *testing.T) {
	data, err := os.ReadFile("../docs/spec/audit-log.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "| field | content |\n")
	table, rest, _ := strings.Cut(rest, "\n\n")
	var named []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(table, -1) {
		named = append(named, m[1])
	}
	if diff := cmp.Diff(fieldsOf[Event](false), named); diff != "" {
		t.Errorf("the table of leaves (-code +spec):\n%s", diff)
	}

	_, rest, _ = strings.Cut(rest, "| object | fields")
	objects, rest, _ := strings.Cut(rest, "\n\n")
	for name, want := range map[string][]string{
		"statement":  fieldsOf[access.Statement](true),
		"evidence":   fieldsOf[access.Evidence](true),
		"handle":     fieldsOf[access.Handle](true),
		"credential": fieldsOf[access.Credential](true),
		"digests":    fieldsOf[access.Digests](true),
		"file":       fieldsOf[File](true),
		"host":       fieldsOf[Host](true),
	} {
		m := regexp.MustCompile("(?m)^\\| `" + name + "` \\| (.*) \\|$").FindStringSubmatch(objects)
		if m == nil {
			t.Errorf("object %s is missing", name)
			continue
		}
		if diff := cmp.Diff(want, strings.Split(strings.ReplaceAll(m[1], "`", ""), ", ")); diff != "" {
			t.Errorf("object %s (-code +spec):\n%s", name, diff)
		}
	}
	ruling := regexp.MustCompile("(?m)^\\| `ruling` \\| .*$").FindString(objects)
	at := 0
	for _, f := range fieldsOf[access.Ruling](true) {
		next := strings.Index(ruling[at:], "`"+f+"`")
		if next < 0 {
			t.Fatalf("ruling has no %s in its place: %s", f, ruling)
		}
		at += next
	}

	_, types, _ := strings.Cut(rest, "### Types")
	types, _, _ = strings.Cut(types, "\n## ")
	for _, typ := range Types() {
		if !strings.Contains(types, "`"+typ+"`") {
			t.Errorf("type %s is missing", typ)
		}
	}
}

// fieldsOf are the fields of a type as JSON has them, with a question mark at
// those that may be missing, where that is asked for.
func fieldsOf[T any](optional bool) (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if optional && strings.HasPrefix(options, "omit") {
			name += "?"
		}
		names = append(names, name)
	}
	return names
}
