package yamlfile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hallpass/access"
)

// read turns a file of the shape "name: text" or "name: [texts]" into lines.
func read(data string) ([]string, error) {
	root, err := Parse("f.yaml", []byte(data))
	if err != nil {
		return nil, err
	}
	var got []string
	err = root.Each(func(key string, at, value Node) error {
		if list, err := value.Texts(func(string) error { return nil }); err == nil {
			got = append(got, fmt.Sprintf("%s=%q", key, list))
			return nil
		}
		s, err := value.Text()
		got = append(got, fmt.Sprintf("%s=%q", key, s))
		return err
	})
	return got, err
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, data string
		want       []string
	}{
		{"block", "a: b\nc: d\n", []string{`a="b"`, `c="d"`}},
		{"flow", "{a: b, c: [d, e]}", []string{`a="b"`, `c=["d" "e"]`}},
		{"list", "a:\n  - b\n  - 'c d'\n", []string{`a=["b" "c d"]`}},
		{"quotes", `"a": 'it''s'`, []string{`a="it's"`}},
		{"numbers in quotes", "a: \"1\"\n'2': 'true'", []string{`a="1"`, `2="true"`}},
		{"comments", "# x\na: b # y\n", []string{`a="b"`}},
		{"document marks", "# x\n---\na: b\n...\n# y\n", []string{`a="b"`}},
		{"dos", "a: b\r\nc: d\r\n", []string{`a="b"`, `c="d"`}},
		{"empty list", "a: []", []string{`a=[]`}},
		{"as deep as may be", "a: [b]\nc: " + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth), nil},
		{"indented as far as may be", strings.Repeat(" ", maxIndent-1) + "a: b", []string{`a="b"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want == nil {
				if _, err := Parse("f.yaml", []byte(tt.data)); err != nil {
					t.Fatal(err)
				}
				return
			}
			got, err := read(tt.data)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"nothing", "", "1:1: file is empty"},
		{"comment only", "# x\n", "1:1: file is empty"},
		{"list", "- a\n", "1:1: this is a list; it has to be a mapping (name: value)"},
		{"text", "a\n", "1:1: this has to be a mapping (name: value)"},
		{"two documents", "a: b\n---\nc: d\n", "2:1: a second document begins here; there can be only one"},
		{"document after end", "a: b\n...\nc: d\n", "3:1: a second document begins here; there can be only one"},
		{"two headers", "---\n---\na: b\n", "2:1: a second document begins here; there can be only one"},
		{"anchor", "a: &x b\n", "1:4: anchors and aliases are not supported"},
		{"alias", "a: *x\n", "1:4: anchors and aliases are not supported"},
		{"bomb", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "1:4: anchors and aliases are not supported"},
		{"tag", "a: !!str 1\n", "1:4: tags are not supported"},
		{"merge", "<<: {a: b}\n", `1:1: "<<" is not supported`},
		{"complex key", "? a\n: b\n", `1:1: "?" is not supported`},
		{"directive", "%YAML 1.2\n---\na: b\n", "1:1: directives are not supported"},
		{"repeated key", "a: b\n# x\na: c\n", `3:1: "a" is already there, in line 1`},
		{"repeated key in quotes", "a: b\n\"a\": c\n", `2:1: "a" is already there, in line 1`},
		{"null", "a: ~\n", "1:4: value is missing; it has to be text"},
		{"nothing behind colon", "x: y\na:\n", "2:4: value is missing; it has to be text"},
		{"number", "a: 1\n", "1:4: 1 is not text for YAML; write it in quotes"},
		{"truth", "a: true\n", "1:4: true is not text for YAML; write it in quotes"},
		{"number as key", "1: b\n", "1:1: 1 is not text for YAML; write it in quotes"},
		{"mapping for text", "a: {b: c}\n", "1:4: this is a mapping; it has to be text"},
		{"comment for an item", "a:\n  - # x\n  - b\n", "2:3: list item is missing behind the dash"},
		{"empty lines", "a: |\n" + strings.Repeat("\n", 102), "2:1: more than 100 empty lines begin here"},
		{"empty item", "a:\n  -\n  - b\n", "2:3: list item is missing behind the dash"},
		{"last item empty", "a:\n  -", "2:3: list item is missing behind the dash"},
		{"block scalar", "a: |\n  b\n", "1:4: text over several lines is not supported"},
		{"folded scalar", "a: >\n  b\n", "1:4: text over several lines is not supported"},
		{"open list", "a: [b\n", "1:4: sequence end token ']' not found"},
		{"open quote", "a: \"b\n", "1:4: could not find end character of double-quoted text"},
		{"tab", "\ta: b\n", "1:2: tab character cannot use as a map key directly"},
		{"zero byte", "a: b\nc: \x00\n", "2:1: line is not valid UTF-8 text"},
		{"lone carriage return", "a: b\rc: d\n", "1:1: line is not valid UTF-8 text"},
		{"not UTF-8", "a: b\nc: \xff\n", "2:1: line is not valid UTF-8 text"},
		{"too deep", "a: " + strings.Repeat("[", maxDepth+1), "1:20: lists and mappings are nested more than 16 deep"},
		{"far too deep", strings.Repeat("[", MaxSize/8), "1:17: lists and mappings are nested more than 16 deep"},
		{"far too many dashes", strings.Repeat("- ", MaxSize/16), "1:33: lists and mappings are nested more than 16 deep"},
		{"far too many question marks", strings.Repeat("? ", MaxSize/16), `1:1: "?" is not supported`},
		{"indented too far", strings.Repeat(" ", maxIndent) + "a: b", "1:65: line is indented by more than 64 columns"},
		{"too many entries", strings.Repeat("a: b\n", maxEntries+1), "50001:2: file has more than 50000 entries"},
		{"too many items", "a: [" + strings.Repeat("b,", maxEntries), "1:100004: file has more than 50000 entries"},
		{"too long", strings.Repeat("#", MaxSize+1), "1:1: file is longer than 4194304 bytes"},
		{"terminal escape in key", "\"a\\e[31m\": b\n\"a\\e[31m\": b\n", `2:1: "a\x1b[31m" is already there, in line 1`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := read(tt.data)
			if want := "f.yaml:" + tt.want; err == nil || err.Error() != want {
				t.Fatalf("got  %v\nwant %s", err, want)
			}
			if access.CodeOf(err) != access.CodeMalformed {
				t.Errorf("code %q", access.CodeOf(err))
			}
		})
	}
}

func TestSizeInside(t *testing.T) {
	pad := "a: b\n#"
	if _, err := Parse("f", []byte(pad+strings.Repeat("x", MaxSize-len(pad)))); err != nil {
		t.Errorf("%d bytes: %v", MaxSize, err)
	}
}

func TestWrapKeepsHint(t *testing.T) {
	root, err := Parse("f.yaml", []byte("a:\n  b"))
	if err != nil {
		t.Fatal(err)
	}
	err = root.Fields(map[string]func(Node) error{"a": func(n Node) error {
		if n.Wrap(nil) != nil {
			t.Error("nil became an error")
		}
		return n.Wrap(access.Errorf(access.CodeForbidden, "100%% no").WithHint("try %q", "50%"))
	}})
	var e *access.Error
	if !errors.As(err, &e) || e.Message != "f.yaml:2:3: 100% no" || e.Hint != `try "50%"` {
		t.Errorf("got %+v", err)
	}
}

func TestUnknownField(t *testing.T) {
	root, err := Parse("f.yaml", []byte("a: b\nB: c"))
	if err != nil {
		t.Fatal(err)
	}
	err = root.Fields(map[string]func(Node) error{"a": func(Node) error { return nil }})
	if err == nil || err.Error() != `f.yaml:2:1: unknown field "B"` {
		t.Error(err)
	}
}

func TestTextsRefusesRepeats(t *testing.T) {
	root, err := Parse("f.yaml", []byte("a: [b, c, b]"))
	if err != nil {
		t.Fatal(err)
	}
	err = root.Each(func(_ string, _, v Node) error {
		_, err := v.Texts(func(string) error { return nil })
		return err
	})
	if err == nil || err.Error() != `f.yaml:1:11: "b" is there twice` {
		t.Error(err)
	}
}

// FuzzParse looks for panics and for errors without a place.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "a: b", "a: [b, c]\nd: {e: f}", "- a\n- b", "a:\n  - b: c\n    d: e\n", "---\na: b\n...\n", "a: \"\\x41\"", "a: 'x", "? a", "&a b", "!!a b", "{", "}", "a: |\n b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		root, err := Parse("f.yaml", data)
		if err == nil {
			err = walk(root, 0)
		}
		if err == nil {
			return
		}
		if !strings.HasPrefix(err.Error(), "f.yaml:") || strings.ContainsAny(err.Error(), "\n\x1b\x00") {
			t.Errorf("error %q", err)
		}
	})
}

// walk visits everything; a value that is of no kind is an error.
func walk(n Node, depth int) error {
	if depth > 100 {
		return n.Errorf("too deep")
	}
	if _, err := n.Text(); err == nil {
		return nil
	}
	if err := n.List(func(item Node) error { return walk(item, depth+1) }); err == nil {
		return nil
	}
	return n.Each(func(_ string, _, v Node) error { return walk(v, depth+1) })
}
